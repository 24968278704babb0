//! `ripstop exec`: a command as a workload would run it.
//!
//! 1. The agents are asked where the workload is; the one that has it attached is taken.
//! 2. The network namespace is entered: the workload's own, or, for one on the host, the agent's. A control group is entered
//!    as well.
//! 3. In a mount namespace of its own, a `resolv.conf` that names the fabric's resolver is put over `/etc/resolv.conf`.
//! 4. A workload that is a user: that user is become. Otherwise the command runs as whoever asked.
//! 5. The command takes this process's place.

use super::{Exit, args, socket};
use crate::admin::{BY_HAND, Status, WorkloadState, WorkloadStatus};
use anyhow::{Context, bail};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    unistd::{Gid, Uid, User, geteuid, initgroups, setgid, setgroups, setuid},
};
use ripstop_config::{FabricName, TenantName};
use ripstop_kernel::Cgroup;
use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Sockets of caches that would ask for names on the host's behalf, past the workload's interface.
const NAME_CACHES: [&str; 2] = ["/run/systemd/resolve/io.systemd.Resolve", "/run/nscd/socket"];

/// Where a workload was found.
struct Target {
    status: Status,
    workload: WorkloadStatus,
    agent_pid: i32,
}

/// Becomes the command; returns only when that fails.
pub(super) fn run(exec: &args::Exec) -> anyhow::Result<Exit> {
    let target = find(exec)?;
    if !geteuid().is_root() {
        bail!("entering the network of {} needs root; try with sudo", target.workload.id);
    }
    let [program, arguments @ ..] = exec.command.as_slice() else { bail!("there is no command to run") };
    let mut command = Command::new(program);
    command.args(arguments);
    match target.workload.kind.as_str() {
        "netns" | "container" | "pod" | BY_HAND => enter_network(Path::new(&target.workload.place))?,
        "user" | "host" => enter_network(&network_of(&target))?,
        "cgroup" => {
            join_cgroup(&target.workload.place)?;
            enter_network(&network_of(&target))?;
        }
        other => bail!("this version of ripstop does not know workloads of the kind `{other}`"),
    }
    cover_resolver(&target)?;
    if target.workload.kind == "user" {
        become_user(&target.workload.place, &mut command)?;
    }
    let error = command.exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

fn network_of(agent: &Target) -> PathBuf {
    PathBuf::from(format!("/proc/{}/ns/net", agent.agent_pid))
}

/// What the command opens is the control group's.
fn join_cgroup(path: &str) -> anyhow::Result<()> {
    let group = Cgroup::find(path).with_context(|| format!("cannot find the control group {path}"))?;
    group.join().with_context(|| format!("cannot enter the control group {path}"))
}

fn find(exec: &args::Exec) -> anyhow::Result<Target> {
    let (mut attached, mut waiting, mut others) = (Vec::new(), Vec::new(), Vec::new());
    for found in socket::answering(&exec.socket)? {
        for workload in &found.status.workloads {
            let id = &workload.id;
            if id.to_string() != exec.workload && id.name.as_str() != exec.workload {
                others.push(format!("{id} on {}", found.status.host));
                continue;
            }
            match &workload.state {
                WorkloadState::Attached
                    if let Some(replica) = &exec.replica
                        && !is_replica(workload, replica) =>
                {
                    waiting.push(format!(
                        "{id} on {} is not {replica}; `ripstop workloads` shows what is",
                        found.status.host
                    ));
                }
                WorkloadState::Attached => {
                    let agent_pid = found.pid.unwrap_or(found.status.pid.cast_signed());
                    attached.push(Target { workload: workload.clone(), status: found.status.clone(), agent_pid });
                }
                WorkloadState::Waiting(why) => {
                    waiting.push(format!("{id} on {} has no interface yet: {why}", found.status.host));
                }
            }
        }
    }
    if let Some(other) = attached.iter().find(|target| target.workload.id != attached[0].workload.id) {
        bail!("`{}` may be {} or {}; write TENANT/NAME", exec.workload, attached[0].workload.id, other.workload.id);
    }
    // The same workload on several hosts of one machine is the demo's doing: any of them serves.
    if !attached.is_empty() {
        return Ok(attached.swap_remove(0));
    }
    if let Some(why) = waiting.first() {
        bail!("{why}");
    }
    let others = if others.is_empty() { "none".into() } else { others.join(", ") };
    bail!("no agent here has a workload `{}`; there are: {others}", exec.workload)
}

/// Whether it is the replica whose id begins so.
fn is_replica(workload: &WorkloadStatus, begins: &str) -> bool {
    workload.replica.as_ref().is_some_and(|replica| replica.as_str().starts_with(begins))
}

fn enter_network(path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    let namespace = File::open(path).with_context(|| format!("cannot open the network namespace {shown}"))?;
    setns(namespace, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("cannot enter the network namespace {shown}; this needs root with CAP_SYS_ADMIN"))
}

/// Names go to the fabric's resolver, in this process alone.
fn cover_resolver(target: &Target) -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)
        .context("cannot keep mounts from the host")?;
    // A mount needs a file to cover; where the name is a link, it is what the link leads to.
    let covered = fs::canonicalize(RESOLV_CONF).with_context(|| format!("{RESOLV_CONF} leads nowhere; `touch` it"))?;
    let text = resolv_conf(target);
    let source = temporary(&text)?;
    let mounted = bind(&source, &covered);
    // The mount keeps the file alive without its name.
    fs::remove_file(&source).with_context(|| format!("cannot remove {}", source.display()))?;
    mounted?;
    let caches = NAME_CACHES.iter().map(Path::new).filter(|path| path.exists());
    caches.into_iter().try_for_each(|cache| bind(Path::new("/dev/null"), cache))
}

fn resolv_conf(target: &Target) -> String {
    let (resolver, fabric) = (target.status.resolver.v4, &target.status.fabric);
    format!(
        "# The fabric's resolver, for {}\nnameserver {resolver}\nsearch {}\n",
        target.workload.id,
        search_domain(&target.workload.id.tenant, fabric)
    )
}

/// Where names without a dot are looked for: `eu.shop.FABRIC` for a tenant `shop/eu`.
fn search_domain(tenant: &TenantName, fabric: &FabricName) -> String {
    format!("{}.{fabric}", tenant.dns_labels())
}

fn temporary(text: &str) -> anyhow::Result<PathBuf> {
    let path = PathBuf::from(format!("/run/ripstop-exec-{}", std::process::id()));
    let shown = path.display();
    // One that a killed process with the same id left behind.
    let _ = fs::remove_file(&path);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path);
    let mut file = file.with_context(|| format!("cannot write {shown}"))?;
    // Whatever the umask: every user reads it.
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .with_context(|| format!("cannot write {shown}"))?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {shown}"))?;
    Ok(path)
}

fn bind(source: &Path, target: &Path) -> anyhow::Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot put the fabric's resolver over {}", target.display()))
}

/// Groups first, the user last: afterwards there is no right to change the others.
fn become_user(place: &str, command: &mut Command) -> anyhow::Result<()> {
    let uid: u32 =
        place.parse().with_context(|| format!("the agent names the user `{place}`, which is not a number"))?;
    let known = User::from_uid(Uid::from_raw(uid)).context("cannot look the user up")?;
    let gid = known.as_ref().map_or(Gid::from_raw(uid), |user| user.gid);
    match &known {
        Some(user) => {
            initgroups(&CString::new(user.name.as_str())?, gid).context("cannot take on the user's groups")?;
            command.env("HOME", &user.dir).env("USER", &user.name).env("LOGNAME", &user.name);
        }
        None => setgroups(&[]).context("cannot drop the groups")?,
    }
    setgid(gid).context("cannot take on the user's group")?;
    setuid(Uid::from_raw(uid)).with_context(|| format!("cannot become the user {uid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_below_another_searches_its_own_domain() {
        let fabric = FabricName::new("f.test").unwrap();
        let domain = |tenant: &str| search_domain(&TenantName::new(tenant).unwrap(), &fabric);
        assert_eq!((domain("shop").as_str(), domain("shop/eu").as_str()), ("shop.f.test", "eu.shop.f.test"));
    }
}
