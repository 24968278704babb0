//! What agents and their doors may do, as the kernel says it of those that carry sessions, and what becomes of an agent whose
//! door is gone.

use crate::{
    enrol::Bare,
    lab::{Agent, Lab, children, ripstop, within},
    servers::echo,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::FileExt,
    process::Command,
    time::Duration,
};

/// CAP_NET_ADMIN; for the door also CAP_SYS_PTRACE and CAP_SYS_ADMIN.
const AGENT: &str = "0000000000001000";
const DOOR: &str = "0000000000281000";
const NONE: &str = "0000000000000000";
/// Within this a workload that appears is attached, or a door that is gone is told.
const SOON: Duration = Duration::from_secs(5);

/// The session that every test here has open.
fn session(lab: &Lab) -> TcpStream {
    let mut stream = lab.workload("web").connect(lab.service("shop/api", 8080)).expect("allowed");
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert!(answers(&mut stream));
    stream
}

fn answers(stream: &mut TcpStream) -> bool {
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut [0; 4]).is_ok()
}

fn door_of(agent: &Agent) -> u32 {
    let children = children(agent.pid());
    assert_eq!(children.len(), 1, "an agent has one process, its door: {children:?}");
    children[0]
}

/// These fields of every thread of a process.
fn threads(pid: u32, fields: &[&str]) -> Vec<Vec<String>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of_task = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        let value = |field: &&str| status.lines().find_map(|line| line.strip_prefix(*field)?.strip_prefix(":\t"));
        fields.iter().map(|field| value(field).unwrap_or("").to_owned()).collect()
    };
    tasks.map(|task| of_task(task.unwrap())).collect()
}

const FIELDS: [&str; 7] = ["CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb", "NoNewPrivs", "Seccomp"];

/// What a process has in memory that it can write to, as far as the kernel holds it.
fn resident(pid: u32) -> Vec<u8> {
    const PAGE: u64 = 4_096;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let open = |name: &str| fs::File::open(format!("/proc/{pid}/{name}")).unwrap();
    let (pages, memory, mut found) = (open("pagemap"), open("mem"), Vec::new());
    for line in maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|rights| rights.starts_with("rw"))) {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).unwrap() / PAGE);
        let mut entries = vec![0; (end - start) as usize * 8];
        pages.read_exact_at(&mut entries, start * 8).unwrap();
        // The highest bit of an entry: the page is there (pagemap in the kernel's documentation).
        for (number, _) in entries.chunks(8).enumerate().filter(|(_, entry)| entry[7] & 0x80 != 0) {
            let at = found.len();
            found.resize(at + PAGE as usize, 0);
            if memory.read_exact_at(&mut found[at..], (start + number as u64) * PAGE).is_err() {
                // Given back since.
                found.truncate(at);
            }
        }
    }
    found
}

/// Has a namespace appear on alpha that the graph knows by now.
fn late_workload(lab: &Lab, name: &str) {
    lab.host("alpha").sh(&format!("ip netns add {name} && ip -n {name} link set lo up"));
    let line = format!("      {name}: {{ on: [alpha], run: {{ netns: {name} }} }}\n    services:");
    lab.edit_graph(|text| text.replace("    services:", &line));
}

fn is_attached(lab: &Lab, name: &str) -> bool {
    lab.host("alpha").sh(&format!("ip -n {name} -br link")).contains("rs-")
}

#[test]
fn an_agent_that_carries_sessions_has_one_right_and_its_door_three() {
    let lab = Lab::shop();
    let _server = lab.workload("api").serve(8080, echo);
    let mut stream = session(&lab);
    for host in ["alpha", "beta"] {
        let agent = lab.agent(host);
        let (pid, door) = (agent.pid(), door_of(agent));
        let found = threads(pid, &FIELDS);
        assert!(found.len() > 1, "the data thread is one of them");
        for thread in found {
            assert_eq!(thread, [AGENT, AGENT, AGENT, NONE, NONE, "1", "2"], "on {host}");
        }
        for thread in threads(door, &FIELDS) {
            assert_eq!(thread, [DOOR, DOOR, DOOR, NONE, NONE, "1", "2"], "on {host}");
        }
        for pid in [pid, door] {
            let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
            let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
            assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{core}");
        }
        // Not to root with the same capabilities, which would see another process of that kind.
        let file = format!("/proc/{pid}/environ");
        let read = Command::new("setpriv").args(["--bounding-set=-all,+net_admin", "cat", &file]).output().unwrap();
        assert!(!read.status.success(), "the environment of an agent can be read by who has no more rights than it");
    }
    let key = fs::read_to_string(lab.agent("alpha").directory().join("host.key")).unwrap();
    let canaries: Vec<_> = key.lines().filter(|line| line.len() > 40 && !line.contains("KEY")).collect();
    let memory = resident(lab.agent("alpha").pid());
    assert!(!canaries.is_empty() && memory.len() > 2 << 20, "{} bytes", memory.len());
    let has = |text: &str| memory.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has("spiffe://lab.test/host/alpha"), "its certificate is there");
    assert!(!canaries.iter().any(|line| has(&line[..32])), "the text of its key is wiped once it is read");
    let door = door_of(lab.agent("alpha"));
    let open = || fs::read_dir(format!("/proc/{door}/fd")).unwrap().count();
    let before = open();
    late_workload(&lab, "late");
    within(SOON, "a workload of a later graph to be attached", || is_attached(&lab, "late"));
    assert!(answers(&mut stream));
    assert_eq!(open(), before, "neither a device nor a namespace stays open in the door");
    assert_eq!(lab.agent("alpha").stop(), 0);
    // The machine's first process leaves its entry in the table of processes.
    within(SOON, "the door to end with its agent", || fs::read_link(format!("/proc/{door}/exe")).is_err());
    assert!(!is_attached(&lab, "late"), "and the agent had it to the end");
}

#[test]
fn an_agent_without_its_door_says_so_and_carries_on() {
    let lab = Lab::shop();
    let _server = lab.workload("api").serve(8080, echo);
    let mut stream = session(&lab);
    let alpha = lab.agent("alpha");
    assert_eq!(alpha.metric("ripstop_door_up", &[]) as u32, 1);
    kill(Pid::from_raw(door_of(alpha).cast_signed()), Signal::SIGKILL).unwrap();
    within(SOON, "the agent to be unready", || {
        alpha.http("/readyz").is_some_and(|(status, body)| status == 503 && body.contains("door"))
    });
    assert_eq!(alpha.metric("ripstop_door_up", &[]) as u32, 0);
    assert!(alpha.log().contains("restart the agent"), "{}", alpha.log());
    let status = lab.host("alpha").ok(&[ripstop(), "status"]);
    assert!(status.contains("WARNING: the door"), "{status}");
    // What was attached is carried, also what is new.
    assert!(answers(&mut stream));
    session(&lab);
    late_workload(&lab, "late");
    let waits = || alpha.status()["workloads"].to_string().contains("the door, the process that enters");
    within(SOON, "the new workload to wait", waits);
    assert!(children(alpha.pid()).is_empty(), "nobody's zombie");
    assert_ne!(alpha.stop(), 0, "what it could not undo is told");
    alpha.start();
    within(SOON, "all to be attached by the next agent", || is_attached(&lab, "late"));
    alpha.wait_up(&["beta"]);
    session(&lab);
    assert_eq!(alpha.stop(), 0);
}

#[test]
fn a_service_manager_s_door_is_replaced_and_the_agent_never_has_its_rights() {
    let lab = Lab::of(&["alpha", "beta"]).without_agent("alpha").start();
    let _server = lab.workload("api").serve(8080, echo);
    let (host, alpha) = (lab.host("alpha"), lab.agent("alpha"));
    let socket = "/run/ripstop-door.sock";
    let manager = ["systemd-socket-activate", "--seqpacket", "--accept", "--inetd", "-l", socket, ripstop(), "door"];
    let manager = host.spawn(&lab.file("door.log"), &manager);
    within(SOON, "the door's socket", || host.run(&["test", "-S", socket]).status.success());
    alpha.launch_by(&["setpriv", "--bounding-set=-all,+net_admin"], &["--door", socket]);
    alpha.wait_ready();
    alpha.wait_up(&["beta"]);
    assert_eq!(threads(alpha.pid(), &["CapEff", "CapBnd"])[0], [AGENT, AGENT]);
    assert!(children(alpha.pid()).is_empty(), "the door is somebody else's process");
    let mut stream = session(&lab);
    let doors = children(manager.pid());
    assert_eq!(threads(doors[0], &["CapEff"])[0], [DOOR]);
    kill(Pid::from_raw(doors[0].cast_signed()), Signal::SIGKILL).unwrap();
    within(SOON, "another door", || alpha.log().contains("another door is open"));
    within(SOON, "the agent to be ready", || alpha.http("/readyz").is_some_and(|(status, _)| status == 200));
    assert_eq!(alpha.metric("ripstop_door_up", &[]) as u32, 1);
    assert!(answers(&mut stream));
    late_workload(&lab, "late");
    within(SOON, "a workload to be attached through it", || is_attached(&lab, "late"));
    // As a service manager cleans up after a crash, with no more rights than the agent had.
    alpha.kill();
    let cleanup = ["setpriv", "--bounding-set=-all,+net_admin", ripstop(), "cleanup", "--door", socket];
    let said = host.ok(&cleanup);
    assert!(said.contains("files"), "{said}");
    assert!(!is_attached(&lab, "late"));
}

#[test]
fn who_may_read_may_not_change_and_others_may_not_even_read() {
    let settings = "admin: { read: [64911], change: [64912] }";
    let lab =
        Lab::of(&["alpha"]).graph(&crate::lab::SHOP.replace("[beta]", "[alpha]")).settings("alpha", settings).start();
    let ask = |uid: u32, line: &[&str]| {
        let user = [format!("--reuid={uid}"), format!("--regid={uid}")];
        let line = [&["setpriv", &user[0], &user[1], "--clear-groups", ripstop()], line].concat();
        let output = lab.host("alpha").run(&line);
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    for line in [&["status"][..], &["workloads"], &["explain", "web", "api:8080"]] {
        for uid in [64_911, 64_912] {
            assert_eq!(ask(uid, line).0, Some(0), "{uid}: {line:?}: {}", ask(uid, line).1);
        }
        let (code, said) = ask(64_913, line);
        assert!(code != Some(0) && said.contains("user 64913 may not ask this agent"), "{line:?}: {said}");
    }
    for line in [&["drain", "api"][..], &["detach", "web"]] {
        let (code, said) = ask(64_911, line);
        assert!(code != Some(0) && said.contains("`admin.change`"), "{line:?}: {said}");
    }
    assert_eq!(ask(64_912, &["detach", "web"]).0, Some(0), "{}", ask(64_912, &["detach", "web"]).1);
    let log = lab.agent("alpha").log();
    assert!(log.contains("64913") && log.contains("64911"), "who was refused is in the log: {log}");
}

/// Where a private key's own bytes are in PKCS #8 (RFC 5958): of P-256, whose public key follows and is no secret, and of Ed25519.
const OWN_BYTES: [(usize, std::ops::Range<usize>); 2] = [(138, 36..68), (48, 16..48)];

/// What private keys would be found by in a text: as they are in their files, as hexadecimal, and as a list of bytes.
fn canaries(files: &str) -> Vec<String> {
    let mut pieces = Vec::new();
    for block in files.split("-----BEGIN PRIVATE KEY-----").skip(1) {
        let body = block.split("-----END").next().unwrap();
        let base64: String = body.split_whitespace().collect();
        let der = STANDARD.decode(&base64).unwrap();
        let (_, own) = OWN_BYTES.into_iter().find(|(length, _)| der.len() >= *length).expect("a key of either kind");
        // Whole characters that come of these bytes alone.
        pieces.push(base64[own.start.div_ceil(3) * 4..own.end / 3 * 4].to_owned());
        pieces.push(der[own.clone()].iter().map(|byte| format!("{byte:02x}")).collect());
        pieces.push(der[own].iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    }
    pieces
}

#[test]
fn no_secret_is_in_a_log_a_status_an_error_a_record_or_a_metric() {
    let bare = Bare::with(&["alpha", "gamma"], &["RIPSTOP_LOG=trace", "RUST_BACKTRACE=1"]);
    let _server = bare.lab.workload("api").serve(8080, echo);
    let said = bare.init(&[]);
    bare.join("gamma", &said);
    let unused = bare.token("*");
    bare.graph(&["alpha"], "gamma");
    drop(bare.session(&bare.lab.workload("web")));
    let mut texts = Vec::new();
    // Errors on the way of a secret: a token that is spent, one that is none, a host that is one already.
    let spent = bare.joining("gamma", &said);
    let spent: Vec<_> = spent.iter().map(String::as_str).collect();
    let nonsense = ["join", &said[1], "--token", &format!("{}x", said[3]), "--state", "/tmp/none"];
    for line in [&spent[..], &nonsense, &["init", "--fabric", "lab.test"], &["token", "revoke", &said[3]]] {
        texts.push(bare.fails("gamma", line));
    }
    let mut secrets = vec![said[3].clone(), said[3][said[3].len() / 2..].to_owned(), unused[3].clone()];
    for host in ["alpha", "gamma"] {
        let state = bare.state(host);
        let keys = format!("cat $(grep -rl 'PRIVATE KEY' /etc/ripstop {state} --exclude=agent.log)");
        secrets.extend(canaries(&bare.lab.host(host).sh(&keys)));
        texts.push(bare.log(host));
        texts.push(bare.status(host).to_string());
        texts.push(bare.run(host, &["status"]));
        texts.push(bare.lab.host(host).ok(&["curl", "-sS", "http://127.0.0.1:7478/metrics"]));
        texts.push(bare.run(host, &["workloads"]));
    }
    texts.push(bare.run("alpha", &["token", "list"]));
    texts.push(bare.run("alpha", &["history"]));
    assert!(secrets.len() > 12, "of the CA, two hosts and the operator: {}", secrets.len());
    let read: usize = texts.iter().map(String::len).sum();
    assert!(
        read > 50_000 && texts.iter().any(|text| text.contains("TRACE")),
        "there is something to look at: {read} bytes"
    );
    assert!(texts.iter().any(|text| text.contains("\"verdict\":\"allow\"")), "a record among it");
    for secret in &secrets {
        for text in &texts {
            // A key in a file is of several lines.
            let joined: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let pem = joined.replace(' ', "");
            let found = [&joined, &pem].into_iter().any(|text| text.contains(secret.as_str()));
            assert!(!found, "a secret in the open: {}…", &secret[..8]);
        }
    }
}
