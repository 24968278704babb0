//! From where a browser may ask the agent: not for other sites.
//!
//! An admin socket that is forwarded to a port (`ssh -L`), or the page's own port, is within reach of every site that a browser of
//! the machine shows. Such a site cannot read the answers, but could have things changed, and with a name of its own that leads to
//! loopback (DNS rebinding) read as well. So:
//!
//! - `Host` names this machine. Names without a dot are taken for the API, as programs write any (`http://agent/`), and nobody
//!   can own one.
//! - What a browser marks as another site's (Fetch Metadata, `Origin`) is refused, but for a link that a person follows.

use super::server::refuse;
use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, Method, StatusCode, header},
    middleware::Next,
    response::Response,
};
use std::net::IpAddr;

/// Below this name `ripstop page` has the page opened.
pub(crate) const PAGE: &str = "ripstop.localhost";

/// Whose names are taken in `Host`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    /// Those of this machine.
    OfThisMachine,
    /// Also those without a dot, and none.
    Bare,
}

/// Refuses what comes from another site.
pub(super) async fn guard(request: Request, next: Next) -> Response {
    match refused(request.method(), request.headers(), Names::Bare) {
        None => next.run(request).await,
        Some(why) => refuse(StatusCode::FORBIDDEN, why),
    }
}

/// Why a request is not answered.
pub(crate) fn refused(method: &Method, headers: &HeaderMap, names: Names) -> Option<&'static str> {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or(""));
    let fits = match (text(header::HOST), names) {
        (Some(host), Names::OfThisMachine) => is_of_this_machine(host),
        (Some(host), Names::Bare) => is_of_this_machine(host) || is_bare(host),
        (None, names) => names == Names::Bare,
    };
    if !fits {
        return Some(
            "the agent is asked by a name of this machine: localhost, ripstop.localhost or a loopback address",
        );
    }
    // `none` is what a person typed; without the header it is no browser.
    let site = text(HeaderName::from_static("sec-fetch-site"));
    let of_others = site.is_some_and(|site| !["same-origin", "none"].contains(&site));
    // A link may be followed, as the site learns nothing of what it led to. It is a GET, which changes nothing.
    let followed = method == Method::GET
        && text(HeaderName::from_static("sec-fetch-mode")) == Some("navigate")
        && text(HeaderName::from_static("sec-fetch-dest")) == Some("document");
    let origin = text(header::ORIGIN).map(|origin| origin.strip_prefix("http://").unwrap_or(""));
    if (of_others && !followed) || origin.is_some_and(|origin| !is_of_this_machine(origin)) {
        return Some("another site may not ask this agent");
    }
    None
}

/// Whether the value of a `Host` header (RFC 9110 section 7.2) names this machine, whichever port is forwarded to it.
fn is_of_this_machine(host: &str) -> bool {
    let name = without_port(host);
    let bracketed = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let address = bracketed.unwrap_or(name).parse::<IpAddr>();
    let lower = name.to_ascii_lowercase();
    let below = lower.strip_suffix(PAGE).and_then(|label| label.strip_suffix('.')).is_some_and(is_bare);
    below
        || [PAGE, "localhost"].contains(&lower.as_str())
        || address.is_ok_and(|address| address.is_loopback() && address.is_ipv6() == bracketed.is_some())
}

fn is_bare(host: &str) -> bool {
    without_port(host).bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

fn without_port(host: &str) -> &str {
    let port_at = host.rfind(':').filter(|at| host[at + 1..].bytes().all(|byte| byte.is_ascii_digit()));
    port_at.map_or(host, |at| &host[..at])
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn only_names_of_this_machine_are_taken() {
        let own =
            ["localhost", "LOCALHOST:1", "ripstop.localhost:7479", "127.0.0.1", "127.8.8.8:80", "[::1]", "[::1]:7479"];
        assert_eq!(own.map(is_of_this_machine), [true; 7]);
        assert!(is_of_this_machine("a1b2.Ripstop.localhost:7479") && !is_of_this_machine("evilripstop.localhost"));
        let bare = ["agent", "x:1", "a-b_c"];
        assert!(bare.iter().all(|name| is_bare(name) && !is_of_this_machine(name)));
        for other in [
            "evil.example",
            "localhost.evil.example",
            "evil.localhost",
            "192.0.2.1",
            "[2001:db8::1]",
            "::1",
            "[::1",
            "[127.0.0.1]",
        ] {
            assert!(!is_of_this_machine(other) && !is_bare(other), "{other}");
        }
    }

    fn asked(method: &Method, headers: &[(&'static str, &'static str)], names: Names) -> bool {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        refused(method, &headers.iter().map(pair).collect(), names).is_none()
    }

    #[test]
    fn what_another_site_asks_for_is_refused() {
        let host = ("host", "localhost:7479");
        let [site, mode, dest] =
            [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
        let fine: [&[_]; 4] = [
            &[host],
            &[host, ("sec-fetch-site", "same-origin"), ("origin", "http://localhost:7479")],
            &[host, ("sec-fetch-site", "none"), mode],
            &[host, site, mode, dest],
        ];
        let wrong: [&[_]; 6] = [
            &[("host", "evil.example")],
            &[host, site, ("sec-fetch-mode", "no-cors")],
            &[host, site, mode, ("sec-fetch-dest", "iframe")],
            &[host, ("sec-fetch-site", "same-site")],
            &[host, ("origin", "http://evil.example")],
            &[host, ("origin", "null")],
        ];
        for names in [Names::OfThisMachine, Names::Bare] {
            assert!(fine.iter().all(|headers| asked(&Method::GET, headers, names)));
            assert!(wrong.iter().all(|headers| !asked(&Method::GET, headers, names)));
        }
        assert!(!asked(&Method::POST, fine[3], Names::Bare), "a form that another site sent");
        assert!(asked(&Method::POST, &[], Names::Bare) && !asked(&Method::GET, &[], Names::OfThisMachine));
        assert!(asked(&Method::GET, &[("host", "agent")], Names::Bare));
        assert!(!asked(&Method::GET, &[("host", "agent")], Names::OfThisMachine));
    }
}
