use super::{
    asked::Asked,
    facts::{Facts, ROWS_MAX},
    html, map,
    pairs::Tone,
    pulse::{Look, Pulse},
    serve::Page,
};
use crate::admin::{AgentView, LiveSession, server::tests::Fake};
use example::record;
use ripstop_config::{Graph, HostName, Protocol, Reason};
use ripstop_telemetry::{SessionRecord, Side};
use std::{fmt::Write as _, net::SocketAddr, sync::Arc};
use time::OffsetDateTime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

#[path = "../../telemetry/src/record_example.rs"]
mod example;

/// So many tenants, each with so many services, each with one caller and an edge. All of host alpha.
fn graph(tenants: usize, services: usize) -> Arc<ripstop_policy::Policy> {
    let mut text = String::from("fabric: large.example\nhosts: { alpha: {}, beta: {} }\ntenants:\n");
    for tenant in 0..tenants {
        writeln!(text, "  t{tenant}:\n    workloads:").unwrap();
        for one in 0..services {
            writeln!(text, "      caller-{one}: {{ on: [alpha], run: {{ netns: c{tenant}-{one} }} }}").unwrap();
            writeln!(text, "      server-{one}: {{ on: [beta], run: {{ netns: s{tenant}-{one} }} }}").unwrap();
        }
        text.push_str("    services:\n");
        (0..services).for_each(|one| writeln!(text, "      s-{one}: {{ by: server-{one}, port: 80/tcp }}").unwrap());
        text.push_str("    allow:\n");
        (0..services).for_each(|one| writeln!(text, "      - {{ from: caller-{one}, to: s-{one} }}").unwrap());
    }
    Arc::new(ripstop_policy::compile(Graph::parse("large.yaml", &text).unwrap()).unwrap())
}

fn live(number: u64, caller: &str, service: &str, bytes: u64) -> LiveSession {
    LiveSession {
        session: format!("{number:032x}"),
        side: Side::Caller,
        started: "2026-01-01T00:00:00Z".into(),
        caller_replica: None,
        endpoint_replica: None,
        caller: caller.parse().unwrap(),
        service: service.parse().unwrap(),
        port: 80,
        peer: "beta".parse().unwrap(),
        bytes_up: bytes,
        bytes_down: 0,
        waited_s: 0.0,
    }
}

fn denied(number: u64) -> SessionRecord {
    SessionRecord {
        service: Some("shop/db".parse().unwrap()),
        verdict: "deny",
        reason: Reason::NoEdge,
        rule: None,
        start: OffsetDateTime::now_utc(),
        ..record(number)
    }
}

fn render(view: &Fake, asked: &Asked) -> String {
    html::whole(&Facts::gather(view, &Look::default(), asked), asked).into_string()
}

fn count(text: &str, part: &str) -> usize {
    text.matches(part).count()
}

#[test]
fn a_thousand_services_stay_readable() {
    let view = Fake { policy: Some(graph(4, 250)), ..Fake::default() };
    let whole = render(&view, &Asked::default());
    assert!(whole.contains("Callers, by tenant") && whole.contains(r#"href="/?tenant=t3""#));
    assert_eq!(count(&whole, "class=\"node "), 4 + 4 + 1, "a place for each tenant, and the host");
    assert!(whole.contains("1000 edges of this host, 1000 unused"));
    let tenant = render(&view, &Asked { tenant: "t3".into(), ..Asked::default() });
    assert_eq!(count(&tenant, "class=\"node "), 2 * map::ROWS_MAX + 1);
    assert!(tenant.contains(&format!("and {} more", 250 - (map::ROWS_MAX - 1))));
    let one = render(&view, &Asked { to: "t2/s-77".into(), ..Asked::default() });
    assert_eq!(count(&one, "class=\"node "), 3);
    for page in [whole, tenant, one] {
        assert!(page.len() < 200_000, "{} bytes", page.len());
    }
}

#[tokio::test]
async fn those_that_carry_the_most_have_a_place_of_their_own() {
    let busy = live(1, "t0/caller-249", "t0/s-249", 0);
    let pulse = Pulse::default();
    let policy = graph(1, 250);
    let view: Arc<dyn AgentView> =
        Arc::new(Fake { policy: Some(Arc::clone(&policy)), live: vec![busy], ..Fake::default() });
    let look = pulse.look(&view).await;
    assert_eq!(look.calls.values().map(|sums| (sums.sessions, sums.up)).collect::<Vec<_>>(), [(1, 0.0)]);
    let key = ("t0/caller-249".into(), "t0/s-249".into(), Some("beta".into()));
    let sums = crate::admin::rates::Sums { up: 5e6, sessions: 1, ..Default::default() };
    let look = Look { live: Vec::new(), calls: [(key, sums)].into() };
    let asked = Asked::default();
    let facts = Facts::gather(&*view, &look, &asked);
    let map = map::of(&facts.pairs, &asked);
    assert!(!map.grouped, "there is one tenant");
    let services = &map.columns[1];
    assert!(services.iter().any(|node| node.who == map::Who::One("t0/s-249".into()) && node.carried.rate() > 4e6));
    assert_eq!(services.last().map(|node| (&node.who, node.count)), Some((&map::Who::More, 250 - (map::ROWS_MAX - 1))));
    let widest = map.lines[1].iter().max_by(|a, b| a.carried.rate().total_cmp(&b.carried.rate())).unwrap();
    assert_eq!(map.columns[2][widest.to].who, map::Who::One("beta".into()));
    let drawn = html::whole(&facts, &asked).into_string();
    assert!(drawn.contains("5.0MB/s"));
}

#[test]
fn a_denial_says_why_and_what_would_allow_it() {
    let view = Fake::default();
    view.recent.keep(Arc::new(denied(7)));
    let session = format!("{:032x}", 7);
    let page = render(&view, &Asked { session: session.clone(), side: "caller".into(), ..Asked::default() });
    for part in [
        "spiffe://shop.example/shop/web",
        "NXDOMAIN",
        "Extended DNS Error 18",
        "no <code>allow</code> edge in the graph permits it",
        "tenants.shop.allow",
        "- { from: web, to: db }",
        "ripstop explain shop/web shop/db:8080/tcp",
        r#"aria-current="true""#,
        "ripstop observe -f<",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(page.contains(&format!("/?session={session}&amp;side=caller#why")));
    let filtered = render(&view, &Asked { from: "web".into(), verdict: "deny".into(), ..Asked::default() });
    assert!(filtered.contains("ripstop observe -f --from web --verdict deny") && filtered.contains(&session));
    let other = render(&view, &Asked { from: "api".into(), ..Asked::default() });
    assert!(!other.contains(&session) && other.contains("None that the agent keeps fits the filter."));
    let gone = render(&view, &Asked { session: "ff".into(), ..Asked::default() });
    assert!(gone.contains("That session is not kept any more."));
}

#[test]
fn a_denial_does_not_colour_what_else_a_tenant_calls() {
    let view = Fake { policy: Some(graph(4, 250)), ..Fake::default() };
    let call = |to: &str, from: SessionRecord| {
        let (caller, service) = ("t0/caller-1".parse().unwrap(), Some(to.parse().unwrap()));
        view.recent.keep(Arc::new(SessionRecord { caller, service, ..from }));
    };
    call("t0/s-1", record(1));
    call("t0/s-2", denied(2));
    let asked = Asked::default();
    let facts = Facts::gather(&view, &Look::default(), &asked);
    let map = map::of(&facts.pairs, &asked);
    let of_t0: Vec<_> = map.lines[0].iter().filter(|line| line.from == 0).map(|line| line.carried.tone).collect();
    assert_eq!((map.grouped, of_t0), (true, vec![Some(Tone::Used), Some(Tone::Denied)]));
    assert_eq!(map.columns[0][0].carried.tone, Some(Tone::Used));
}

#[test]
fn what_is_denied_is_on_the_map_and_what_is_never_used() {
    let view = Fake::default();
    view.recent.keep(Arc::new(denied(1)));
    let page = render(&view, &Asked::default());
    assert!(page.contains("shop/web → shop/db: denied, 1 denied"), "{page}");
    assert!(page.contains("shop/web → shop/api: unused"));
    assert!(
        page.contains(r#"<code title="shop.yaml:15">shop.yaml:15</code>"#)
            && page.contains("1 edge of this host, 1 unused")
    );
    assert!(page.contains("The policy in force stays, as the last one was refused: shop.yaml:3: unknown key"));
}

#[test]
fn nothing_that_is_shown_becomes_markup_and_nothing_is_inline() {
    let evil = r#""><script>alert(1)</script>'"#;
    let view = Fake { file: Some(evil.into()), ..Fake::default() };
    let mut one = denied(1);
    one.detail = Some(evil.into());
    one.endpoint = Some(evil.into());
    one.session = evil.into();
    view.recent.keep(Arc::new(one));
    let text = || evil.to_owned();
    let asked = Asked {
        from: text(),
        to: text(),
        tenant: text(),
        verdict: text(),
        reason: text(),
        graph: text(),
        session: text(),
        side: text(),
    };
    let chosen = Asked { session: text(), side: "caller".into(), ..Asked::default() };
    for page in [render(&view, &asked), render(&view, &chosen), html::door::open("/enter", evil).into_string()] {
        assert!(!page.contains("<script>") && page.contains("&lt;script&gt;"), "{page}");
        assert!(!page.contains(" style=") && !page.contains(" onclick") && !page.contains("javascript:"));
    }
}

#[test]
fn many_sessions_are_told_of_and_some_shown() {
    let view = Fake::default();
    (0..500).for_each(|number| view.recent.keep(Arc::new(denied(number))));
    let page = render(&view, &Asked::default());
    assert_eq!(count(&page, "<span class=\"pill denied\">no_edge</span>"), ROWS_MAX);
    assert!(page.contains(&format!("and {} more", 500 - ROWS_MAX)));
}

async fn serve() -> (Arc<Page>, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let page = Page::new(Arc::new(Fake::default()), Some(address));
    tokio::spawn(Arc::clone(&page).serve(listener));
    (page, address)
}

async fn ask(address: SocketAddr, line: &str, headers: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let form = "Content-Type: application/x-www-form-urlencoded";
    let request =
        format!("{line} HTTP/1.1\r\n{headers}{form}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

const HOST: &str = "Host: ripstop.localhost:7479\r\n";

#[tokio::test]
async fn on_loopback_only_who_has_a_ticket_comes_in() {
    let (page, address) = serve().await;
    let without = ask(address, "GET /", HOST, "").await;
    assert!(without.starts_with("HTTP/1.1 401") && without.contains("ripstop page") && !without.contains("shop"));
    let ticket = page.ticket().unwrap();
    let looked = ask(address, &format!("GET /enter?ticket={ticket}"), HOST, "").await;
    assert!(looked.starts_with("HTTP/1.1 200") && !looked.contains("set-cookie"), "{looked}");
    let form = format!("ticket={ticket}");
    let entered = ask(address, "POST /enter", HOST, &form).await;
    assert!(entered.starts_with("HTTP/1.1 303") && entered.contains("location: /\r\n"), "{entered}");
    let cookie = entered.split("set-cookie: ").nth(1).unwrap().lines().next().unwrap();
    assert!(cookie.contains("; HttpOnly; SameSite=Strict; Path=/; Max-Age="), "{cookie}");
    let cookie = format!("{HOST}Cookie: {}\r\n", cookie.split(';').next().unwrap());
    let shown = ask(address, "GET /", &cookie, "").await;
    assert!(shown.starts_with("HTTP/1.1 200") && shown.contains("shop.example"), "{shown}");
    assert!(ask(address, "POST /enter", HOST, &form).await.starts_with("HTTP/1.1 401"), "it is spent");
    assert!(ask(address, "POST /", &cookie, "").await.starts_with("HTTP/1.1 405"));
    assert!(ask(address, "GET /v1/status", &cookie, "").await.starts_with("HTTP/1.1 404"), "the page alone");
    let elsewhere = cookie.replace("ripstop.localhost", "evil.example");
    assert!(ask(address, "GET /", &elsewhere, "").await.starts_with("HTTP/1.1 403"));
    let other_site = format!("{cookie}Sec-Fetch-Site: cross-site\r\n");
    assert!(ask(address, "GET /", &other_site, "").await.starts_with("HTTP/1.1 403"));
}

#[tokio::test]
async fn every_answer_says_what_a_browser_may_do_with_it() {
    let (_page, address) = serve().await;
    for path in ["/", "/enter", "/page.css", "/page.js", "/icon.svg", "/nothing"] {
        let answer = ask(address, &format!("GET {path}"), HOST, "").await;
        for header in [
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self';",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "x-content-type-options: nosniff",
            "x-frame-options: DENY",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
        ] {
            assert!(answer.contains(header), "{path}: {header}: {answer}");
        }
    }
}
