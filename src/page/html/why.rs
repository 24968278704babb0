//! Why the session that is looked at went as it did.

use super::{
    super::{asked::Asked, facts::Facts, why::Why},
    command, empty, pill, prose,
};
use maud::{Markup, html};

pub(super) fn panel(facts: &Facts, asked: &Asked) -> Markup {
    html! {
        section id="why" class="why" data-live aria-labelledby="why-title" {
            header {
                h2 id="why-title" { "Why" }
                a class="button" href=(format!("{}#sessions", asked.with(closed))) { "Close" }
            }
            @match &facts.why {
                Some(why) => (explained(why)),
                None => (empty("That session is not kept any more.", "The agent keeps the newest 4 096; the session log has the rest.")),
            }
        }
    }
}

fn closed(asked: &mut Asked) {
    asked.session.clear();
    asked.side.clear();
}

fn explained(why: &Why) -> Markup {
    html! {
        p class="call" { strong { (why.caller) } " → " strong { (why.target) } }
        p { (pill(why.tone.class(), why.tone.word())) " " (prose(&why.verdict)) }
        dl {
            @for step in &why.steps {
                dt { (step.title) }
                @for line in &step.lines { dd { (prose(line)) } }
            }
        }
        @for (under, line) in &why.changes {
            p class="change" { "To allow it, write under " code { (under) } }
            (command(line))
        }
        @if let Some(text) = &why.command { p class="change" { "The same in a terminal" } (command(text)) }
    }
}
