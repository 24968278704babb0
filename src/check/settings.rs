//! `agent.yaml`, what it names, and this host's certificate.

use super::{Finding, Group};
use crate::{bundles::Trust, fabric::source, files};
use ripstop_config::{
    AgentConfig, Graph,
    agent::{IdentitySource, PolicySource},
};
use ripstop_transport::Identity;
use std::{
    path::Path,
    time::{Duration, SystemTime},
};

/// Certificates are spoken of when less than this part of their life is left: half is when they are renewed.
const LATE: f64 = 0.4;

/// The settings, and what there is to say of the file.
pub(super) fn read(path: &Path) -> (Option<AgentConfig>, Vec<Finding>) {
    let what = "agent.yaml";
    let shown = path.display();
    if !path.exists() {
        let remedy = "`ripstop init --fabric NAME` makes a fabric and this file, `ripstop join` makes it from a token";
        return (None, vec![Finding::doubtful(Group::Settings, what, format!("{shown} is not there yet"), remedy)]);
    }
    let parsed = files::read(path).and_then(|text| {
        let config = AgentConfig::parse(&shown.to_string(), &text);
        config.map_err(|mistakes| files::mistakes_in(path, &mistakes))
    });
    match parsed {
        Ok(config) => {
            let says = format!("{shown}, host {}", config.host);
            (Some(config), vec![Finding::good(Group::Settings, what, says)])
        }
        Err(error) => {
            let says = format!("{error:#}").trim_end().to_owned();
            (None, vec![Finding::bad(Group::Settings, what, says, format!("mend {shown}"))])
        }
    }
}

pub(super) fn findings(config: &AgentConfig) -> Vec<Finding> {
    match source::look(config) {
        Ok(identity) => vec![
            policy(config, &identity),
            Finding::good(Group::Certificate, "source", source::shown(config)),
            named(config, &identity),
            life(config, &identity, SystemTime::now()),
        ],
        Err(error) => {
            let remedy = match &config.identity {
                IdentitySource::Files(_) => format!(
                    "`ripstop join` gives this host a certificate, or `ripstop ca issue host {}` on an authority makes one",
                    config.host
                ),
                IdentitySource::Spire(_) => {
                    "`systemctl status spire-agent` here, `spire-server entry show` on the server".into()
                }
            };
            vec![Finding::bad(Group::Certificate, "certificate", format!("{error:#}"), remedy)]
        }
    }
}

fn policy(config: &AgentConfig, identity: &Identity) -> Finding {
    let (what, checked, remedy) = match &config.policy {
        PolicySource::Signed(file) => {
            let trust = Trust::load(file, identity.fabric());
            let says =
                trust.map(|trust| format!("{} of {} operators sign", trust.operators.need, trust.operators.keys.len()));
            ("trust", says, format!("mend {}, or take it from a host that works", file.display()))
        }
        PolicySource::File(file) => {
            let says = files::read(file).and_then(|text| {
                let graph = Graph::parse(&file.display().to_string(), &text);
                let graph = graph.map_err(|mistakes| files::mistakes_in(file, &mistakes))?;
                let known = graph.hosts.contains_key(&config.host);
                anyhow::ensure!(known, "{} has no host `{}`", file.display(), config.host);
                anyhow::ensure!(
                    graph.fabric == *identity.fabric(),
                    "{} is of the fabric `{}`, and the certificate of `{}`",
                    file.display(),
                    graph.fabric,
                    identity.fabric()
                );
                Ok(format!("{}, {} edges", file.display(), graph.edges.len()))
            });
            ("graph", says, format!("`ripstop graph check {}` says every mistake", file.display()))
        }
    };
    match checked {
        Ok(says) => Finding::good(Group::Settings, what, says),
        Err(error) => Finding::bad(Group::Settings, what, format!("{error:#}").trim_end(), remedy),
    }
}

fn named(config: &AgentConfig, identity: &Identity) -> Finding {
    let says = format!("host {} of {}", identity.host(), identity.fabric());
    if *identity.host() == config.host {
        return Finding::good(Group::Certificate, "name", says);
    }
    let remedy = format!("write `host: {}` in agent.yaml, or have this host join as {}", identity.host(), config.host);
    Finding::bad(Group::Certificate, "name", format!("{says}, but agent.yaml says {}", config.host), remedy)
}

fn life(config: &AgentConfig, identity: &Identity, now: SystemTime) -> Finding {
    let renewed = config.renew.is_some() || config.authority.is_some();
    let (renewed, remedy) = match &config.identity {
        IdentitySource::Spire(_) => (true, "see that SPIRE's agent reaches its server, and this machine's clock"),
        IdentitySource::Files(_) if renewed => (
            true,
            "see that the authority's host is up and reached by TCP (`ripstop status` there), and this machine's clock",
        ),
        IdentitySource::Files(_) => {
            (false, "nothing renews it: `ripstop ca issue host NAME` on the authority makes another")
        }
    };
    let what = "life";
    let Ok(left) = identity.not_after().duration_since(now) else {
        return Finding::bad(Group::Certificate, what, "it has expired", remedy);
    };
    if now < identity.not_before() {
        return Finding::bad(Group::Certificate, what, "it is not valid yet", "set this machine's clock");
    }
    let whole = identity.not_after().duration_since(identity.not_before()).unwrap_or(left);
    let says = format!("{} left of {}{}", hours(left), hours(whole), if renewed { ", renewed at half" } else { "" });
    if left.as_secs_f64() < whole.as_secs_f64() * LATE {
        return Finding::doubtful(Group::Certificate, what, says, remedy);
    }
    Finding::good(Group::Certificate, what, says)
}

fn hours(span: Duration) -> String {
    match span.as_secs() / 3_600 {
        hours @ 0..48 => format!("{hours} h"),
        hours => format!("{} days", hours / 24),
    }
}
