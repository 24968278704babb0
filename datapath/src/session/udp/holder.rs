//! Who holds the port of an endpoint that shares the host's namespace with others.

use super::relay::Lost;
use crate::session::context::Context;
use ripstop_config::Reason;
use ripstop_kernel::Programs;
use std::{
    cell::Cell,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

/// How long it is taken for granted who holds the endpoint's port. A datagram has no connection that would end with its
/// listener, so the kernel is asked again, which takes some microseconds.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Knows that a program of the workload receives what is sent from one address to another.
pub(super) struct Holder {
    context: Rc<Context>,
    from: SocketAddr,
    target: SocketAddr,
    programs: Programs,
    looked: Cell<Instant>,
    anywhere: Cell<bool>,
}

impl Holder {
    /// Looks for the first time.
    ///
    /// # Errors
    /// `EndpointRefused` when nobody listens, `WrongListener` when somebody else does; with more for people.
    pub(super) fn of(
        context: &Rc<Context>,
        from: SocketAddr,
        target: SocketAddr,
        programs: &Programs,
    ) -> Result<Self, (Reason, String)> {
        let (looked, anywhere) = (Cell::new(Instant::now()), Cell::new(false));
        let (context, programs) = (Rc::clone(context), programs.clone());
        let holder = Self { context, from, target, programs, looked, anywhere };
        holder.look()?;
        Ok(holder)
    }

    /// Asks the kernel who would receive. Root is nobody's workload: a datagram is not accepted by another program later,
    /// as a connection may be. Not knowing is a no.
    fn look(&self) -> Result<(), (Reason, String)> {
        match self.context.owners.of_receiver(self.from, self.target) {
            Ok(Some(found)) if self.context.is_of(found.owner, &self.programs) => {
                self.anywhere.set(found.anywhere);
                Ok(())
            }
            Ok(Some(found)) => {
                let why = format!(", held by uid {} in place of {}", found.owner.uid, self.programs);
                Err((Reason::WrongListener, why))
            }
            Ok(None) => Err((Reason::EndpointRefused, String::new())),
            Err(error) => Err((Reason::WrongListener, format!(", whose holder the kernel does not tell: {error}"))),
        }
    }

    /// Its answers leave with an address that the kernel chooses.
    pub(super) fn is_anywhere(&self) -> bool {
        self.anywhere.get()
    }

    /// Looks again, if that was not done just now.
    ///
    /// # Errors
    /// [`Lost::Ended`] when it is not the workload's any more.
    pub(super) fn look_again(&self) -> Result<(), Lost> {
        let now = Instant::now();
        if now.duration_since(self.looked.get()) < LOOK_AGAIN {
            return Ok(());
        }
        self.looked.set(now);
        self.look().map_err(|(reason, _)| Lost::Ended(reason))
    }
}
