//! What the agent and its door cannot do any more, tried on threads that have given it up as they do. Needs root.

#![allow(clippy::unwrap_used)]

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::{
        socket::{AddressFamily, SockFlag, SockType, socket},
        uio::{RemoteIoVec, process_vm_readv},
    },
    unistd::{Pid, geteuid},
};
use ripstop::confine;
use ripstop_config::AgentConfig;
use std::{
    fs::{self, File},
    io::{self, IoSliceMut},
    net::{TcpListener, UdpSocket},
    os::unix::net::UnixListener,
    path::Path,
    process::Command,
    thread,
};

/// The settings of an agent that has all below one directory.
fn settings(home: &Path) -> AgentConfig {
    fs::create_dir(home.join("conf")).unwrap();
    fs::create_dir(home.join("log")).unwrap();
    fs::write(home.join("conf/graph.yaml"), "fabric: x\n").unwrap();
    fs::write(home.join("other"), "somebody else's\n").unwrap();
    let run = home.join("run");
    let text = format!(
        "host: alpha\ngraph: conf/graph.yaml\nidentity: {{ certificate: conf/c, key: conf/k, ca: conf/a }}\nrun: {}\n\
         sessions: log/sessions.jsonl\n",
        run.display()
    );
    AgentConfig::parse(&home.join("agent.yaml").display().to_string(), &text).unwrap()
}

/// Runs `tries` on a thread that was restricted by `confine`, as everything is that it starts.
fn confined<T: Send>(
    confine: impl FnOnce() -> anyhow::Result<()> + Send,
    tries: impl FnOnce() -> T + Send,
) -> Option<T> {
    if !geteuid().is_root() {
        eprintln!("SKIPPED: only root has something to give up");
        return None;
    }
    thread::scope(|scope| {
        let restricted = scope.spawn(|| {
            confine().unwrap();
            tries()
        });
        Some(restricted.join().unwrap())
    })
}

/// `CapEff`, `CapPrm`, `CapBnd`, `CapInh`, `CapAmb`, and then `NoNewPrivs` and `Seccomp`, of the calling thread.
fn rights() -> Vec<u64> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let value = |name: &str, base: u32| {
        let found = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        u64::from_str_radix(found.unwrap().trim(), base).unwrap()
    };
    let sets = ["CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"].map(|name| value(name, 16));
    [&sets[..], &[value("NoNewPrivs", 10), value("Seccomp", 10)]].concat()
}

fn refused<T>(what: &str, tried: nix::Result<T>) {
    assert_eq!(tried.err(), Some(Errno::EPERM), "{what}");
}

fn denied<T>(what: &str, tried: io::Result<T>) {
    let error = tried.err().unwrap_or_else(|| panic!("{what} is possible"));
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{what}: {error}");
}

const NET_ADMIN: u64 = 1 << 12;
const NET_BIND_SERVICE: u64 = 1 << 10;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;

/// What neither needs.
fn never() {
    let none: Option<&str> = None;
    refused("mount", mount(Some("none"), "/tmp", Some("tmpfs"), MsFlags::empty(), none));
    refused("unshare", unshare(CloneFlags::CLONE_NEWNET));
    let (mut into, from) = ([0; 1], [0; 1]);
    let memory = RemoteIoVec { base: from.as_ptr() as usize, len: 1 };
    refused("memory of a process", process_vm_readv(Pid::this(), &mut [IoSliceMut::new(&mut into)], &[memory]));
    for family in [AddressFamily::Packet, AddressFamily::Vsock, AddressFamily::Alg] {
        refused(&format!("{family:?}"), socket(family, SockType::Datagram, SockFlag::empty(), None));
    }
    denied("a program", Command::new("/bin/true").spawn());
}

#[test]
fn the_agent_keeps_what_it_needs_and_nothing_else() {
    let home = tempfile::tempdir().unwrap();
    let config = settings(home.path());
    let at = |name: &str| home.path().join(name);
    confined(
        || confine::agent(&config),
        || {
            assert_eq!(rights(), [NET_ADMIN, NET_ADMIN, NET_ADMIN, 0, 0, 1, 2]);
            never();
            let own = File::open("/proc/thread-self/ns/net").unwrap();
            refused("setns", setns(&own, CloneFlags::CLONE_NEWNET));
            // Its own files, and no others.
            assert_eq!(fs::read_to_string(at("conf/graph.yaml")).unwrap(), "fabric: x\n");
            fs::write(at("run/journal.next"), "x").unwrap();
            fs::rename(at("run/journal.next"), at("run/journal")).unwrap();
            fs::remove_file(at("run/journal")).unwrap();
            fs::write(at("log/sessions.jsonl"), "{}\n").unwrap();
            drop(UnixListener::bind(at("run/agent.sock")).unwrap());
            for path in ["/etc/passwd", "/proc/self/status", "/proc/1/stat", "/sys/class/net"] {
                assert!(File::open(path).is_ok(), "{path}");
            }
            if landlock_is_there() {
                denied("another file", fs::read(at("other")));
                denied("the graph", fs::write(at("conf/graph.yaml"), ""));
                denied("a file beside the graph", File::create(at("conf/new")));
                denied("a schedule of root's", File::create("/etc/cron.d/ripstop-test"));
                denied("root's files", fs::read_dir("/root"));
            }
            // What sessions take.
            TcpListener::bind("127.0.0.1:0").unwrap();
            UdpSocket::bind("[::1]:0").unwrap();
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::empty(), None).unwrap();
            assert_eq!(thread::scope(|scope| scope.spawn(rights).join().unwrap())[0], NET_ADMIN);
            denied("a port below 1024", TcpListener::bind("127.0.0.1:999"));
        },
    );
}

#[test]
fn a_port_below_1024_in_the_settings_can_be_listened_on() {
    let home = tempfile::tempdir().unwrap();
    let mut config = settings(home.path());
    config.metrics = Some("127.0.0.1:998".parse().unwrap());
    confined(
        || confine::agent(&config),
        || {
            assert_eq!(rights()[0], NET_ADMIN | NET_BIND_SERVICE);
            TcpListener::bind("127.0.0.1:998").unwrap();
        },
    );
}

#[test]
fn the_door_enters_namespaces_and_does_nothing_else() {
    confined(confine::door, || {
        let kept = SYS_ADMIN | NET_ADMIN | SYS_PTRACE;
        assert_eq!(rights(), [kept, kept, kept, 0, 0, 1, 2]);
        never();
        for family in [AddressFamily::Inet6, AddressFamily::Unix] {
            refused(&format!("{family:?}"), socket(family, SockType::Datagram, SockFlag::empty(), None));
        }
        let own = File::open("/proc/thread-self/ns/net").unwrap();
        setns(&own, CloneFlags::CLONE_NEWNET).unwrap();
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::empty(), None).unwrap();
        let here = std::os::unix::net::UnixDatagram::unbound();
        denied("a socket", here);
    });
}

/// Asks as a service would: a rule that nothing is allowed by, on a thread that ends with it.
fn landlock_is_there() -> bool {
    use landlock::{AccessFs, Compatible as _, RulesetAttr as _};
    let required = landlock::Ruleset::default().set_compatibility(landlock::CompatLevel::HardRequirement);
    let there = required.handle_access(AccessFs::Execute).and_then(landlock::Ruleset::create).is_ok();
    if !there {
        eprintln!("SKIPPED: this kernel has no Landlock");
    }
    there
}
