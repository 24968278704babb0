//! The commands of the book on two hosts of the lab, one chapter after the other.

use crate::lab::{Lab, Place, ripstop};
use std::{fs, path::Path, thread, time::Duration};

/// The chapters with commands for the lab's hosts; that of operations ends with a host that is shut out.
const CHAPTERS: [&str; 3] = ["first.md", "troubleshooting.md", "operations.md"];
/// The lab wants a graph to be built of; nothing of it is used, as the hosts begin without anything.
const NOTHING: &str = "
tenants:
  none:
    workloads:
      nobody: { on: [alpha], run: { netns: nobody } }
";
/// What every block begins with: the hosts' own `/var/lib`, and the binary under test, have been prepared. Programs are those of
/// the system, which all users may run.
const PREPARED: &str = "export PATH=/run/book:/usr/sbin:/usr/bin:/sbin:/bin HOME=/run/book; cd /run/book; set -e\n";
/// What the book writes in place of a token, which is another each time.
const TOKEN: &str = "rsj1_…";

/// What is left in the background is ready after this, as it is for who types the next command.
const BACKGROUND: Duration = Duration::from_secs(2);

/// A block of a chapter: on which host, whether it is to fail, and its commands.
struct Block {
    host: String,
    fails: bool,
    script: String,
}

fn blocks(chapter: &str) -> Vec<Block> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(chapter)).unwrap();
    let fences: Vec<_> = text.split("\n```").collect();
    let inside = fences.iter().skip(1).step_by(2).filter_map(|block| block.split_once('\n'));
    let in_the_lab = inside.filter_map(|(info, script)| {
        let mut words = info.strip_prefix("sh lab=")?.split(' ');
        let (host, fails) = (words.next()?.to_owned(), words.next() == Some("fails"));
        Some(Block { host, fails, script: script.to_owned() })
    });
    in_the_lab.collect()
}

/// `/var/lib` is all machines' own; here each has one, which is gone with it.
fn prepare(host: &Place) {
    let script = format!("mount -t tmpfs tmpfs /var/lib; mkdir -p /run/book; ln -s {} /run/book/ripstop", ripstop());
    host.sh(&script);
}

#[test]
fn all_of_them_do_what_the_book_says() {
    let lab = Lab::of(&["alpha", "beta"]).graph(NOTHING).without_agent("alpha").without_agent("beta").start();
    for host in ["alpha", "beta"] {
        prepare(&lab.host(host));
    }
    let mut token: Option<String> = None;
    for (chapter, block) in
        CHAPTERS.iter().flat_map(|chapter| blocks(chapter).into_iter().map(move |block| (chapter, block)))
    {
        let script = match &token {
            Some(token) => block.script.replace(TOKEN, token),
            None => block.script.clone(),
        };
        let output = lab.host(&block.host).run(&["bash", "-c", &format!("{PREPARED}{script}")]);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.success(), !block.fails, "{chapter}, on {}:\n{script}\n{said}", block.host);
        if block.script.trim_end().ends_with('&') {
            thread::sleep(BACKGROUND);
        }
        let shown = said.split_whitespace().find(|word| word.starts_with("rsj1_")).map(str::to_owned);
        token = shown.or(token);
    }
}
