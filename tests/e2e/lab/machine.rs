//! A whole machine made of namespaces: network, mounts and processes of its own, with a private `/run` and `/etc`.
//!
//! The first process of the machine's PID namespace keeps it alive. When that process dies, the kernel ends every other
//! process of the machine and takes its interfaces, routes, rules, mounts and namespaces away: nothing can be left
//! behind, also when the test is killed, because the parent-death signal then ends the first process too.

use super::place::Place;
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

/// A machine of the lab.
pub struct Machine {
    name: String,
    keeper: Child,
    init: u32,
}

impl Machine {
    /// Starts a machine; `resolver` becomes its `/etc/resolv.conf`, `netns` the namespaces under its `/run/netns`.
    pub fn start(name: &str, resolver: &str, netns: &[String]) -> Self {
        let mut keeper = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--mount-proc", "--kill-child=KILL"])
            .args(["sh", "-s"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cannot start setpriv and unshare (util-linux)");
        let mut stdin = keeper.stdin.take().unwrap();
        stdin.write_all(boot_script(resolver, netns).as_bytes()).unwrap();
        drop(stdin);
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready", "machine {name} did not start: namespaces need root");
        let init = children(keeper.id()).first().copied().expect("the machine has a first process");
        Self { name: name.into(), keeper, init }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first process, as the test sees it.
    pub fn init(&self) -> u32 {
        self.init
    }

    /// A file of the machine, as the test sees it.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// The machine itself, outside any namespace of a workload.
    pub fn place(&self) -> Place {
        Place::new(&self.name, self.init, PathBuf::from(format!("/proc/{}/ns/net", self.init)), None)
    }

    /// A named network namespace of the machine.
    pub fn netns(&self, name: &str) -> Place {
        Place::new(&format!("{}/{name}", self.name), self.init, self.path(&format!("/run/netns/{name}")), None)
    }

    /// A user of the machine.
    pub fn user(&self, name: &str, uid: u32) -> Place {
        let net = PathBuf::from(format!("/proc/{}/ns/net", self.init));
        Place::new(&format!("{}/{name}", self.name), self.init, net, Some(uid))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
        // The kernel has ended the machine's processes when its first one is gone.
        for _ in 0..200 {
            if !fs::exists(format!("/proc/{}/ns/net", self.init)).unwrap_or(false) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// Duplicate address detection is off so that addresses and routes are final at once.
fn boot_script(resolver: &str, netns: &[String]) -> String {
    let mut script = format!(
        r#"set -e
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/sshd /run/lab/etc /run/lab/work
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/lab/etc,workdir=/run/lab/work /etc 2>/dev/null ||
  {{ cp -a /etc/. /run/lab/etc/; mount --bind /run/lab/etc /etc; }}
rm -rf /etc/resolv.conf /etc/netns
cat > /etc/resolv.conf <<'END'
{resolver}
END
quiet() {{ echo 0 > /proc/sys/net/ipv6/conf/all/accept_dad; echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad; }}
quiet
ip link set lo up
"#
    );
    for name in netns {
        let line = format!(
            "ip netns add {name}\nnsenter --net=/run/netns/{name} sh -c 'echo 0 > /proc/sys/net/ipv6/conf/all/accept_dad; \
             echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad; ip link set lo up'\n"
        );
        script.push_str(&line);
    }
    script.push_str("echo ready\nexec sleep infinity >/dev/null\n");
    script
}

/// The children of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}
