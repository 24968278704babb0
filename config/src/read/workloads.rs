//! `workloads:` the programs and containers.

use super::{Known, Placed, Tenant, Workloads, limits};
use crate::{
    HostName, WorkloadId, WorkloadName,
    graph::{Run, User, Workload},
    yaml::{Entry, Mark, Node, Report, Shape, reference},
};
use std::collections::BTreeMap;

const WORKLOAD: Shape = Shape { what: "a workload", keys: &["on", "run", "isolated", "limit"], later: &[] };
const RUN: Shape = Shape {
    what: "`run`",
    keys: &["netns", "user"],
    later: &[
        ("container", USE_OTHERS),
        ("cgroup", USE_OTHERS),
        ("host", USE_OTHERS),
        ("uid", "write `user:` with a name or a number"),
    ],
};
const USE_OTHERS: &str = "use `netns` or `user`";
const RUN_FORMS: &str = "write `run: { netns: NAME }` or `run: { user: NAME }`";
const ON_FORM: &str = "write `on: [HOST, …]` with the hosts it runs on";

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

pub(super) fn read(tenants: &[Tenant<'_>], known: &Known, report: &mut Report<'_>) -> Workloads {
    let mut workloads = BTreeMap::new();
    for tenant in tenants {
        for entry in &tenant.workloads {
            let id = WorkloadId::new(tenant.name.clone(), entry.name.clone());
            if let Some(value) = workload(entry, known, report) {
                workloads.insert(id, Placed { value, mark: entry.key });
            }
        }
    }
    workloads
}

fn workload(entry: &Entry<'_, WorkloadName>, known: &Known, report: &mut Report<'_>) -> Option<Workload> {
    let fields = WORKLOAD.read(entry.node, entry.key, report)?;
    let on = fields.require("on", ON_FORM, report).map(|node| hosts(node, known, report));
    let run = match fields.require("run", RUN_FORMS, report) {
        Some(node) => run(node, report),
        None => None,
    };
    let isolated = fields.get("isolated").map_or(Some(false), |node| node.flag(report));
    let limits = limits::read(&fields, report);
    Some(Workload { on: on?, run: run?, isolated: isolated?, limits: limits?, at: report.location(entry.key) })
}

fn hosts(node: &Node, known: &Known, report: &mut Report<'_>) -> Vec<HostName> {
    let hosts = node.set::<HostName>("`on`", "a host's name", report);
    for (host, at) in &hosts {
        if !known.hosts.contains(host) {
            reference("host", host.as_str(), *at, known.hosts.iter().map(HostName::as_str), report);
        }
    }
    hosts.into_iter().map(|(host, _)| host).collect()
}

fn run(node: &Node, report: &mut Report<'_>) -> Option<Run> {
    let fields = RUN.read(node, node.mark, report)?;
    match (fields.get("netns"), fields.get("user")) {
        (Some(node), None) => netns(node.text("a network namespace", report)?, node.mark, report),
        (None, Some(node)) => user(node.text("a user", report)?, node.mark, report),
        (Some(_), Some(_)) => {
            report.hinted(node.mark, "`run` has both `netns` and `user`", "keep one");
            None
        }
        (None, None) => {
            if fields.is_whole() {
                report.hinted(node.mark, "`run` does not say how", RUN_FORMS);
            }
            None
        }
    }
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
