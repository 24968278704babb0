//! What a host tells the others of itself: which signed policy it has, and of its endpoints whether they take sessions, and
//! how many they have.
//!
//! 1. A change of policy or state is told at once, or as soon as it has settled; a change of load within a second.
//! 2. Whoever hears it believes it as far as [`super::endpoints`] says.
//! 3. The same report, signed, is what a record has; hosts that are not connected get it by others (`fabric/carrier/records`).

use super::{
    context::Context,
    endpoints::{Standing, State},
    hearsay::ADDRESSES_MAX,
};
use ripstop_config::HostName;
use ripstop_policy::{BundleId, StageId};
use ripstop_telemetry::instruments;
use ripstop_transport::{RECORD_REPORT_MAX, REPORT_MAX, Reports};
use serde::{Deserialize, Serialize};
use std::{
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

/// The version that this agent speaks.
const VERSION: u8 = 1;
/// A change that comes within this of another is told with it: attaching ten workloads is one report.
const SETTLE: Duration = Duration::from_millis(20);
/// How long after its start a host leaves unsaid that workloads have no interface yet: they are about to get one, and what it
/// said last is what a host that connects just then hears, for a while.
const ATTACHING: Duration = Duration::from_secs(2);
/// How often a changed load is told, and hosts that are silent are forgotten.
const LOAD: Duration = Duration::from_secs(1);

/// What a host says.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    version: u8,
    /// The signed policy in force; nothing where it is a file, or there is none.
    #[serde(default, skip_serializing_if = "BundleId::is_unsigned")]
    pub policy: BundleId,
    /// The policy that is on stage; nothing where there is none, or it is on this host's alone.
    #[serde(default, skip_serializing_if = "StageId::is_none")]
    pub staged: StageId,
    /// How many records with news it has had of other hosts, so that they are asked for at once.
    #[serde(default, skip_serializing_if = "is_none")]
    pub news: u64,
    /// How many data threads it has, each with a port of its own.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub threads: u8,
    /// Where it can be reached, as others see it; in records alone, as who is connected sees it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<SocketAddr>,
    /// Its endpoints.
    pub endpoints: Vec<Standing>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_none(news: &u64) -> bool {
    *news == 0
}

fn one() -> u8 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_one(threads: &u8) -> bool {
    *threads == 1
}

/// Why a report is not one.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// Longer than any report.
    #[error("it is of {0} bytes, more than {REPORT_MAX}")]
    TooLarge(usize),
    /// Of another version.
    #[error("it is of version {0}, this agent knows {VERSION}")]
    Version(u8),
    /// Not of the form.
    #[error("it is not well-formed")]
    Json(#[from] serde_json::Error),
}

impl Report {
    /// Endpoints beyond what fits are left out, those first of which there is least to say: that they are ready, of the usual weight,
    /// and idle. Of what is left out nothing is known, and it is tried.
    fn encode(mut self, most: usize) -> Result<Vec<u8>, serde_json::Error> {
        self.endpoints
            .sort_by_key(|one| (one.state == State::Ready && one.weight.is_none(), std::cmp::Reverse(one.sessions)));
        loop {
            let text = serde_json::to_vec(&self)?;
            if text.len() <= most || self.endpoints.is_empty() {
                return Ok(text);
            }
            let fitting = self.endpoints.len() * most / text.len();
            self.endpoints.truncate(fitting.min(self.endpoints.len() - 1));
        }
    }

    /// What a record has of it, at most [`RECORD_REPORT_MAX`] bytes: what other hosts told this one is not for those that hear it
    /// by others.
    ///
    /// # Errors
    /// Those of the JSON writer.
    pub fn for_record(self, addresses: Vec<SocketAddr>) -> Result<Vec<u8>, serde_json::Error> {
        Self { staged: StageId::default(), news: 0, addresses, ..self }.encode(RECORD_REPORT_MAX)
    }
}

/// Reads what another host says; no more of it is believed than that this host said so.
///
/// # Errors
/// [`ReportError`].
pub fn decode(text: &[u8]) -> Result<Report, ReportError> {
    #[derive(Deserialize)]
    struct Version {
        version: u8,
    }
    if text.len() > REPORT_MAX {
        return Err(ReportError::TooLarge(text.len()));
    }
    // The version first: another one may have other states.
    let Version { version } = serde_json::from_slice(text)?;
    if version != VERSION {
        return Err(ReportError::Version(version));
    }
    let mut report: Report = serde_json::from_slice(text)?;
    report.addresses.truncate(ADDRESSES_MAX);
    Ok(report)
}

/// Takes what other hosts say, for as long as they can.
pub async fn listen(context: Rc<Context>, mut reports: Reports) {
    while let Some((host, text)) = reports.next().await {
        hear(&context, &host, &text);
    }
}

fn hear(context: &Context, host: &HostName, text: &[u8]) {
    let said = match decode(text) {
        Ok(said) => said,
        Err(error) => return tracing::warn!(%host, %error, "a report that is not understood"),
    };
    if let Some(policies) = &context.control.policies {
        policies.hear(host, said.policy);
        policies.hear_stage(host, said.staged);
    }
    context.control.hearsay.hear(host, said.news);
    context.control.lanes.hear(host, said.threads);
    for standing in context.endpoints.hear(&context.policy(), host, said.endpoints) {
        context.balancer.reported(&standing.service, host, standing.sessions);
    }
}

/// Tells the others how the endpoints of this host are, and the metrics which are drained, for as long as it runs.
pub async fn tell(context: Rc<Context>) {
    let (mut told, mut before, start) = (Vec::new(), Vec::new(), Instant::now());
    loop {
        let state_changed = tokio::time::timeout(LOAD, context.endpoints.changed()).await.is_ok();
        if state_changed {
            tokio::time::sleep(SETTLE).await;
        }
        context.endpoints.forget(|host| context.transport.is_up(host));
        let own = context.endpoints.own();
        publish(&own, &std::mem::replace(&mut before, own.clone()));
        if start.elapsed() < ATTACHING && own.iter().any(|one| one.state == State::Absent) {
            continue;
        }
        let report = Report {
            version: VERSION,
            policy: context.policy().id(),
            staged: context.observed.stage_id(),
            news: context.control.hearsay.news(),
            threads: context.siblings.threads(),
            addresses: Vec::new(),
            endpoints: own,
        };
        match report.encode(REPORT_MAX) {
            Ok(text) if text != told => {
                context.transport.announce(text.clone().into());
                told = text;
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "failed to write a report"),
        }
    }
}

/// The metrics of endpoints; `before` has those of which they may still tell.
fn publish(own: &[Standing], before: &[Standing]) {
    let gone = before.iter().filter(|old| own.iter().all(|one| one.service != old.service));
    gone.for_each(|old| instruments::endpoint_draining(&old.service, None));
    for one in own {
        instruments::endpoint_draining(&one.service, Some(one.state == State::Draining));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(index: usize, state: State, sessions: u32) -> Standing {
        Standing { service: format!("shop/s{index}").parse().unwrap(), state, sessions, weight: None }
    }

    fn encode(policy: BundleId, staged: StageId, endpoints: Vec<Standing>) -> Vec<u8> {
        let report = Report { version: VERSION, policy, staged, news: 0, threads: 1, addresses: Vec::new(), endpoints };
        report.encode(REPORT_MAX).unwrap()
    }

    #[test]
    fn a_report_comes_through() {
        let weighty = Standing { weight: Some(5), ..standing(1, State::Ready, 0) };
        let said = vec![standing(0, State::Draining, 3), weighty];
        let text = encode(BundleId::default(), StageId::default(), said.clone());
        let expected = r#"{"version":1,"endpoints":[{"service":"shop/s0","state":"draining","sessions":3},{"service":"shop/s1","state":"ready","sessions":0,"weight":5}]}"#;
        assert_eq!(String::from_utf8(text.clone()).unwrap(), expected);
        assert_eq!(decode(&text).unwrap().endpoints, said);
        let id = BundleId { version: "1.7".parse().unwrap(), digest: [9; 8] };
        let staged = StageId { bundle: id, number: 4 };
        let both = decode(&encode(id, staged, said.clone())).unwrap();
        assert_eq!((both.policy, both.staged), (id, staged));
        let addresses: Vec<SocketAddr> = (1..=9).map(|port| SocketAddr::from(([192, 0, 2, 1], port))).collect();
        let recorded = Report { news: 9, threads: 4, ..both }.for_record(addresses.clone()).unwrap();
        let recorded = decode(&recorded).unwrap();
        assert_eq!((recorded.policy, recorded.staged, recorded.news), (id, StageId::default(), 0));
        assert_eq!(recorded.threads, 4);
        assert_eq!((recorded.endpoints, recorded.addresses), (said, addresses[..ADDRESSES_MAX].to_vec()));
    }

    #[test]
    fn too_many_endpoints_are_cut_to_those_that_matter() {
        let mut all: Vec<_> = (0..5_000).map(|index| standing(index, State::Ready, 0)).collect();
        all.push(standing(5_000, State::Ready, 9));
        all.push(standing(5_001, State::Unhealthy, 0));
        let text = encode(BundleId::default(), StageId::default(), all);
        assert!(text.len() <= REPORT_MAX && text.len() > REPORT_MAX / 2, "{}", text.len());
        let recorded = decode(&text).unwrap().for_record(Vec::new()).unwrap();
        assert!(recorded.len() <= RECORD_REPORT_MAX && recorded.len() > RECORD_REPORT_MAX / 2, "{}", recorded.len());
        let said = decode(&text).unwrap().endpoints;
        assert_eq!(said[..2], [standing(5_001, State::Unhealthy, 0), standing(5_000, State::Ready, 9)]);
    }

    #[test]
    fn what_is_not_a_report_is_refused() {
        assert!(matches!(decode(br#"{"version":2,"endpoints":{}}"#), Err(ReportError::Version(2))));
        assert!(matches!(decode(&vec![b' '; REPORT_MAX + 1]), Err(ReportError::TooLarge(_))));
        let deep = [vec![b'['; 60_000], vec![b']'; 2]].concat();
        for bad in [&b""[..], b"{}", b"{\"version\":1}", b"{\"version\":1,\"endpoints\":[{\"service\":\"x\"}]}", &deep]
        {
            assert!(
                matches!(decode(bad), Err(ReportError::Json(_))),
                "{}",
                String::from_utf8_lossy(&bad[..bad.len().min(50)])
            );
        }
    }
}
