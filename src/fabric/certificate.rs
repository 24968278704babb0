//! How this host's certificate is, for people and metrics.

use crate::{admin::IdentityStatus, authority::seconds};
use ripstop_telemetry::instruments;
use ripstop_transport::Identity;
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

/// A certificate that nothing renews is spoken of so long before it expires, or in the last quarter of its life.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// The certificate that connections begin with.
pub(super) struct Certificate {
    /// Where it comes from, for people.
    source: String,
    state: Mutex<State>,
}

struct State {
    not_before: SystemTime,
    not_after: SystemTime,
    serial: String,
    /// Why it was not renewed, if that was due.
    error: Option<String>,
    /// Why what it comes from does not answer, where something should.
    away: Option<String>,
}

impl Certificate {
    pub(super) fn of(identity: &Identity, source: String) -> Self {
        instruments::certificate_expires(identity.not_after());
        Self { source, state: Mutex::new(State::of(identity)) }
    }

    /// Another one has taken its place, or the one that it is turned out to need none.
    pub(super) fn renewed(&self, identity: &Identity) {
        instruments::certificate_expires(identity.not_after());
        *self.state() = State::of(identity);
    }

    pub(super) fn not_renewed(&self, error: String) {
        self.state().error = Some(error);
    }

    /// What it comes from does not answer.
    #[cfg(feature = "spire")]
    pub(super) fn source_away(&self, why: String) {
        self.state().away = Some(why);
    }

    /// What it comes from answers.
    #[cfg(feature = "spire")]
    pub(super) fn source_answers(&self) {
        self.state().away = None;
    }

    /// Where it comes from, and which one it is.
    pub(super) fn identity(&self) -> IdentityStatus {
        let state = self.state();
        IdentityStatus { source: self.source.clone(), serial: state.serial.clone(), away: state.away.clone() }
    }

    pub(super) fn expires(&self) -> SystemTime {
        self.state().not_after
    }

    /// What a person should know of it.
    pub(super) fn warning(&self, now: SystemTime) -> Option<String> {
        self.state().warning(now)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn of(identity: &Identity) -> Self {
        let (not_before, not_after) = (identity.not_before(), identity.not_after());
        Self { not_before, not_after, serial: identity.certificate().serial.clone(), error: None, away: None }
    }

    fn warning(&self, now: SystemTime) -> Option<String> {
        let left = seconds(self.not_after).saturating_sub(seconds(now));
        let life = seconds(self.not_after).saturating_sub(seconds(self.not_before));
        let standing = match left {
            0 => "it has expired: other hosts take no new connection from this one".to_owned(),
            _ if now < self.not_before => "it is not valid yet: is this machine's clock right?".to_owned(),
            _ => format!("it expires in {}", spoken(left)),
        };
        match &self.error {
            Some(error) => Some(format!("{standing}, and was not renewed: {error}")),
            None if left < SOON.as_secs().min(life / 4) || now < self.not_before => Some(standing),
            None => None,
        }
    }
}

fn spoken(seconds: u64) -> String {
    match seconds {
        172_800.. => format!("{} days", seconds / 86_400),
        7_200.. => format!("{} hours", seconds / 3_600),
        120.. => format!("{} minutes", seconds / 60),
        _ => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn warning(life_days: u64, left: u64, error: Option<&str>) -> Option<String> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(20_000 * DAY);
        let not_after = now + Duration::from_secs(left);
        let not_before = not_after - Duration::from_secs(life_days * DAY);
        let (error, serial) = (error.map(Into::into), String::new());
        State { not_before, not_after, serial, error, away: None }.warning(now)
    }

    #[test]
    fn people_are_told_before_it_is_too_late() {
        assert_eq!(warning(365, 15 * DAY, None), None);
        assert_eq!(warning(365, 13 * DAY, None).unwrap(), "it expires in 13 days");
        assert_eq!(warning(1, DAY / 2, None), None, "renewed at half its life");
        assert_eq!(warning(1, DAY / 5, None).unwrap(), "it expires in 4 hours");
        assert_eq!(warning(1, DAY / 2, Some("x")).unwrap(), "it expires in 12 hours, and was not renewed: x");
        assert!(warning(1, 0, None).unwrap().starts_with("it has expired"));
        assert!(warning(1, 2 * DAY, None).unwrap().contains("clock"));
    }
}
