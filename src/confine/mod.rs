//! What the agent and its door give up before they hear anybody.
//!
//! | | agent | door |
//! |---|---|---|
//! | capabilities | CAP_NET_ADMIN; CAP_NET_BIND_SERVICE where the settings name a port below 1024 | CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_SYS_PTRACE |
//! | new rights by execution | never | never |
//! | system calls ([`calls`]) | all but those that nothing here needs: no program is run, no namespace entered | only those that its few requests take |
//! | files ([`files`], Landlock) | reads settings, graph, keys and what the system says of itself; writes its state, records and run directory | all, as namespaces may be anywhere |
//! | core dumps, debuggers of the same user | none | none |
//!
//! All of it is per thread, and inherited: so it is done before there is a second thread, and before a runtime.

pub mod calls;
pub mod files;
mod rights;

use anyhow::Context as _;
use caps::Capability;
use nix::sys::{
    prctl,
    resource::{Resource, setrlimit},
    signal::{SigSet, Signal},
};
use ripstop_config::AgentConfig;

/// The first port that anybody may listen on, unless the host says otherwise (ip(7), `ip_unprivileged_port_start`).
const PORTS: u16 = 1024;

/// Takes from the calling process, the agent's, what it does not need to carry sessions.
///
/// # Errors
/// When something cannot be given up: the agent does not run with more than it needs. A kernel without Landlock is not an
/// error, and logged.
pub fn agent(config: &AgentConfig) -> anyhow::Result<()> {
    let low = |port: u16| port < PORTS && port != 0;
    let serves_low =
        low(config.listen.port()) || [config.metrics, config.page].iter().flatten().any(|address| low(address.port()));
    let bind = serves_low.then_some(Capability::CAP_NET_BIND_SERVICE);
    files::restrict(config).context("failed to restrict the agent to its files")?;
    rights::keep([Capability::CAP_NET_ADMIN].into_iter().chain(bind))?;
    hide()?;
    calls::deny_to_agent().context("failed to restrict the agent's system calls")
}

/// Takes from the calling process, the door, what it does not need to enter namespaces.
///
/// # Errors
/// When something cannot be given up.
pub fn door() -> anyhow::Result<()> {
    // A service manager, or a terminal, sends them to the agent and to the door: it is the agent that stops in order, and
    // needs the door for that. It ends when the agent has.
    let told_to_the_agent = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    told_to_the_agent.thread_block().context("failed to leave signals to the agent")?;
    rights::keep([
        // To enter a namespace.
        Capability::CAP_SYS_ADMIN,
        // To make a device there; and the kernel asks for it of whoever opened a socket that changes something.
        Capability::CAP_NET_ADMIN,
        // To look at /proc/PID/ns/net of processes that have rights of their own.
        Capability::CAP_SYS_PTRACE,
    ])?;
    hide()?;
    calls::allow_to_door().context("failed to restrict the door's system calls")
}

/// No core dump, which would hold keys, and no debugger of the same user.
fn hide() -> anyhow::Result<()> {
    prctl::set_dumpable(false).context("failed to keep debuggers away")?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("failed to switch core dumps off")
}
