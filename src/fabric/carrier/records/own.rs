//! This host's own record: signed anew when there is something to say, and at half of its life.

use super::judge;
use crate::{admin::AgentView as _, fabric::shared::Shared};
use anyhow::Context as _;
use bytes::Bytes;
use ripstop_config::ServiceId;
use ripstop_datapath::session::{
    endpoints::State,
    hearsay::Taken,
    report::{self, Report},
};
use ripstop_policy::BundleId;
use ripstop_transport::{CertificateId, RECORD_LIFE_MAX, Stamp};
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// Life of a record among few hosts: what a host that is gone said is forgotten as soon as its connections are.
const LIFE_MIN: Duration = Duration::from_secs(10);
/// What each host of the fabric adds, so that all of them together sign 20 records a second, however many they are.
const LIFE_EACH: Duration = Duration::from_millis(100);
/// Least time between two records.
const BETWEEN: Duration = Duration::from_millis(500);

/// How long a record is good in a fabric of so many hosts.
pub(super) fn life(hosts: usize) -> Duration {
    let each = LIFE_EACH.saturating_mul(u32::try_from(hosts).unwrap_or(u32::MAX));
    each.clamp(LIFE_MIN, RECORD_LIFE_MAX)
}

/// The last one.
struct Told {
    at: Instant,
    stamp: Stamp,
    essence: Essence,
}

/// What of a record is to be known at once. Where this host is seen is not: a neighbour says that, and could say another place
/// every moment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Essence {
    endpoints: Vec<(ServiceId, State, Option<u32>)>,
    /// By which it is signed: a record is good for as long as that.
    certificate: CertificateId,
    /// Where those ask for it that are not connected: by etcd.
    policy: Option<BundleId>,
}

/// Tells of this host for as long as it runs.
pub(super) async fn tell(shared: &Arc<Shared>) {
    let mut reports = shared.data().transport().announced();
    let mut told = None;
    loop {
        let report = reports.borrow_and_update().clone();
        // Before the data thread has said anything there is nothing to tell.
        let wait = match report::decode(&report) {
            Ok(report) => tell_one(shared, report, &mut told),
            Err(_) => LIFE_MIN,
        };
        tokio::select! {
            Ok(()) = reports.changed() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Says what there is to say, if it is time; returns how long there is nothing.
fn tell_one(shared: &Shared, report: Report, told: &mut Option<Told>) -> Duration {
    let (essence, now) = (essence(shared, &report), Instant::now());
    let life = life(shared.policy().graph().hosts.len());
    let wait = wait(told.as_ref(), &essence, life, now);
    if !wait.is_zero() {
        return wait;
    }
    let stamp = Stamp::now(life, told.as_ref().map(|told| told.stamp), SystemTime::now());
    if let Err(error) = sign(shared, report, stamp, now) {
        tracing::error!("this host cannot tell others of itself by a record: {error:#}");
    }
    *told = Some(Told { at: now, stamp, essence });
    life / 2
}

/// How long until there is something to tell.
fn wait(told: Option<&Told>, essence: &Essence, life: Duration, now: Instant) -> Duration {
    let Some(told) = told else { return Duration::ZERO };
    let pause = if told.essence == *essence { life / 2 } else { BETWEEN };
    (told.at + pause).saturating_duration_since(now)
}

fn essence(shared: &Shared, report: &Report) -> Essence {
    let endpoints = report.endpoints.iter().map(|one| (one.service.clone(), one.state, one.weight)).collect();
    let by_etcd = shared.config().carrier.etcd.is_some();
    Essence {
        endpoints,
        certificate: shared.data().transport().identity().certificate().clone(),
        policy: by_etcd.then_some(report.policy),
    }
}

fn sign(shared: &Shared, report: Report, stamp: Stamp, now: Instant) -> anyhow::Result<()> {
    let text = report.for_record(shared.hearsay.own_addresses())?;
    let record: Bytes = shared.data().transport().identity().sign_record(stamp, &text)?.into();
    let said = judge::said(record.clone(), stamp, report::decode(&text).context("what was just written is not read")?);
    shared.own_record.send_replace(record);
    if shared.hearsay.take(shared.host(), said, stamp.life(), now) == Taken::News {
        shared.data().tell();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fabric_as_a_whole_signs_so_many_a_second() {
        for (hosts, life_s) in [(0, 10), (20, 10), (100, 10), (200, 20), (1_000, 100), (5_000, 120), (usize::MAX, 120)]
        {
            assert_eq!(life(hosts).as_secs(), life_s, "{hosts} hosts");
        }
        let a_second = 1_000.0 / (life(1_000) / 2).as_secs_f64();
        assert!((a_second - 20.0).abs() < 0.1, "{a_second}");
    }

    #[test]
    fn what_is_new_is_told_soon_and_the_rest_at_half_of_its_life() {
        let (start, life) = (Instant::now(), Duration::from_secs(10));
        let certificate = CertificateId { issuer: "i".into(), serial: "1".into() };
        let essence = |state| Essence {
            endpoints: vec![("shop/api".parse().unwrap(), state, None)],
            certificate: certificate.clone(),
            policy: None,
        };
        let told = Told { at: start, stamp: Stamp { issued: 1, life: 10 }, essence: essence(State::Ready) };
        let at = |state, ms| wait(Some(&told), &essence(state), life, start + Duration::from_millis(ms)).as_millis();
        assert_eq!(wait(None, &essence(State::Ready), life, start), Duration::ZERO);
        assert_eq!((at(State::Ready, 0), at(State::Ready, 4_000), at(State::Ready, 5_000)), (5_000, 1_000, 0));
        assert_eq!((at(State::Draining, 100), at(State::Draining, 500)), (400, 0));
    }
}
