//! The endpoints of services: whether those of this host take sessions, and how many they have.

use ripstop_config::{Reason, ServiceId};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

/// What is known of the endpoints of this host.
#[derive(Default)]
pub struct Endpoints {
    open: RefCell<BTreeMap<ServiceId, Rc<Cell<u32>>>>,
}

/// A session that counts for its endpoint on this host until it is dropped.
#[derive(Debug)]
pub struct Counted(Rc<Cell<u32>>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl Endpoints {
    /// Whether the endpoint of a service on this host takes new sessions.
    ///
    /// # Errors
    /// Why it does not.
    pub fn ready(&self, _service: &ServiceId) -> Result<(), Reason> {
        Ok(())
    }

    /// Takes a new session for the endpoint of a service on this host; it counts for it until it is dropped.
    ///
    /// # Errors
    /// Why the endpoint does not take it.
    pub fn take(&self, service: &ServiceId) -> Result<Counted, Reason> {
        self.ready(service)?;
        let mut open = self.open.borrow_mut();
        let count = open.entry(service.clone()).or_default();
        count.set(count.get().saturating_add(1));
        Ok(Counted(Rc::clone(count)))
    }

    /// Sessions that the endpoint of a service on this host has open.
    #[must_use]
    pub fn sessions(&self, service: &ServiceId) -> u32 {
        self.open.borrow().get(service).map_or(0, |open| open.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_count_while_they_are_kept() {
        let (endpoints, api) = (Endpoints::default(), "shop/api".parse().unwrap());
        let first = endpoints.take(&api).unwrap();
        let second = endpoints.take(&api).unwrap();
        assert_eq!(endpoints.sessions(&api), 2);
        drop(first);
        assert_eq!(endpoints.sessions(&api), 1);
        drop(second);
        assert_eq!((endpoints.sessions(&api), endpoints.sessions(&"shop/db".parse().unwrap())), (0, 0));
    }
}
