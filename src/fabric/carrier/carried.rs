//! What is known of the etcd that carries policies: for `ripstop status`, for metrics, and of hosts for who applies a policy.

use crate::{admin::CarrierStatus, fabric::shared::rfc3339};
use ripstop_config::HostName;
use ripstop_policy::BundleId;
use ripstop_telemetry::instruments;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use time::OffsetDateTime;
use tokio::sync::Notify;

/// How long from a question what hosts say is read again and again.
const ASKED: Duration = Duration::from_secs(10);

/// What is known of it; nothing where none carries policies.
#[derive(Default)]
pub(in crate::fabric) struct Carried {
    state: Mutex<State>,
    asked: Notify,
}

#[derive(Default)]
struct State {
    status: Option<CarrierStatus>,
    /// Until when somebody wants to know what hosts say.
    asked: Option<Instant>,
    /// What they said, since that was asked.
    said: Option<Arc<BTreeMap<HostName, BundleId>>>,
}

/// What hosts say, by a carrier, of the policies that they run; each is signed by its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::fabric) enum Said {
    /// No carrier answers.
    Nothing,
    /// It is being read.
    Awaited,
    /// Of those that live.
    Known(Arc<BTreeMap<HostName, BundleId>>),
}

impl Said {
    /// What a host says.
    pub(in crate::fabric) fn of(&self, host: &HostName) -> Option<BundleId> {
        match self {
            Self::Known(said) => said.get(host).copied(),
            Self::Nothing | Self::Awaited => None,
        }
    }

    pub(in crate::fabric) fn is_awaited(&self) -> bool {
        *self == Self::Awaited
    }

    pub(in crate::fabric) fn is_known(&self) -> bool {
        matches!(self, Self::Known(_))
    }
}

impl Carried {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it is, for people.
    pub(in crate::fabric) fn status(&self) -> Option<CarrierStatus> {
        self.state().status.clone()
    }

    /// What hosts say; it is read for a while from each call.
    pub(in crate::fabric) fn ask(&self, now: Instant) -> Said {
        let mut state = self.state();
        if !state.status.as_ref().is_some_and(|status| status.up) {
            return Said::Nothing;
        }
        if state.asked.replace(now + ASKED).is_none() {
            state.said = None;
        }
        self.asked.notify_one();
        state.said.as_ref().map_or(Said::Awaited, |said| Said::Known(Arc::clone(said)))
    }
}

#[cfg_attr(not(feature = "etcd"), expect(dead_code, reason = "for the etcd alone"))]
impl Carried {
    /// Resolves when somebody wants to know what hosts say.
    pub(super) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Whether somebody still does.
    pub(super) fn is_asked(&self, now: Instant) -> bool {
        let mut state = self.state();
        if state.asked.take_if(|until| now >= *until).is_some() {
            state.said = None;
        }
        state.asked.is_some()
    }

    /// What hosts say now.
    pub(super) fn said(&self, said: BTreeMap<HostName, BundleId>) {
        self.state().said = Some(Arc::new(said));
    }

    /// A member answered.
    pub(super) fn answered(&self, endpoint: SocketAddr) {
        let (now, mut state) = (rfc3339(OffsetDateTime::now_utc()), self.state());
        instruments::carrier(true);
        let before = state.status.take();
        let was_up = before.as_ref().is_some_and(|status| status.up);
        if !was_up {
            tracing::info!(%endpoint, "etcd carries policies");
        }
        let (since, refused, policy) = match before {
            Some(CarrierStatus { since, refused, policy, .. }) if was_up => (since, refused, policy),
            Some(CarrierStatus { refused, policy, .. }) => (now.clone(), refused, policy),
            None => (now.clone(), None, None),
        };
        let (endpoint, last_answer) = (endpoint.to_string(), Some(now));
        state.status = Some(CarrierStatus { up: true, endpoint, since, last_answer, error: None, refused, policy });
    }

    /// A member is of no use; that is logged when it is news.
    pub(super) fn lost(&self, endpoint: SocketAddr, error: &str) {
        let (now, mut state) = (rfc3339(OffsetDateTime::now_utc()), self.state());
        instruments::carrier(false);
        (state.said, state.asked) = (None, None);
        let before = state.status.take();
        let was_down = before.as_ref().is_some_and(|status| !status.up);
        let is_news = before.as_ref().and_then(|status| status.error.as_deref()) != Some(error);
        if !was_down {
            tracing::warn!(%endpoint, error, "etcd does not carry policies; the one in force stays");
        } else if is_news {
            tracing::debug!(%endpoint, error, "etcd still does not carry policies");
        }
        let (since, last_answer, refused, policy) = match before {
            Some(CarrierStatus { since, last_answer, refused, policy, .. }) if was_down => {
                (since, last_answer, refused, policy)
            }
            Some(CarrierStatus { last_answer, refused, policy, .. }) => (now, last_answer, refused, policy),
            None => (now, None, None, None),
        };
        let (endpoint, error) = (endpoint.to_string(), Some(error.to_owned()));
        state.status = Some(CarrierStatus { up: false, endpoint, since, last_answer, error, refused, policy });
    }

    /// A policy in it is known to be this host's newest.
    pub(super) fn has(&self, id: BundleId) {
        if let Some(status) = &mut self.state().status {
            status.policy = Some(id);
        }
    }

    /// A policy in it was taken.
    pub(super) fn took(&self) {
        if let Some(status) = &mut self.state().status {
            status.refused = None;
        }
    }

    /// A policy in it was not taken.
    pub(super) fn refused(&self, id: BundleId, why: &str) {
        if let Some(status) = &mut self.state().status {
            status.refused = Some(format!("policy {id} in etcd is not taken: {why}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 2379);

    #[test]
    fn its_state_has_a_time_and_the_last_answer_outlives_it() {
        let carried = Carried::default();
        assert_eq!((carried.status(), carried.ask(Instant::now())), (None, Said::Nothing));
        carried.lost(AT, "refused");
        let never = carried.status().unwrap();
        assert_eq!((never.up, never.last_answer, never.error.as_deref()), (false, None, Some("refused")));
        carried.answered(AT);
        let up = carried.status().unwrap();
        assert!(up.up && up.error.is_none() && up.last_answer.is_some());
        carried.answered(AT);
        assert_eq!(carried.status().unwrap().since, up.since);
        carried.lost(AT, "silent");
        let down = carried.status().unwrap();
        assert!(!down.up && down.last_answer.is_some());
        carried.lost(AT, "refused");
        assert_eq!(carried.status().unwrap().since, down.since, "down since the first");
    }

    #[test]
    fn what_hosts_say_is_read_while_somebody_asks() {
        let (carried, now) = (Carried::default(), Instant::now());
        carried.answered(AT);
        assert!(!carried.is_asked(now));
        assert_eq!(carried.ask(now), Said::Awaited);
        assert!(carried.is_asked(now));
        let beta = HostName::new("beta").unwrap();
        carried.said([(beta.clone(), BundleId::default())].into());
        assert_eq!(carried.ask(now).of(&beta), Some(BundleId::default()));
        assert!(!carried.is_asked(now + ASKED));
        assert_eq!(carried.ask(now + ASKED), Said::Awaited, "what was said is of then");
        carried.lost(AT, "silent");
        assert_eq!(carried.ask(now), Said::Nothing);
    }
}
