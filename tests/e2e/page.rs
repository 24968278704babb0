//! The page, by curl and in a browser: Debian's Chromium, without a screen.

use crate::lab::{Lab, Place, ripstop, wait_for};
use std::{
    fmt::Write as _,
    fs,
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// `web` may call `api`, slowly `files`, and `mail`, which nobody does; it tries `db`.
const SHOP: &str = "
tenants:
  shop:
    workloads:
      web: { on: [alpha], run: { netns: web } }
      api: { on: [beta], run: { netns: api } }
      files: { on: [beta], run: { netns: files } }
    services:
      api: { by: api, ports: [8080/tcp] }
      db: { by: api, port: 5432/tcp }
      mail: { by: api, port: 25/tcp }
      files: { by: files, port: 9000/tcp }
    allow:
      - { from: web, to: api }
      - { from: web, to: files, limit: { session: 8 mbit/s } }
      - { from: web, to: mail }
";

/// Where the page is on alpha, by a name that nobody has a cookie of.
const PAGE: &str = "http://ripstop.localhost:7479";
/// Where the test forwards alpha's admin socket to, as `ssh -L` would; and where it does so but for the script.
const FORWARDED: u16 = 7500;
const WITHOUT_SCRIPT: u16 = 7501;

#[test]
fn a_browser_sees_what_happens() {
    let lab = Lab::of(&["alpha", "beta"]).graph(SHOP).settings("alpha", "page: 127.0.0.1:7479").start();
    let alpha = lab.host("alpha");
    let _api = lab.workload("api").serve(8080, crate::servers::echo);
    let _files = lab.workload("files").serve(9000, |mut stream| drop(io::copy(&mut stream, &mut io::sink())));
    let _open = traffic(&lab);
    let denied = by_the_socket(&alpha);
    by_loopback(&lab, &alpha);
    in_a_browser(&lab, &alpha, &denied);
    a_thousand_services(&lab, &alpha);
}

/// One call of each kind; one that its own host's limit holds back goes on.
fn traffic(lab: &Lab) -> thread::JoinHandle<()> {
    let web = lab.workload("web");
    let mut stream = web.connect(lab.service("shop/api", 8080)).unwrap();
    stream.write_all(b"hello").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    web.connect(lab.service("shop/db", 5432)).expect_err("denied");
    lab.agent("alpha").record(|record| record["verdict"] == "deny");
    let mut files = web.connect(lab.service("shop/files", 9000)).unwrap();
    thread::spawn(move || drop(io::copy(&mut io::repeat(b'x'), &mut files)))
}

fn curl(place: &Place, more: &[&str]) -> String {
    place.ok(&[&["curl", "-sS", "-i", "--max-time", "10"], more].concat())
}

/// The socket of the agent, as it is seen on its host.
const SOCKET: &str = "/run/ripstop/agent.sock";

/// Returns the part of an address that chooses the session which was denied.
fn by_the_socket(alpha: &Place) -> String {
    let ask = || curl(alpha, &["--unix-socket", SOCKET, "http://localhost/"]);
    wait_for("the limit to hold the open session back", || ask().contains(">open, limited</span>"));
    let page = ask();
    for part in [
        "HTTP/1.1 200",
        "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self';",
        "x-content-type-options: nosniff",
        "<svg class=\"map\"",
        "shop/web → shop/api: allowed",
        "shop/web → shop/db: denied, 1 denied",
        "shop/web → shop/mail: unused",
        "shop/web → shop/files:",
        "3 edges of this host, 1 unused",
        "<code class=\"command\" data-copy>ripstop observe -f</code>",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let denied = curl(alpha, &["--unix-socket", SOCKET, "http://localhost/?verdict=deny"]);
    let address = denied.split("href=\"/?verdict=deny&amp;session=").nth(1).and_then(|rest| rest.split('#').next());
    let address = address.unwrap_or_else(|| panic!("no denied session: {denied}")).replace("&amp;", "&");
    let why = curl(alpha, &["--unix-socket", SOCKET, &format!("http://localhost/?session={address}")]);
    for part in [
        "spiffe://lab.test/shop/web",
        "the kernel says so: its packets come by rs-",
        "Extended DNS Error 18",
        "none: no <code>allow</code> edge in the graph permits it",
        "- { from: web, to: db }",
        "ripstop explain shop/web shop/db:5432/tcp",
    ] {
        assert!(why.contains(part), "{part}: {why}");
    }
    let elsewhere = curl(alpha, &["--unix-socket", SOCKET, "http://evil.example/"]);
    assert!(elsewhere.starts_with("HTTP/1.1 403") && !elsewhere.contains("shop/"), "{elsewhere}");
    address
}

/// Who comes by TCP needs what `ripstop page` prints.
fn by_loopback(lab: &Lab, alpha: &Place) {
    let closed = curl(alpha, &[PAGE]);
    assert!(closed.starts_with("HTTP/1.1 401") && closed.contains("ripstop page") && !closed.contains("shop/"));
    let link = alpha.ok(&[ripstop(), "page"]);
    let link = link.trim();
    let (base, ticket) = link.split_once("/enter?ticket=").unwrap_or_else(|| panic!("{link}"));
    assert!(base.ends_with(".ripstop.localhost:7479"), "a name of its own: {link}");
    let cookie = lab.path("cookie");
    let form = format!("ticket={ticket}");
    let enter = |cookie: &str| curl(alpha, &["-c", cookie, "-d", &form, &format!("{base}/enter")]);
    assert!(curl(alpha, &[link]).starts_with("HTTP/1.1 200"), "to look at it spends nothing");
    assert!(enter(&cookie).starts_with("HTTP/1.1 303"));
    assert!(enter("/dev/null").starts_with("HTTP/1.1 401"), "it is spent");
    assert!(curl(alpha, &["-b", &cookie, base]).contains("shop/web → shop/api"));
    assert!(curl(alpha, &["-b", &cookie, PAGE]).starts_with("HTTP/1.1 401"), "of another name");
    assert!(!lab.agent("alpha").log().contains(ticket), "no secret in the log");
    let beta = lab.host("beta").fails(&[ripstop(), "page"]).1;
    assert!(beta.contains("page: 127.0.0.1:7479") && beta.contains("ssh -L"), "{beta}");
}

/// Forwards the admin socket to a port, and counts who asks for what.
fn forward(lab: &Lab, alpha: &Place, port: u16) -> Arc<AtomicUsize> {
    let asked = Arc::<AtomicUsize>::default();
    let socket = lab.agent("alpha").socket();
    let listener = alpha.inside(|| TcpListener::bind(("127.0.0.1", port))).expect("the port is free");
    let counted = Arc::clone(&asked);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (Ok(agent), counted) = (UnixStream::connect(&socket), Arc::clone(&counted)) else { return };
            let (mut to, mut from) = (agent.try_clone().unwrap(), agent);
            let mut back = stream.try_clone().unwrap();
            thread::spawn(move || drop(io::copy(&mut from, &mut back)));
            thread::spawn(move || pass(stream, &mut to, &counted, port == FORWARDED));
        }
    });
    asked
}

fn pass(mut from: TcpStream, to: &mut UnixStream, asked: &AtomicUsize, script: bool) {
    let mut buffer = [0; 8192];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let of = |request: &[u8]| buffer[..length].windows(request.len()).filter(|part| part == &request).count();
        asked.fetch_add(of(b"GET /?f"), Ordering::Relaxed);
        if (!script && of(b"GET /page.js") > 0) || to.write_all(&buffer[..length]).is_err() {
            return drop(from.shutdown(Shutdown::Both));
        }
    }
}

/// Chromium's own way to end, after so many milliseconds of the page's time.
fn browser(lab: &Lab, alpha: &Place, more: &[&str]) -> (String, String) {
    let profile = format!("--user-data-dir={}", lab.path("chromium"));
    let line = [
        "timeout",
        "40",
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--enable-logging=stderr",
        "--window-size=1280,1500",
        &profile,
    ];
    let output = alpha.run(&[&line[..], more].concat());
    let [said, log] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{more:?}: {log}");
    for complaint in ["Refused to", "violates the following", "Uncaught"] {
        assert!(!log.contains(complaint), "{log}");
    }
    (said, log)
}

fn in_a_browser(lab: &Lab, alpha: &Place, denied: &str) {
    let asked = forward(lab, alpha, FORWARDED);
    let _without = forward(lab, alpha, WITHOUT_SCRIPT);
    let page = format!("http://localhost:{FORWARDED}/?from=shop%2Fweb&session={denied}");
    let (live, _) = browser(lab, alpha, &["--virtual-time-budget=5000", "--dump-dom", &page]);
    assert!(live.contains("id=\"live\">Live</p>") && live.contains("class=\"copy\""), "the script ran: {live}");
    assert!(asked.load(Ordering::Relaxed) >= 2, "it asked again by itself");
    assert!(live.contains("shop/web → shop/db: denied"), "{live}");
    let shots = shots(lab);
    for (name, scheme) in [("light", "1"), ("dark", "0")] {
        let shot = format!("--screenshot={}", shots.join(format!("page-{name}.png")).display());
        let scheme = format!("--blink-settings=preferredColorScheme={scheme}");
        browser(lab, alpha, &[&shot, &scheme, "--virtual-time-budget=3000", &page]);
    }
    let shot = format!("--screenshot={}", shots.join("page-plain.png").display());
    browser(lab, alpha, &[&shot, &page.replace(&FORWARDED.to_string(), &WITHOUT_SCRIPT.to_string())]);
    let sizes = ["light", "dark", "plain"].map(|name| fs::read(shots.join(format!("page-{name}.png"))).unwrap());
    assert!(sizes.iter().all(|png| png.len() > 20_000 && png.starts_with(b"\x89PNG")), "something was drawn");
    assert_ne!(sizes[0], sizes[1], "dark is another look");
}

/// Where pictures go: to be looked at, where `RIPSTOP_SHOTS` says.
fn shots(lab: &Lab) -> PathBuf {
    std::env::var_os("RIPSTOP_SHOTS").map_or_else(|| lab.file(""), PathBuf::from)
}

/// Added to the graph while it runs: what a page of a large fabric looks like.
fn a_thousand_services(lab: &Lab, alpha: &Place) {
    let mut tenants = String::new();
    for tenant in 0..8 {
        writeln!(tenants, "  team-{tenant}:\n    workloads:").unwrap();
        for one in 0..125 {
            writeln!(tenants, "      caller-{one}: {{ on: [gamma], run: {{ netns: c{tenant}-{one} }} }}").unwrap();
        }
        writeln!(tenants, "      server: {{ on: [gamma], run: {{ netns: server-{tenant} }} }}\n    services:").unwrap();
        for one in 0..125 {
            writeln!(tenants, "      service-{one}: {{ by: server, port: {}/tcp }}", 1000 + one).unwrap();
        }
        tenants.push_str("    allow:\n");
        for one in 0..125 {
            writeln!(tenants, "      - {{ from: caller-{one}, to: service-{one} }}").unwrap();
        }
    }
    lab.edit_graph(|graph| {
        graph.replace("hosts:\n", "hosts:\n  gamma: {}\n").replace("tenants:\n", &format!("tenants:\n{tenants}"))
    });
    let large = |query: &str| curl(alpha, &["--unix-socket", SOCKET, &format!("http://localhost/?graph=whole{query}")]);
    wait_for("the page of the new policy", || large("").contains("1003 edges in the graph"));
    let whole = large("");
    assert!(whole.contains("Services, by tenant") && whole.len() < 200_000, "{} bytes", whole.len());
    assert!(large("&tenant=team-3").contains("and 110 more"));
    let shots = shots(lab);
    for (name, query) in [("large", ""), ("tenant", "&tenant=team-3")] {
        let shot = format!("--screenshot={}", shots.join(format!("page-{name}.png")).display());
        browser(lab, alpha, &[&shot, &format!("http://localhost:{FORWARDED}/?graph=whole{query}")]);
    }
}
