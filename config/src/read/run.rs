//! `run:` what tells a workload's packets from others'.

use crate::{
    graph::{Container, Run, User},
    yaml::{Mark, Node, Report, Shape, Value},
};

const RUN: Shape = Shape {
    what: "`run`",
    keys: &["netns", "user", "cgroup", "container", "pod"],
    later: &[
        ("uid", "write `user:` with a name or a number"),
        ("pid", "a process is no lasting name: use `ripstop attach WORKLOAD --pid PID` on its host"),
        ("host", "write `run: host`"),
    ],
};
const CONTAINER: Shape = Shape { what: "`container`", keys: &["name", "label"], later: &[] };
/// How `run` is written.
pub(super) const FORMS: &str = "write `run: { netns: NAME }`, `{ user: NAME }`, `{ cgroup: PATH }`, `{ container: { name: NAME } }`, `{ pod: NAMESPACE/NAME }` or `run: host`";
const CONTAINER_FORMS: &str = "write `container: { name: NAME }` or `container: { label: KEY=VALUE }`";

/// Where named network namespaces are (ip-netns(8)); a name and the path that it stands for are one namespace.
const NETNS_DIRECTORIES: [&str; 2] = ["/run/netns/", "/var/run/netns/"];
/// Longest file name, and so longest name of a namespace.
const NETNS_NAME_MAX: usize = 255;
/// Longest path (PATH_MAX).
const PATH_MAX: usize = 4095;
/// Longest user name (useradd(8)).
const USER_MAX: usize = 32;
/// The user id that means "none" to the kernel.
const NO_USER: u32 = u32::MAX;
/// Where control groups of version 2 are usually found; a path with it and one without are one.
const CGROUP_DIRECTORIES: [&str; 2] = ["/sys/fs/cgroup/unified/", "/sys/fs/cgroup/"];
/// Longest name or label of a container that is compared.
const CONTAINER_MAX: usize = 255;

pub(super) fn read(node: &Node, report: &mut Report<'_>) -> Option<Run> {
    if matches!(&node.value, Value::Text(text) if text == "host") {
        return Some(Run::Host);
    }
    let fields = RUN.read(node, node.mark, report)?;
    let given: Vec<_> = RUN.keys.iter().filter_map(|key| Some((*key, fields.get(key)?))).collect();
    match given.as_slice() {
        [("netns", node)] => netns(node.text("a network namespace", report)?, node.mark, report),
        [("user", node)] => user(node.text("a user", report)?, node.mark, report),
        [("cgroup", node)] => cgroup(node.text("a control group", report)?, node.mark, report),
        [("pod", node)] => pod(node.text("a pod", report)?, node.mark, report),
        [(_, node)] => container(node, report),
        [(one, _), (other, _), ..] => {
            report.hinted(node.mark, format!("`run` has both `{one}` and `{other}`"), "keep one");
            None
        }
        [] => {
            if fields.is_whole() {
                report.hinted(node.mark, "`run` does not say how", FORMS);
            }
            None
        }
    }
}

/// The root group has every process of the host in it, which is `run: host`.
fn cgroup(text: &str, at: Mark, report: &mut Report<'_>) -> Option<Run> {
    let path = CGROUP_DIRECTORIES.iter().find_map(|directory| text.strip_prefix(directory)).unwrap_or(text);
    let path = path.trim_matches('/');
    let whole = path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    if path.is_empty() || path.len() > PATH_MAX || path.contains(char::is_control) || !whole {
        let hint = "write a path below the root group, as the line `0::` of /proc/PID/cgroup shows it";
        report.hinted(at, format!("`{text}` is not a control group for a workload"), hint);
        return None;
    }
    Some(Run::Cgroup(format!("/{path}")))
}

fn pod(text: &str, at: Mark, report: &mut Report<'_>) -> Option<Run> {
    match text.parse() {
        Ok(pod) => Some(Run::Pod(pod)),
        Err(error) => {
            report.hinted(at, format!("`{text}` is no pod of a cluster: {error}"), "write `pod: NAMESPACE/NAME`");
            None
        }
    }
}

fn container(node: &Node, report: &mut Report<'_>) -> Option<Run> {
    let fields = match &node.value {
        Value::Map(_) => CONTAINER.read(node, node.mark, report)?,
        Value::Nothing | Value::Text(_) | Value::List(_) => {
            report.hinted(node.mark, "`container` does not say how it is found", CONTAINER_FORMS);
            return None;
        }
    };
    let found = match (fields.get("name"), fields.get("label")) {
        (Some(node), None) => (node.text("a container's name", report)?, None, node.mark),
        (None, Some(node)) => {
            let text = node.text("a label", report)?;
            match text.split_once('=') {
                Some((key, value)) => (key, Some(value), node.mark),
                None => (text, Some(""), node.mark),
            }
        }
        (Some(_), Some(_)) => {
            report.hinted(node.mark, "`container` has both `name` and `label`", "keep one");
            return None;
        }
        (None, None) => {
            if fields.is_whole() {
                report.hinted(node.mark, "`container` does not say how it is found", CONTAINER_FORMS);
            }
            return None;
        }
    };
    match found {
        (name, None, _) if is_container_name(name) => Some(Run::Container(Container::Name(name.to_owned()))),
        (key, Some(value), _) if is_label(key) && value.len() <= CONTAINER_MAX && !value.is_empty() => {
            Some(Run::Container(Container::Label(key.to_owned(), value.to_owned())))
        }
        (text, _, at) => {
            report.hinted(at, format!("`{text}` finds no container"), CONTAINER_FORMS);
            None
        }
    }
}

/// Names that podman and Docker give: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`.
pub(crate) fn is_container_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    (1..=CONTAINER_MAX).contains(&text.len()) && text.bytes().all(fits) && text.as_bytes()[0].is_ascii_alphanumeric()
}

fn is_label(text: &str) -> bool {
    (1..=CONTAINER_MAX).contains(&text.len()) && !text.contains(|letter: char| letter.is_control() || letter == ' ')
}

fn netns(text: &str, at: Mark, report: &mut Report<'_>) -> Option<Run> {
    let name = NETNS_DIRECTORIES.iter().find_map(|directory| text.strip_prefix(directory)).unwrap_or(text);
    let is_path = name.starts_with('/') && name.len() <= PATH_MAX;
    let is_name =
        !name.is_empty() && !name.contains('/') && name.len() <= NETNS_NAME_MAX && name != "." && name != "..";
    if name.contains(char::is_control) || !(is_path || is_name) {
        let hint = "write a name under /run/netns as `ip netns list` shows it, or an absolute path";
        report.hinted(at, format!("`{text}` is not a network namespace"), hint);
        return None;
    }
    Some(Run::Netns(name.to_owned()))
}

fn user(text: &str, at: Mark, report: &mut Report<'_>) -> Option<Run> {
    let root = "root's traffic is the host's and the agent's own: run the workload as a user of its own";
    if text == "root" || text.parse() == Ok(0_u32) {
        report.hinted(at, "a workload cannot be root", root);
        return None;
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        let id = text.parse().ok().filter(|id| *id != NO_USER);
        if id.is_none() {
            report.error(at, format!("`{text}` is not a user id: they go up to {}", NO_USER - 1));
        }
        return id.map(|id| Run::User(User::Id(id)));
    }
    if !is_user_name(text) {
        report.hinted(at, format!("`{text}` is not a user"), "write a user's name or numeric id, as `id` shows them");
        return None;
    }
    Some(Run::User(User::Name(text.to_owned())))
}

/// Names that useradd(8) and others give: what they have in common is that they are words.
fn is_user_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.@".contains(&byte);
    let body = text.strip_suffix('$').unwrap_or(text);
    (1..=USER_MAX).contains(&text.len()) && body.bytes().all(fits) && !body.starts_with(['-', '.']) && !body.is_empty()
}
