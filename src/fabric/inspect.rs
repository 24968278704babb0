//! What a data thread says of itself when it is asked: its sessions, and what a staged policy would change of them; and the first
//! one of the host's services.

use super::{
    data::{Inspection, SHOWN_MAX},
    services,
};
use crate::admin::LiveSession;
use ripstop_config::HostName;
use ripstop_datapath::interface::{Interface, InterfaceId};
use ripstop_datapath::session::{context::Context, live::Live, observe::Staged, voice};
use ripstop_telemetry::Side;
use std::rc::Rc;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The sessions in hand by interface, and one by one where they are to be listed.
pub(super) fn inspect(context: &Context, list: bool) -> Inspection {
    let mut inspection = Inspection { per_thread: vec![context.live.len() as u64], ..Inspection::default() };
    context.live.for_each(|live| {
        let here = match live.request.side {
            Side::Caller => live.called_by(),
            Side::Server => live.served_by(),
        };
        if let Some(interface) = here {
            *inspection.per_interface.entry(interface.id().clone()).or_default() += 1;
        }
        if list && inspection.sessions.len() < SHOWN_MAX {
            inspection.sessions.extend(describe(live, &context.host));
        }
    });
    if !context.siblings.is_first() {
        return inspection;
    }
    let said = |interface: Rc<Interface>| -> (InterfaceId, Vec<String>) {
        (interface.id().clone(), voice::described(context, interface.id()))
    };
    inspection.says = context.interfaces().into_iter().map(said).collect();
    inspection.services = services::describe(context);
    inspection
}

/// What a staged policy said of the attempts since, and how many sessions of callers here it would cut.
pub(super) fn staged(context: &Context) -> Option<Staged> {
    context.observed.staged(|policy| {
        let mut cut = 0;
        // A session has one caller, so that those of all hosts can be added up.
        context.live.for_each(|live| {
            let calls = live.request.side == Side::Caller;
            cut += usize::from(calls && live.authorise_again(policy, &context.host).is_err());
        });
        cut
    })
}

fn describe(live: &Live, host: &HostName) -> Option<LiveSession> {
    let peer = match live.request.side {
        Side::Caller => live.endpoint_host.borrow().clone().unwrap_or_else(|| host.clone()),
        Side::Server => live.request.speaker.clone(),
    };
    let started = OffsetDateTime::now_utc() - live.started.elapsed();
    Some(LiveSession {
        session: live.id.to_string(),
        side: live.request.side,
        started: started.format(&Rfc3339).unwrap_or_default(),
        caller: live.request.caller.clone(),
        caller_replica: live.called_by().and_then(|interface| interface.id().replica.clone()),
        endpoint_replica: live.served_by().and_then(|interface| interface.id().replica.clone()),
        service: live.request.service.clone()?,
        port: live.request.port.number,
        peer,
        bytes_up: live.up.bytes.get(),
        bytes_down: live.down.bytes.get(),
        waited_s: (live.up.waited.get() + live.down.waited.get()).as_secs_f64(),
    })
}
