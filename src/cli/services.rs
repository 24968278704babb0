//! `ripstop services`.

use super::{
    Exit, args,
    output::{Output, Tone},
    socket::{self, Said},
};
use crate::admin::{EndpointState, ServiceView};
use comfy_table::Cell;

/// Callers named in a row at most.
const CALLERS_SHOWN: usize = 3;

/// Shows the services of every agent that answers.
pub(super) fn run(services: &args::Services, output: &Output) -> anyhow::Result<Exit> {
    let clients = socket::clients(&services.socket);
    let mut all: Vec<Said<ServiceView>> = Vec::new();
    for client in &clients {
        let agent = if clients.len() > 1 { Some(client.status()?.host) } else { None };
        all.extend(client.services()?.into_iter().map(|value| Said { agent: agent.clone(), value }));
    }
    output.show_list("services", &all, || describe(&all, output))?;
    Ok(Exit::Ok)
}

fn describe(services: &[Said<ServiceView>], output: &Output) -> String {
    if services.is_empty() {
        return "no services that this host serves or calls\n".into();
    }
    let head = ["SERVICE", "NAME", "IPV4", "PORTS", "BY", "ENDPOINTS", "SESSIONS", "CALLERS"];
    output.table_of(&head, services, |service| {
        let ready = service.endpoints.iter().filter(|one| one.state == EndpointState::Ready).count();
        let tone = if ready == service.endpoints.len() { Tone::Good } else { Tone::Bad };
        let sessions: u64 = service.endpoints.iter().filter_map(|one| one.sessions).map(u64::from).sum();
        vec![
            Cell::new(&service.id),
            Cell::new(&service.name),
            Cell::new(service.v4),
            Cell::new(service.ports.join(",")),
            Cell::new(&service.by),
            output.cell(&format!("{ready}/{} ready", service.endpoints.len()), tone),
            Cell::new(sessions),
            Cell::new(callers(service)),
        ]
    })
}

fn callers(service: &ServiceView) -> String {
    let mut names: Vec<_> = service.callers.iter().take(CALLERS_SHOWN).map(ToString::to_string).collect();
    match service.callers.len().saturating_sub(CALLERS_SHOWN) {
        0 if names.is_empty() => "-".into(),
        0 => names.join(","),
        more => {
            names.push(format!("and {more} more"));
            names.join(",")
        }
    }
}
