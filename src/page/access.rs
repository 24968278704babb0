//! Who may see the page by TCP on loopback: a browser that holds a secret.
//!
//! 1. `ripstop page` asks for a ticket by the admin socket, where the kernel says who asks. It is good once, for
//!    [`TICKET_LIFE`], and is printed as part of an address.
//! 2. The browser opens that address, which changes nothing, and sends the ticket back by POST: a link that was only looked at,
//!    by a preview or a history, spends nothing.
//! 3. The ticket is spent, and a cookie takes its place for [`VISIT_LIFE`]. It is `HttpOnly` and `SameSite=Strict`. Cookies are not
//!    told apart by port, so that one of `localhost` would be sent to every other server there: it is of a name below
//!    `ripstop.localhost` that nobody else knows ([`name`]), and to which no other server can lead the browser.
//!
//! Of tickets and cookies only hashes are kept, in memory: with the agent they end.

use crate::admin::guard::PAGE;
use ripstop_transport::{Secret, enrol::SecretHash, pki::PkiError};
use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// For how long a ticket is good: to copy an address into a browser.
pub(super) const TICKET_LIFE: Duration = Duration::from_secs(5 * 60);
/// For how long a cookie is good: a day's work.
pub(super) const VISIT_LIFE: Duration = Duration::from_secs(12 * 60 * 60);
/// Tickets and cookies that are good at once; the oldest gives its place.
const KEPT_MAX: usize = 64;
/// The cookie's name.
pub(super) const COOKIE: &str = "ripstop-page";

/// Characters of [`name`]: some 100 bits.
const NAME: usize = 20;

/// A name of this machine for one browser, which nobody guesses: browsers lead every name below `localhost` to it (RFC 6761
/// section 6.3).
///
/// # Errors
/// When the system gives no random numbers.
pub(super) fn name() -> Result<String, PkiError> {
    let random = Secret::generate()?;
    let label = random.reveal().chars().filter(char::is_ascii_alphanumeric).take(NAME);
    Ok(format!("{}.{PAGE}", label.collect::<String>().to_ascii_lowercase()))
}

/// The tickets and cookies that are good.
#[derive(Debug, Default)]
pub(super) struct Access(Mutex<Given>);

#[derive(Debug, Default)]
struct Given {
    tickets: Kept,
    visits: Kept,
}

/// Hashes with the time at which they stop being good, the oldest first.
#[derive(Debug, Default)]
struct Kept(VecDeque<(SecretHash, Instant)>);

impl Access {
    /// Makes a ticket.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub(super) fn ticket(&self, now: Instant) -> Result<Secret, PkiError> {
        let ticket = Secret::generate()?;
        self.with(|given| given.tickets.add(ticket.hash(), now + TICKET_LIFE));
        Ok(ticket)
    }

    /// Spends a ticket for the value of a cookie; `None` for one that is not good.
    pub(super) fn enter(&self, ticket: &str, now: Instant) -> Option<Secret> {
        let (shown, cookie) = (Secret::hash_of(ticket), Secret::generate().ok()?);
        self.with(|given| {
            given.tickets.take(shown, now)?;
            given.visits.add(cookie.hash(), now + VISIT_LIFE);
            Some(cookie)
        })
    }

    /// Whether the value of a `Cookie` header (RFC 6265 section 4.2.1) holds a cookie that is good.
    pub(super) fn admits(&self, header: &str, now: Instant) -> bool {
        let of_page = |pair: &str| pair.trim().strip_prefix(COOKIE)?.strip_prefix('=').map(Secret::hash_of);
        let mut shown = header.split(';').filter_map(of_page);
        self.with(|given| shown.any(|shown| given.visits.holds(shown, now)))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Given) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Kept {
    fn add(&mut self, hash: SecretHash, until: Instant) {
        if self.0.len() == KEPT_MAX {
            self.0.pop_front();
        }
        self.0.push_back((hash, until));
    }

    fn holds(&self, shown: SecretHash, now: Instant) -> bool {
        self.0.iter().any(|(hash, until)| *hash == shown && now < *until)
    }

    fn take(&mut self, shown: SecretHash, now: Instant) -> Option<()> {
        let at = self.0.iter().position(|(hash, until)| *hash == shown && now < *until)?;
        self.0.remove(at).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(cookie: &Secret) -> String {
        format!("a=b; {COOKIE}={}; c=d", cookie.reveal())
    }

    #[test]
    fn a_ticket_is_good_once_and_for_a_time() {
        let (access, now) = (Access::default(), Instant::now());
        let ticket = access.ticket(now).unwrap();
        assert!(access.enter("", now).is_none() && access.enter("x", now).is_none());
        let cookie = access.enter(ticket.reveal(), now).unwrap();
        assert!(access.enter(ticket.reveal(), now).is_none(), "it is spent");
        assert!(access.admits(&header(&cookie), now));
        assert!(!access.admits(&header(&ticket), now), "a ticket is no cookie");
        assert!(!access.admits("", now) && !access.admits(&format!("{COOKIE}="), now));
        let late = access.ticket(now).unwrap();
        assert!(access.enter(late.reveal(), now + TICKET_LIFE).is_none());
        assert!(!access.admits(&header(&cookie), now + VISIT_LIFE));
    }

    #[test]
    fn each_browser_has_a_name_of_its_own() {
        let names = [name().unwrap(), name().unwrap()];
        assert_ne!(names[0], names[1]);
        for name in names {
            let label = name.strip_suffix(".ripstop.localhost").unwrap();
            assert!(
                label.len() == NAME && label.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()),
                "{name}"
            );
        }
    }

    #[test]
    fn the_oldest_gives_its_place() {
        let (access, now) = (Access::default(), Instant::now());
        let first = access.ticket(now).unwrap();
        let others: Vec<_> = (0..KEPT_MAX).map(|_| access.ticket(now).unwrap()).collect();
        assert!(access.enter(first.reveal(), now).is_none());
        assert!(others.iter().all(|ticket| access.enter(ticket.reveal(), now).is_some()));
    }
}
