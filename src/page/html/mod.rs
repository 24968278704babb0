//! The page as HTML. Whole without a script; what has `data-live` is replaced by `page.js` where it changed.

mod bar;
pub(super) mod door;
mod filter;
mod peers;
mod policy;
mod sessions;
mod why;

use super::{asked::Asked, facts::Facts, map, pairs::Tone};
use crate::shown::seconds;
use maud::{DOCTYPE, Markup, html};

/// A page with this in its body.
fn document(title: &str, live: bool, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex";
                title { (title) }
                link rel="icon" href="/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/page.css";
                @if live { script src="/page.js" defer {} }
            }
            body { (body) }
        }
    }
}

/// All of it.
pub(super) fn whole(facts: &Facts, asked: &Asked) -> Markup {
    let body = html! {
        a class="skip" href="#sessions" { "To the sessions" }
        (bar::top(facts))
        main {
            (bar::warnings(facts))
            (bar::figures(facts))
            (filter::form(facts, asked))
            (service_map(facts, asked))
            div class=(if asked.session.is_empty() { "sessions" } else { "sessions chosen" }) {
                (sessions::table(facts, asked))
                @if !asked.session.is_empty() { (why::panel(facts, asked)) }
            }
            (policy::table(facts, asked))
            (peers::table(facts))
        }
        (bar::foot(facts))
    };
    document(&format!("{} · {} · Ripstop", facts.status.host, facts.status.fabric), true, &body)
}

fn service_map(facts: &Facts, asked: &Asked) -> Markup {
    let map = map::of(&facts.pairs, asked);
    let of =
        if asked.is_whole() { "the whole graph".into() } else { format!("calls from and to {}", facts.status.host) };
    let (other, word) = if asked.is_whole() {
        (asked.with(|asked| asked.graph.clear()), "Only this host")
    } else {
        (asked.with(|asked| asked.graph = super::asked::WHOLE.into()), "Whole graph")
    };
    html! {
        section id="map" data-live aria-labelledby="map-title" {
            header {
                h2 id="map-title" { "Service map" }
                p class="hint" { (of) @if map.grouped { "; a tenant's place opens it" } }
                a class="button" href=(other) { (word) }
            }
            @if facts.pairs.is_empty() {
                (empty("No calls.", if asked.is_filtered() { "Nothing fits the filter." } else { "The graph allows nothing from or to this host, and nothing was tried." }))
            } @else {
                div class="scroll" tabindex="0" role="region" aria-label="Service map" { (map::draw(&map, asked)) }
                (legend())
            }
        }
    }
}

fn legend() -> Markup {
    let tones = [
        (Tone::Used, "allowed, in use"),
        (Tone::Limited, "limited in the last minute"),
        (Tone::Denied, "denied"),
        (Tone::Unused, "allowed, never used"),
    ];
    html! {
        ul class="legend" {
            @for (tone, text) in tones {
                li {
                    svg class="map" viewBox="0 0 28 10" width="28" height="10" aria-hidden="true" {
                        g class="lines" { path class=(tone.class()) d="M1 5H27" stroke-width="3" {} }
                    }
                    (text)
                }
            }
            li { "the thicker, the more bytes a second" }
        }
    }
}

/// Says that there is nothing, and why.
fn empty(what: &str, why: &str) -> Markup {
    html! { p class="empty" { strong { (what) } " " (why) } }
}

/// A verdict or state as a word in its colour.
fn pill(class: &str, word: &str) -> Markup {
    html! { span class=(format!("pill {class}")) { (word) } }
}

/// A number of things.
fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// A length of time that goes on.
fn age(length: f64) -> String {
    let length = length.max(0.0);
    if length < 120.0 { format!("{length:.0}s") } else { seconds(length) }
}

/// Text in which what stands between backticks is code.
fn prose(text: &str) -> Markup {
    html! {
        @for (number, part) in text.split('`').enumerate() {
            @if number % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

/// A command to copy; a script puts a button beside it.
fn command(text: &str) -> Markup {
    html! { code class="command" data-copy { (text) } }
}
