//! Which interface of an endpoint's workload takes a session, where there are several: those of its replicas.

use super::Unreached;
use crate::{
    interface::Interface,
    session::{context::Context, live::Request, order::Sticky, serving::Through},
};
use ripstop_config::Reason;
use ripstop_policy::ServiceEntry;
use std::{
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

/// For how long another replica is still asked: the last one may take 4 s, and the caller waits for 10 s.
const SEARCH_MAX: Duration = Duration::from_secs(5);

/// An endpoint that was found.
pub struct Found<T> {
    /// The way to it.
    pub reached: T,
    /// At which address it listens.
    pub at: SocketAddr,
    /// By which interface it is reached.
    pub through: Through,
}

/// Tries a session at one interface of the service's workload after the other, until one takes it: `attempt` is given the
/// interface. One whose program has ended, or that goes while it is asked, is passed over.
///
/// # Errors
/// What the last one answered.
pub(crate) async fn among<T>(
    context: &Context,
    service: &ServiceEntry,
    request: &Request,
    attempt: impl AsyncFn(&Rc<Interface>) -> Result<(T, SocketAddr), Unreached>,
) -> Result<Found<T>, Unreached> {
    let started = Instant::now();
    let mut last = Unreached { reason: Reason::NoInterface, detail: context.host.to_string() };
    let whose = Sticky { service: &service.id, caller: &request.caller, host: &request.speaker };
    let sticky = service.balance.sticky.then_some(&whose);
    for id in context.endpoints.order(&service.id, sticky, started) {
        let Some(interface) = context.interface(&id) else { continue };
        let Some(through) = Through::take(context, &service.id, &interface) else { continue };
        let attempted = tokio::select! {
            // First, so that none is found at an interface that is gone.
            biased;
            () = interface.closed() => Err(Unreached { reason: Reason::NoInterface, detail: context.host.to_string() }),
            attempted = attempt(&interface) => attempted,
        };
        match attempted {
            Ok((reached, at)) => return Ok(Found { reached, at, through }),
            Err(unreached) if is_of_interface(unreached.reason) => last = unreached,
            Err(unreached) => return Err(unreached),
        }
        context.endpoints.missed(&service.id, &id, Instant::now());
        if started.elapsed() >= SEARCH_MAX {
            break;
        }
    }
    Err(last)
}

/// The failure is of one interface, or of the program behind it, so another may do better.
fn is_of_interface(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::EndpointRefused
            | Reason::EndpointReset
            | Reason::EndpointTimeout
            | Reason::EndpointUnreachable
            | Reason::NoInterface
            | Reason::AgentFull
    )
}
