//! `ripstop services`.

use super::{
    Exit, args,
    output::{self, Output, Tone},
    socket,
};
use crate::admin::{EndpointState, ServiceView};
use comfy_table::Cell;

/// Callers named in a row at most.
const CALLERS_SHOWN: usize = 3;

/// Shows the services of every agent that answers.
pub(super) fn run(services: &args::Services, output: &Output) -> anyhow::Result<Exit> {
    let mut all: Vec<ServiceView> = Vec::new();
    for client in socket::clients(&services.socket) {
        all.extend(client.services()?);
    }
    output.show_list("services", &all, || describe(&all, output))?;
    Ok(Exit::Ok)
}

fn describe(services: &[ServiceView], output: &Output) -> String {
    if services.is_empty() {
        return "no services that this host serves or calls\n".into();
    }
    let mut table = output.table(&["SERVICE", "NAME", "IPV4", "PORTS", "BY", "ENDPOINTS", "SESSIONS", "CALLERS"]);
    for service in services {
        let ready = service.endpoints.iter().filter(|one| one.state == EndpointState::Ready).count();
        let tone = if ready == service.endpoints.len() { Tone::Good } else { Tone::Bad };
        let sessions: u64 = service.endpoints.iter().filter_map(|one| one.sessions).map(u64::from).sum();
        table.add_row(vec![
            Cell::new(&service.id),
            Cell::new(&service.name),
            Cell::new(service.v4),
            Cell::new(service.ports.join(",")),
            Cell::new(&service.by),
            output.cell(&format!("{ready}/{} ready", service.endpoints.len()), tone),
            Cell::new(sessions),
            Cell::new(callers(service)),
        ]);
    }
    output::lines(&table)
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
