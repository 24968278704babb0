//! What a browser is shown that has no secret yet.

use super::{command, document};
use maud::{Markup, html};

/// Sends the ticket back, which spends it.
pub(in crate::page) fn open(to: &str, ticket: &str) -> Markup {
    let body = html! {
        main class="door" {
            h1 { "Ripstop" }
            p { "The link is good once, and opens the page in this browser for twelve hours." }
            form method="post" action=(to) {
                input type="hidden" name="ticket" value=(ticket);
                button type="submit" autofocus { "Open the page" }
            }
        }
    };
    document("Ripstop", false, &body)
}

/// Says how to get in.
pub(in crate::page) fn closed() -> Markup {
    let body = html! {
        main class="door" {
            h1 { "Ripstop" }
            p { "This browser may not see the page: it has no link that is good, or had one more than twelve hours ago, or before the agent was restarted." }
            p { "On the host, who may ask its agent makes one with" }
            (command("ripstop page"))
        }
    };
    document("Ripstop", false, &body)
}
