//! Questions that the agent asks for its operator: other hosts' agents for a sign of life, and DNS as a workload would.

use super::carrier;
use crate::admin::{Pong, Resolved};
use ripstop_config::{HostName, WorkloadId};
use ripstop_datapath::session::context::ForwardQuery;
use ripstop_dns::{Answer, Looked, Via};
use ripstop_policy::Policy;
use ripstop_transport::{AskError, Transport};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};

/// The longest wait for another agent: a host that is not heard for so long is out of reach for sessions as well.
const PONG_MAX: Duration = Duration::from_secs(5);

/// Asks a host's agent, over the connection that sessions take. Blocks; on a thread of the runtime that may.
pub(super) fn ping(transport: &Transport, host: &HostName) -> Result<Pong, String> {
    let (start, sent) = (Instant::now(), wall_clock());
    let kind = carrier::Kind::Ping as u8;
    let asked = Handle::current().block_on(transport.ask(host, kind, &[], carrier::PONG, PONG_MAX));
    let rtt = start.elapsed().as_secs_f64();
    let theirs = match asked {
        Ok(answer) => answer.first_chunk().map(|micros| Duration::from_micros(u64::from_be_bytes(*micros))),
        // An agent of a version that does not know the question has answered all the same.
        Err(AskError::Refused(_)) => None,
        Err(error) => return Err(error.to_string()),
    };
    let ahead = |theirs: Duration| theirs.as_secs_f64() - (sent.as_secs_f64() + rtt / 2.0);
    Ok(Pong { host: host.clone(), rtt, clock_ahead: theirs.map(ahead) })
}

/// The answer to that: this host's clock, in microseconds since 1970.
pub(super) fn pong() -> [u8; carrier::PONG] {
    u64::try_from(wall_clock().as_micros()).unwrap_or(u64::MAX).to_be_bytes()
}

/// Zero for a clock before 1970.
fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Asks for a name as a workload's own query would. Blocks while another server is asked.
pub(super) fn resolve(
    policy: &Policy,
    forward: &mpsc::Sender<ForwardQuery>,
    workload: &WorkloadId,
    name: &str,
    kind: &str,
) -> Result<Resolved, String> {
    let caller = policy.workload(workload).ok_or_else(|| format!("the policy has no workload {workload}"))?;
    let query = ripstop_dns::question(name, kind).map_err(|error| error.to_string())?;
    let (source, answered) = match ripstop_dns::answer(policy, caller, &query, Via::Tcp) {
        Answer::Forward => ("upstream", upstream(forward, workload, query)?),
        own @ (Answer::Reply(_) | Answer::Drop(_)) => ("fabric", own),
    };
    match answered {
        Answer::Reply(reply) => {
            let looked = Looked::read(&reply.bytes).map_err(|error| error.to_string())?;
            Ok(Resolved { workload: workload.clone(), name: name.into(), source: source.into(), looked })
        }
        Answer::Drop(reason) => Err(format!("the query was dropped: {}", reason.describe())),
        Answer::Forward => Err("nobody answers for that name".into()),
    }
}

fn upstream(forward: &mpsc::Sender<ForwardQuery>, workload: &WorkloadId, query: Vec<u8>) -> Result<Answer, String> {
    let (reply, waiting) = oneshot::channel();
    let query = ForwardQuery { workload: workload.clone(), query, via: Via::Tcp, reply };
    forward.try_send(query).map_err(|_| "too many DNS queries wait for other servers; try again")?;
    waiting.blocking_recv().map_err(|_| "the agent is stopping".into())
}
