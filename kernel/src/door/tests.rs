//! The door over its pair of sockets, asked what an agent would ask that a workload has taken over.

use super::*;
use crate::{
    AttachPlan, Kernel, QUEUES_MAX,
    tests::{Lab, plan, run},
};
use nix::{
    sys::{
        pthread::{pthread_kill, pthread_self},
        signal::Signal,
        stat::Mode,
    },
    unistd::mkfifo,
};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::{io::IoSlice, mem::MaybeUninit, sync::Arc, thread};
use tokio::signal::unix::{SignalKind, signal};
use wire::Answer;

/// A door on a thread, and the agent's end of the way to it.
fn door() -> OwnedFd {
    let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    // A request that hangs the door is a failure, not a test that never ends.
    sockopt::set_socket_timeout(&near, sockopt::Timeout::Recv, Some(ANSWER_MAX)).unwrap();
    thread::spawn(move || serve::converse(far.as_fd()).unwrap());
    near
}

fn ask(door: &OwnedFd, request: &Request, namespace: Option<&File>) -> Result<Done, Error> {
    let along: Vec<_> = namespace.map(File::as_fd).into_iter().collect();
    wire::send(door, request, &along).unwrap();
    heard(door)
}

fn heard(door: &OwnedFd) -> Result<Done, Error> {
    let (answer, descriptors) = wire::receive::<Answer>(door, wire::WITH_ANSWER).unwrap().expect("the door is there");
    answer.done(descriptors)
}

fn namespace(path: &str) -> Request {
    Request::Namespace { path: path.to_owned(), id: None }
}

fn device(queues: u8) -> Request {
    Request::Device { name: "rs-hostile".into(), queues }
}

/// It is there still, and does what it is for.
fn works(door: &OwnedFd) {
    let own = ask(door, &namespace(netns::OF_PROCESS), None).unwrap().descriptor().unwrap();
    assert_eq!(NsId::of_file(&File::from(own)).unwrap(), NsId::of(Path::new(netns::OF_PROCESS)).unwrap());
}

fn refused(door: &OwnedFd, request: &Request, along: Option<&File>, why: &str) {
    match ask(door, request, along) {
        Err(Error::Refused { why: said, .. }) => assert!(said.contains(why), "{request:?}: {said}"),
        other => panic!("{request:?}: {other:?}"),
    }
    works(door);
}

#[test]
fn only_namespaces_are_opened_and_nothing_else_is_touched() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    // To open a pipe that nobody writes to waits for ever.
    mkfifo(at("pipe").as_str(), Mode::S_IRWXU).unwrap();
    std::fs::write(at("file"), "x").unwrap();
    std::os::unix::fs::symlink("/etc/shadow", at("link")).unwrap();
    let door = door();
    for path in ["/dev/null", "/etc", &at("pipe"), &at("file"), &at("link")] {
        refused(&door, &namespace(path), None, "it is no namespace");
    }
    for path in ["run/netns/web", "", "/run/netns/../../etc", "/run\0", &format!("/{}", "x".repeat(4_095))] {
        refused(&door, &namespace(path), None, "without `..`");
    }
    refused(&door, &namespace("/run/netns/nonexistent"), None, "No such file");
}

#[test]
fn only_the_fabric_s_devices_are_made_and_only_in_network_namespaces() {
    let door = door();
    let own = File::open(netns::OF_PROCESS).unwrap();
    for name in ["eth0", "rs-%d", "rs-0123456789abc", "rs-a/b", "rs-a b", "rs-é", ""] {
        for queues in [1, 4] {
            refused(&door, &Request::Device { name: name.to_owned(), queues }, Some(&own), "an interface's name is");
        }
    }
    for queues in [0, QUEUES_MAX + 1, u8::MAX] {
        refused(&door, &device(queues), Some(&own), "1 to 16 queues");
    }
    let socket = Request::Socket { family: Family::Route };
    for request in [&device(1), &device(QUEUES_MAX), &socket] {
        refused(&door, request, None, "no namespace came along");
        for other in ["/proc/self/ns/mnt", "/proc/self/ns/pid", "/proc/self/ns/user", "/dev/null"] {
            refused(&door, request, Some(&File::open(other).unwrap()), "failed to enter");
        }
    }
}

#[test]
fn only_files_for_resolvers_are_written_below_their_one_directory() {
    let door = door();
    for name in ["..", ".", "", "a/b", "/etc/cron.d", "../cron.d", "a/", "a\0", &"x".repeat(256)] {
        let made = Request::MakeResolver { name: name.to_owned(), resolver: Ipv4Addr::LOCALHOST };
        refused(&door, &made, None, "that of a file");
        let removed = Request::RemoveResolver { name: name.to_owned(), directories: Vec::new() };
        refused(&door, &removed, None, "that of a file");
    }
    for directory in ["/etc", "/etc/netns/other", "/etc/netns/web/..", "/"] {
        let directories = vec![directory.to_owned()];
        let removed = Request::RemoveResolver { name: "web".into(), directories };
        refused(&door, &removed, None, "no other directories");
    }
    let directories = vec!["/etc/netns".to_owned(); 1_000];
    let removed = Request::RemoveResolver { name: "web".into(), directories };
    refused(&door, &removed, None, "no other directories");
}

#[test]
fn what_is_no_request_is_refused_and_the_next_one_heard() {
    let door = door();
    let raw = |bytes: &[u8]| {
        let mut none = SendAncillaryBuffer::default();
        sendmsg(&door, &[IoSlice::new(bytes)], &mut none, SendFlags::empty()).unwrap();
        match heard(&door) {
            Err(Error::Refused { why, .. }) => why,
            other => panic!("{other:?}"),
        }
    };
    for bytes in [
        &b"{"[..],
        b"\xff\xfe",
        b"null",
        br#"{"run":{"command":"sh"}}"#,
        br#"{"namespace":{"path":"/proc/self/ns/net","id":null,"more":1}}"#,
        br#"{"socket":{"family":"packet"}}"#,
        br#"{"socket":{"family":16}}"#,
    ] {
        assert!(raw(bytes).contains("none of those"), "{}", String::from_utf8_lossy(bytes));
        works(&door);
    }
    assert!(raw(&vec![b' '; wire::MESSAGE_MAX + 1]).contains("too long"));
    works(&door);
}

#[test]
fn more_than_one_descriptor_is_refused_and_none_of_them_kept() {
    let door = door();
    let sent = tempfile::NamedTempFile::new().unwrap();
    // Other tests open and close files of this process meanwhile, but not this one.
    let kept = || {
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        descriptors.filter(|one| std::fs::read_link(one.path()).is_ok_and(|file| file == sent.path())).count()
    };
    let descriptors = [sent.as_file().as_fd(); 2];
    let bytes = serde_json::to_vec(&Request::Socket { family: Family::Route }).unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    assert_eq!(kept(), 1);
    sendmsg(&door, &[IoSlice::new(&bytes)], &mut control, SendFlags::empty()).unwrap();
    let Err(Error::Refused { why, .. }) = heard(&door) else { panic!("two descriptors were taken") };
    assert!(why.contains("more descriptors than belong to it"), "{why}");
    assert_eq!(kept(), 1, "what came with a refused request is closed before it is answered");
}

#[test]
fn a_signal_while_the_agent_waits_changes_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _handled = runtime.block_on(async { signal(SignalKind::window_change()) }).unwrap();
    let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    sockopt::set_socket_timeout(&near, sockopt::Timeout::Recv, Some(ANSWER_MAX)).unwrap();
    let agent = pthread_self();
    let heard = thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..50 {
                pthread_kill(agent, Signal::SIGWINCH).unwrap();
                thread::sleep(Duration::from_millis(1));
            }
            wire::send(&far, &Answer::Count(3), &[]).unwrap();
        });
        heard(&near)
    });
    assert_eq!(heard.unwrap().count(), 3);
}

#[test]
fn an_interface_that_is_made_through_the_door_is_whole_and_goes_without_a_trace() {
    let Some(lab) = Lab::new() else { return };
    let before = lab.snapshot();
    let doorway =
        Arc::new(Doorway::Process(Door { way: Mutex::new(Some(door())), socket: None, shut: AtomicBool::new(false) }));
    let kernel = lab.on_host(|| Kernel::lock(lab.run.path(), Arc::clone(&doorway)).unwrap());
    let tun = lab.attach(&kernel, &lab.netns_plan()).unwrap();
    assert_eq!((tun.name(), tun.has_v6()), ("rs-web", true));
    let inside = lab.in_workload(|| crate::link::exists("rs-web").unwrap());
    let on_host = lab.on_host(|| crate::link::exists("rs-web").unwrap());
    assert!(inside && !on_host);
    let direct = Lab::new().unwrap();
    let other = direct.open();
    let _tun = direct.attach(&other, &direct.netns_plan()).unwrap();
    let of_workload = |lab: &Lab| {
        let named = lab.snapshot().into_iter().filter(|(what, _)| what.starts_with(&lab.workload));
        named.map(|(what, text)| (what.replace(&lab.workload, ""), text)).collect::<Vec<_>>()
    };
    let without_index = |found: Vec<(String, String)>| {
        found.into_iter().map(|(what, text)| (what, text.replace("state UNKNOWN", "state UP"))).collect::<Vec<_>>()
    };
    assert_eq!(without_index(of_workload(&lab)), without_index(of_workload(&direct)), "with a door as without");
    lab.on_host(|| kernel.restore()).unwrap();
    assert_eq!(lab.snapshot(), before);
}

#[test]
fn a_device_of_several_queues_comes_through_the_door_and_only_if_it_is_new() {
    let Some(lab) = Lab::new() else { return };
    let before = lab.snapshot();
    let doorway =
        Arc::new(Doorway::Process(Door { way: Mutex::new(Some(door())), socket: None, shut: AtomicBool::new(false) }));
    let kernel = lab.on_host(|| Kernel::lock(lab.run.path(), doorway).unwrap());
    let plan = AttachPlan { queues: QUEUES_MAX, ..lab.netns_plan() };
    let queues = lab.on_host(|| kernel.attach(&plan)).unwrap();
    assert_eq!(queues.len(), usize::from(QUEUES_MAX));
    let link = run(&lab.workload, "ip -details link show rs-web");
    assert!(link.contains("numqueues 16 numdisabled 0"), "{link}");
    // Whoever asks for it once more gets no queue of it, and neither of what somebody else has made there.
    run(&lab.workload, "ip tuntap add dev rs-hostile mode tun multi_queue");
    let (door, inside) = (door(), File::open(lab.workload_path()).unwrap());
    refused(&door, &Request::Device { name: "rs-web".into(), queues: 2 }, Some(&inside), "busy");
    refused(&door, &device(2), Some(&inside), "busy");
    run(&lab.workload, "ip link delete rs-hostile");
    let made = ask(&door, &device(2), Some(&inside)).unwrap();
    assert!(matches!(made.descriptor(), Err(Error::Door(why)) if why.contains("2 descriptors where 1")));
    lab.on_host(|| kernel.restore()).unwrap();
    drop(queues);
    assert_eq!(lab.snapshot(), before);
}

#[test]
fn a_device_of_one_queue_is_asked_for_as_ever() {
    let ever = br#"{"device":{"name":"rs-hostile"}}"#;
    assert_eq!(serde_json::from_slice::<Request>(ever).unwrap(), device(1));
    assert_eq!(serde_json::to_vec(&device(1)).unwrap(), ever);
    let several = serde_json::to_string(&device(4)).unwrap();
    assert_eq!(several, r#"{"device":{"name":"rs-hostile","queues":4}}"#);
}

#[test]
fn a_door_that_is_gone_is_told_and_what_needs_none_goes_on() {
    let Some(lab) = Lab::new() else { return };
    let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    drop(far);
    let doorway =
        Arc::new(Doorway::Process(Door { way: Mutex::new(Some(near)), socket: None, shut: AtomicBool::new(false) }));
    let kernel = lab.on_host(|| Kernel::lock(lab.run.path(), doorway).unwrap());
    for _ in 0..2 {
        let error = lab.attach(&kernel, &lab.netns_plan()).unwrap_err();
        assert!(matches!(error, Error::DoorGone), "{error}");
    }
    let of_user = plan("rs-user", crate::Place::User { uid: 64_101 }, 2);
    lab.attach(&kernel, &of_user).unwrap();
    lab.on_host(|| kernel.detach("rs-user")).unwrap();
}
