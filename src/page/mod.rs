//! The page: what happens on this host, for people. It shows, and changes nothing.
//!
//! 1. A request comes by the admin socket, from who may read there ([`crate::admin::Rights`]), or by TCP on loopback where
//!    `page:` of the settings asks for it. A port on loopback is open to every program of the host: there a browser has a
//!    secret that `ripstop page` asked for by the admin socket ([`access`]).
//! 2. Whatever it is, no other site asks for it ([`crate::admin::guard`]).
//! 3. Two looks at the sessions make the rates ([`pulse`]); what the policy, the records and the peers say is put beside them
//!    ([`facts`]), and the calls into a map ([`map`]).
//! 4. HTML is made of that ([`html`]), whole without a script. With `page.js` the same address is asked again every two seconds,
//!    and what changed is replaced.
//!
//! Nothing that is shown is written into it but by `maud`, which escapes it.

mod access;
mod asked;
mod facts;
mod guard;
mod html;
mod map;
mod pairs;
mod pulse;
mod serve;
mod why;

#[cfg(test)]
mod tests;

pub use serve::Page;
