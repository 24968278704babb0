//! Operators: who may change which part, how many must sign, and what becomes of hosts that were away meanwhile.

use crate::lab::{Lab, ripstop, within};
use nix::sys::signal::Signal;
use std::{fs, time::Duration};

const HOSTS: [&str; 3] = ["alpha", "beta", "gamma"];
/// How soon all have a policy once they can reach each other (the 5 s).
const CONVERGE: Duration = Duration::from_secs(5);

/// A shop with two tenants below it, and one that calls it.
const GRAPH: &str = "
tenants:
  shop: {}
  shop/eu:
    workloads:
      web: { on: [alpha], run: { netns: web } }
      api: { on: [beta], run: { netns: api } }
    services:
      api: { by: api, port: 8080/tcp, export: [billing] }
    allow:
      - { from: web, to: api }
  billing:
    workloads:
      bill: { on: [alpha], run: { netns: bill } }
    allow:
      - { from: bill, to: shop/eu/api }
";

struct Bed(Lab);

impl Bed {
    /// A lab with operators of `shop` and of `billing` beside the one who may change everything.
    fn new() -> Self {
        let bed = Self(Lab::of(&HOSTS).graph(GRAPH).signed().start());
        let (shop, billing) = (bed.keygen("shop", "shop"), bed.keygen("bill", "billing"));
        bed.operators(|text| format!("{}{shop}{billing}", text.trim_end().to_owned() + "\n"));
        bed
    }

    /// Makes a key for a tenant; returns the line for the file of operators.
    fn keygen(&self, name: &str, tenant: &str) -> String {
        let key = self.key(name);
        let said = self.0.host("alpha").ok(&[ripstop(), "operator", "keygen", name, "--tenant", tenant, "--out", &key]);
        let (comment, line) = said.split_once('\n').unwrap();
        assert!(comment.contains("SIGHUP") && line.starts_with(&format!("  {name}: {{ key: ed25519:")), "{said}");
        line.to_owned()
    }

    fn key(&self, name: &str) -> String {
        self.0.path(&format!("{name}.key"))
    }

    /// Changes the file of operators, which all hosts of the lab read, and has the agents read it again.
    fn operators(&self, edit: impl Fn(&str) -> String) {
        let file = self.0.file("operators.yaml");
        fs::write(&file, edit(&fs::read_to_string(&file).unwrap())).unwrap();
        HOSTS.iter().for_each(|host| self.0.agent(host).signal(Signal::SIGHUP));
    }

    /// Writes the lab's graph, changed.
    fn edited(&self, from: &str, to: &str) -> String {
        let file = self.0.file("graph.yaml");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{from}");
        fs::write(&file, text.replacen(from, to, 1)).unwrap();
        file.display().to_string()
    }

    fn try_apply(&self, key: &str, more: &[&str]) -> (i32, String) {
        let key = self.key(key);
        let line = [&[ripstop(), "apply", "--key", &key], more].concat();
        let done = self.0.host("alpha").run(&line);
        let said = [done.stdout, done.stderr].concat();
        (done.status.code().unwrap(), String::from_utf8(said).unwrap())
    }

    fn apply(&self, key: &str, more: &[&str]) -> String {
        let (code, said) = self.try_apply(key, more);
        assert_eq!(code, 0, "{said}");
        said
    }

    /// Waits until all these hosts run what alpha runs.
    fn agree(&self, hosts: &[&str]) {
        let newest = self.0.agent("alpha").version();
        for host in hosts {
            let what = format!("{newest} on {host}\n{}", self.0.agent(host).log());
            within(CONVERGE, &what, || self.0.agent(host).version() == newest);
        }
    }
}

#[test]
fn each_changes_its_own_part_alone_on_every_host_and_who_was_away_follows() {
    let bed = Bed::new();
    let first = bed.0.agent("alpha").version();
    // The operators were reloaded once a policy of one of the new ones is taken.
    let file = bed.edited("from: web, to: api", "from: web, to: api, limit: { sessions: 9 }");
    within(CONVERGE, "the operators of tenants", || bed.try_apply("shop", &[&file]).0 == 0);
    bed.agree(&HOSTS);
    assert_ne!(bed.0.agent("gamma").version(), first);

    // Another tenant's edge, and the fabric's own host.
    let before = bed.0.agent("alpha").version();
    let file = bed.edited("{ from: bill, to: shop/eu/api }", "{ from: bill, to: shop/eu/api, port: 8080 }");
    let (code, said) = bed.try_apply("shop", &[&file]);
    let part = "edge billing/bill -> shop/eu/api";
    assert!(code == 1 && said.contains(part) && said.contains("shop (limited to shop)"), "{code} {said}");
    bed.edited("{ from: bill, to: shop/eu/api, port: 8080 }", "{ from: bill, to: shop/eu/api }");
    bed.edited("  gamma:", "  delta: {}\n  gamma:");
    let (code, said) = bed.try_apply("bill", &[&file]);
    assert!(code == 1 && said.contains("host delta"), "{code} {said}");
    bed.edited("  delta: {}\n", "");
    assert_eq!(bed.0.agent("alpha").version(), before, "nothing has changed");

    // Two policies that no one signature could vouch for, while gamma is away: it goes through both.
    bed.0.link("gamma").unplug();
    // What it waits for is not what is tested: gamma is not known to be away yet.
    for (operator, (from, to)) in
        [("bill", ("shop/eu/api }", "shop/eu/api, port: 8080 }")), ("shop", ("s: 9", "s: 10"))]
    {
        let said = bed.try_apply(operator, &[&bed.edited(from, to), "--wait", "1ms"]).1;
        assert!(said.contains("policy 1."), "{operator}: {said}");
    }
    bed.agree(&["beta"]);
    assert_eq!(bed.0.agent("gamma").version(), before);
    bed.0.link("gamma").plug();
    bed.agree(&["gamma"]);

    two_at_once(&bed);
    countersigned(&bed);
}

/// Of two policies made from the same one, each within its part, one is lost: its operator is told, in time and afterwards.
fn two_at_once(bed: &Bed) {
    let saved = |operator: &str, (from, to): (&str, &str)| {
        let (file, bundle) = (bed.edited(from, to), bed.0.path(&format!("{operator}.bundle")));
        let said = bed.apply(operator, &[&file, "--save", &bundle]);
        bed.edited(to, from);
        (said.split_whitespace().nth(1).unwrap().to_owned(), operator.to_owned(), bundle)
    };
    let mut both = [saved("shop", ("s: 10", "s: 12")), saved("bill", ("port: 8080 }", "port: 8080/tcp }"))];
    // Their versions are the same, so the digests are compared.
    both.sort();
    let [(lost, loser, lost_file), (won, winner, won_file)] = both;
    // gamma is up for some seconds yet and runs neither, so the loser waits for it.
    bed.0.agent("gamma").signal(Signal::SIGSTOP);
    let key = bed.key(&loser);
    let mut waiting =
        bed.0.host("alpha").spawn(&bed.0.file("lost.log"), &[ripstop(), "apply", "--key", &key, &lost_file]);
    within(CONVERGE, "the one that will be lost", || bed.0.agent("alpha").version() == lost);
    let (code, said) = bed.0.agent("beta").put("/v1/policy", &fs::read(&won_file).unwrap());
    assert_eq!(code, 200, "{said}");
    assert_eq!(waiting.wait(CONVERGE), Some(1), "{}", waiting.log());
    let said = waiting.log();
    for part in [&lost, &won, "is not in force", &format!("{winner} applied"), "history --graph 1.", "graph diff"] {
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
    bed.0.agent("gamma").signal(Signal::SIGCONT);
    bed.agree(&HOSTS);
    assert_eq!(bed.0.agent("gamma").version(), won);
    assert!(bed.0.agent("alpha").log().contains("two operators applied a policy at the same time"));
    assert!(bed.0.host("alpha").ok(&[ripstop(), "history"]).contains("lost to another of its version"));
    let version = won.split_once('-').unwrap().0;
    let runs = bed.0.host("alpha").ok(&[ripstop(), "history", "--graph", version]);
    // Who comes later is refused, with the same advice; on top of what runs nothing is lost.
    let (code, said) = bed.try_apply(&loser, &[&lost_file]);
    assert!(code == 1 && said.contains("somebody applied") && said.contains("nothing has changed"), "{said}");
    fs::write(bed.0.file("graph.yaml"), runs).unwrap();
    let change = if loser == "shop" { ("s: 10", "s: 12") } else { ("port: 8080 }", "port: 8080/tcp }") };
    bed.apply(&loser, &[&bed.edited(change.0, change.1)]);
    bed.agree(&HOSTS);
    let file = bed.0.file("graph.yaml");
    let both = fs::read_to_string(&file).unwrap();
    assert!(both.contains("s: 12") && both.contains("port: 8080/tcp }"), "{both}");
    fs::write(file, both.replace("s: 12", "s: 10")).unwrap();
}

/// Two must sign from here on, and the last policy begins an epoch.
fn countersigned(bed: &Bed) {
    let said = bed.0.host("alpha").ok(&[ripstop(), "operator", "keygen", "second", "--out", &bed.key("second")]);
    let line = said.lines().find(|line| line.starts_with("  second: ")).unwrap().to_owned();
    bed.operators(|text| text.replace("need: 1", "need: 2").replace("operators:\n", &format!("operators:\n{line}\n")));
    let before = bed.0.agent("alpha").version();
    let file = bed.edited("sessions: 10", "sessions: 11");
    within(CONVERGE, "two to be needed", || bed.try_apply("operator", &[&file]).1.contains("1 of the 2 signatures"));
    let half = bed.0.path("half.bundle");
    let said = bed.apply("operator", &[&file, "--save", &half, "--new-epoch", "--note", "an epoch"]);
    assert!(said.contains("policy 2.1-") && said.contains("the next operator: ripstop apply"), "{said}");
    assert_eq!(bed.0.agent("alpha").version(), before, "saved and not published");
    let (code, said) = bed.try_apply("bill", &[&half]);
    assert!(
        code == 1 && said.contains("edge shop/eu/web -> shop/eu/api"),
        "the second signature counts for billing: {said}"
    );
    let said = bed.apply("second", &[&half]);
    assert!(said.contains("an epoch") && said.contains("runs on 3 hosts"), "{said}");
    bed.agree(&HOSTS);
    let history = bed.0.host("gamma").ok(&[ripstop(), "history"]);
    assert!(history.lines().nth(1).is_some_and(|line| line.starts_with("2.1") && line.contains("second")), "{history}");
}
