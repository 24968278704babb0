//! The command line as its users meet it: what it prints, and the exit codes 0, 1, 2, 3 and 4.

use ripstop_config::AgentConfig;
use ripstop_transport::enrol::{Pin, Token};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};
use tempfile::TempDir;

#[path = "cli/graph.rs"]
mod graph;

const GRAPH: &str = "\
fabric: shop.example
hosts:
  alpha: {}
  beta: {}
tenants:
  shop:
    workloads:
      web: { on: [alpha], run: { netns: web } }
      api: { on: [alpha, beta], run: { netns: api } }
      db: { on: [beta], run: { netns: db } }
    services:
      api: { by: api, port: 8080/tcp }
      db: { by: db, port: 5432/tcp }
    allow:
      - { from: web, to: api, limit: { sessions: 200 } }
      - { from: api, to: db }
";

/// A graph with three mistakes, each on a line of its own.
const MISTAKES: &str = "\
fabric: shop.example
hosts:
  alpha: {}
tenants:
  shop:
    workloads:
      web: { on: [alhpa], run: { netns: web } }
    services:
      api: { by: nobody, port: 8080/tcp }
    allow:
      - { from: web, to: missing }
";

struct Bench {
    directory: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a directory") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn file(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).expect("write");
        self.path(name).display().to_string()
    }

    /// Runs ripstop in the bench's directory; no agent of this machine is asked.
    fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ripstop"));
        command.args(arguments).current_dir(self.directory.path()).env("RIPSTOP_SOCKET", self.path("no-agent.sock"));
        Ran(command.output().expect("ripstop runs"))
    }
}

struct Ran(Output);

impl Ran {
    fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    #[track_caller]
    fn exits(self, code: i32) -> Self {
        assert_eq!(self.0.status.code(), Some(code), "stdout: {}\nstderr: {}", self.stdout(), self.stderr());
        self
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.0.stdout).expect("JSON on standard output")
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it exists").permissions().mode() & 0o777
}

#[test]
fn the_example_that_ships_is_right() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/graph.yaml");
    Bench::new().run(&["graph", "check", example]).exits(0);
}

#[test]
fn usage_errors_exit_with_2() {
    let bench = Bench::new();
    for arguments in
        [&["frobnicate"][..], &["explain", "web"], &["ca", "init"], &["--output", "xml", "status"], &["exec", "web"]]
    {
        let ran = bench.run(arguments).exits(2);
        assert!(ran.stderr().contains("--help"), "{}", ran.stderr());
    }
    bench.run(&["--help"]).exits(0);
    assert!(bench.run(&["--version"]).exits(0).stdout().starts_with("ripstop "));
}

#[test]
fn graph_check_says_what_is_in_a_good_graph() {
    let bench = Bench::new();
    let file = bench.file("shop.yaml", GRAPH);
    let said = bench.run(&["graph", "check", &file]).exits(0).stdout();
    assert!(said.starts_with("ok: 2 hosts, 1 tenant, 3 workloads, 2 services, 2 edges"), "{said}");
    let value = bench.run(&["graph", "check", &file, "-o", "json"]).exits(0).json();
    assert_eq!(value["counts"]["workloads"], 3);
    assert_eq!(value["fabric"], "shop.example");
}

#[test]
fn graph_check_says_every_mistake_at_once() {
    let bench = Bench::new();
    let file = bench.file("shop.yaml", MISTAKES);
    let ran = bench.run(&["graph", "check", &file]).exits(1);
    let said = ran.stderr();
    for part in ["alhpa", "alpha", "nobody", "missing", "shop.yaml:7", "shop.yaml:9", "shop.yaml:11"] {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
    assert!(said.contains("3 mistakes in"), "{said}");
    assert!(ran.stdout().is_empty());
    let mistakes = bench.run(&["-o", "json", "graph", "check", &file]).exits(1).json();
    assert_eq!(mistakes["mistakes"].as_array().map(Vec::len), Some(3), "{mistakes}");
    assert_eq!(mistakes["mistakes"][0]["line"], 7);
}

#[test]
fn a_file_that_is_not_there_is_one_clear_message() {
    let bench = Bench::new();
    let said = bench.run(&["graph", "check", "nowhere.yaml"]).exits(1).stderr();
    assert_eq!(said, "error: cannot read nowhere.yaml\n  because: No such file or directory (os error 2)\n");
}

#[test]
fn graph_show_lists_names_addresses_and_rules() {
    let bench = Bench::new();
    let file = bench.file("shop.yaml", GRAPH);
    let said = bench.run(&["graph", "show", &file]).exits(0).stdout();
    for part in [
        "api.shop.shop.example",
        "198.18.",
        "198.19.",
        "8080/tcp",
        "alpha beta",
        "200 sessions at once",
        "shop.yaml:15",
        "resolver 198.18.0.1",
    ] {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
    let value = bench.run(&["graph", "show", &file, "--output", "json"]).exits(0).json();
    assert_eq!(value["services"].as_array().map(Vec::len), Some(2));
    assert_eq!(value["edges"][0]["limits"]["sessions"], 200);
}

#[test]
fn graph_show_shows_what_else_is_said_of_services_workloads_and_tenants() {
    let bench = Bench::new();
    let text = GRAPH
        .replace("  shop:\n", "  shop:\n    limit: { rate: 1 gbit/s }\n")
        .replace("run: { netns: web } }", "run: { netns: web }, limit: { open: 9/s } }")
        .replace(
            "port: 8080/tcp",
            "ports: [8080/tcp, 53/udp], health: { tcp: 2s }, source: preserve, idle: 90s, limit: { session: 1 mbit/s }, \
             balance: { sticky: true, weights: { beta: 3 } }",
        );
    let file = bench.file("shop.yaml", &text);
    let said = bench.run(&["graph", "show", &file]).exits(0).stdout();
    for part in [
        "1 gbit/s for all together each way",
        "9/s new sessions",
        "health tcp every 2s; source preserve; balance least-load, sticky, weights beta 3; idle 90s; limits 1 mbit/s a session",
    ] {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
    let value = bench.run(&["graph", "show", &file, "--output", "json"]).exits(0).json();
    let (api, db) = (&value["services"][0], &value["services"][1]);
    assert_eq!(
        (&api["health"]["every"], &api["source"], &api["idle"]),
        (&"2s".into(), &"preserve".into(), &"90s".into())
    );
    assert_eq!(
        (&api["balance"]["weights"]["beta"], &api["limits"]["session_bytes_per_second"]),
        (&3.into(), &125_000.into())
    );
    assert!(db["health"].is_null() && db["limits"]["sessions"].is_null());
    assert_eq!(value["tenants"][0]["limits"]["bytes_per_second"], 125_000_000);
    assert_eq!(value["workloads"][2]["limits"]["open_per_second"], 9);
    // UDP is carried: nothing is noted of it.
    assert_eq!(bench.run(&["graph", "check", &file]).exits(0).stdout().lines().count(), 1);
}

#[test]
fn explain_exits_with_0_on_allow_and_3_on_deny() {
    let bench = Bench::new();
    let file = bench.file("shop.yaml", GRAPH);
    let allowed = bench.run(&["explain", "web", "api:8080", "--graph", &file]).exits(0).stdout();
    assert!(allowed.contains("shop.yaml:15"), "{allowed}");
    let denied = bench.run(&["explain", "shop/web", "db.shop.shop.example", "--graph", &file]).exits(3);
    assert!(denied.stdout().contains("- { from: web, to: db }"), "{}", denied.stdout());
    assert_eq!(denied.stderr(), "");
    let value = bench.run(&["explain", "web", "db", "--graph", &file, "-o", "json"]).exits(3).json();
    assert_eq!(value["allowed"], false);
    let unknown = bench.run(&["explain", "wbe", "db", "--graph", &file]).exits(1).stderr();
    assert!(unknown.contains("did you mean `web`?"), "{unknown}");
}

#[test]
fn without_an_agent_the_exit_code_is_4() {
    let bench = Bench::new();
    for arguments in
        [&["status"][..], &["explain", "web", "api"], &["exec", "web", "true"], &["exec", "web", "--", "true"]]
    {
        let said = bench.run(arguments).exits(4).stderr();
        assert!(said.contains("no agent answers on") && said.contains("no-agent.sock"), "{said}");
    }
}

#[test]
fn an_authority_and_a_hosts_identity_are_made_once_with_safe_modes() {
    let bench = Bench::new();
    bench.run(&["ca", "init", "--fabric", "shop.example"]).exits(0);
    assert_eq!((mode(&bench.path("ca/ca.key")), mode(&bench.path("ca"))), (0o600, 0o700));
    let key = fs::read(bench.path("ca/ca.key")).expect("key");
    let again = bench.run(&["ca", "init", "--fabric", "other.example"]).exits(1).stderr();
    assert!(again.contains("exists already"), "{again}");
    assert_eq!(fs::read(bench.path("ca/ca.key")).expect("key"), key);

    bench.run(&["ca", "issue", "host", "alpha"]).exits(0);
    assert_eq!(mode(&bench.path("alpha/host.key")), 0o600);
    assert_eq!(fs::read(bench.path("alpha/ca.pem")).expect("ca"), fs::read(bench.path("ca/ca.pem")).expect("ca"));
    let pem = |name: &str| bench.path("alpha").join(name);
    let identity =
        ripstop_transport::Identity::load(&pem("host.pem"), &pem("host.key"), &pem("ca.pem")).expect("an identity");
    assert_eq!((identity.host().as_str(), identity.fabric().as_str()), ("alpha", "shop.example"));
    bench.run(&["ca", "issue", "host", "alpha"]).exits(1);
}

#[test]
fn a_half_written_identity_is_not_left_behind() {
    let bench = Bench::new();
    bench.run(&["ca", "init", "--fabric", "shop.example"]).exits(0);
    fs::create_dir(bench.path("alpha")).expect("directory");
    fs::write(bench.path("alpha/ca.pem"), "of another fabric").expect("write");
    bench.run(&["ca", "issue", "host", "alpha"]).exits(1);
    assert!(!bench.path("alpha/host.key").exists() && !bench.path("alpha/host.pem").exists());
    let said = bench.run(&["ca", "issue", "host", "beta", "--dir", "nowhere"]).exits(1).stderr();
    assert!(said.contains("nowhere holds no authority") && said.contains("ripstop ca init"), "{said}");
}

#[test]
fn names_and_days_are_checked_before_anything_is_made() {
    let bench = Bench::new();
    bench.run(&["ca", "init", "--fabric", "Shop_Example"]).exits(2);
    bench.run(&["ca", "init", "--fabric", "shop.example"]).exits(0);
    bench.run(&["ca", "issue", "host", "alpha", "--days", "0"]).exits(2);
    bench.run(&["ca", "issue", "host", "al/pha"]).exits(2);
}

#[test]
fn the_agent_says_what_is_wrong_with_its_settings() {
    let bench = Bench::new();
    let said = bench.run(&["agent", "--config", "nowhere.yaml"]).exits(1).stderr();
    assert!(said.contains("nowhere.yaml") && said.contains("--config"), "{said}");
    let file = bench.file("agent.yaml", "hots: alpha\n");
    let said = bench.run(&["agent", "--config", &file]).exits(1).stderr();
    assert!(said.contains("hots") && said.contains("agent.yaml"), "{said}");
    let said = bench.run(&["agent", "--config", &file, "--log", "a=b=c"]).exits(1).stderr();
    assert!(said.contains("not a log filter"), "{said}");
}

#[test]
fn completions_are_printed_for_the_common_shells() {
    let bench = Bench::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = bench.run(&["completions", shell]).exits(0).stdout();
        assert!(script.contains("ripstop") && script.contains("explain"), "{shell}");
    }
}

#[test]
fn a_full_disk_is_a_failure() {
    let bench = Bench::new();
    let script = format!("{} completions bash > /dev/full", env!("CARGO_BIN_EXE_ripstop"));
    let output =
        Command::new("bash").args(["-c", &script]).current_dir(bench.directory.path()).output().expect("bash runs");
    let said = Ran(output).exits(1).stderr();
    assert!(said.contains("cannot write to standard output"), "{said}");
}

#[test]
fn a_reader_that_stops_reading_is_no_failure() {
    let bench = Bench::new();
    let script = format!("{} completions bash | head -c 10", env!("CARGO_BIN_EXE_ripstop"));
    let output =
        Command::new("bash").args(["-o", "pipefail", "-c", &script]).current_dir(bench.directory.path()).output();
    let output = output.expect("bash runs");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn init_makes_a_whole_first_host_or_nothing() {
    let bench = Bench::new();
    let line = [
        "init",
        "--fabric",
        "shop.example",
        "--host",
        "alpha",
        "--address",
        "192.0.2.7",
        "--dir",
        "etc",
        "--state",
        "state",
    ];
    let said = bench.run(&line).exits(0).stdout();
    assert!(said.contains("ripstop join 192.0.2.7:7477 --token rsj1_") && said.contains("agent --config"), "{said}");
    let settings = fs::read_to_string(bench.path("etc/agent.yaml")).unwrap();
    let config = AgentConfig::parse("etc/agent.yaml", &settings).unwrap();
    let files = config.identity_files().unwrap();
    assert_eq!((config.host.as_str(), &files.certificate), ("alpha", &files.key));
    let authority = config.authority.expect("it holds the authority");
    assert_eq!((authority.certificates.as_secs(), config.renew), (86_400, None));
    for secret in ["etc/operator.key", "state/host.pem", "state/authority/ca.key", "state/authority/tokens.json"] {
        assert_eq!(mode(&bench.path(secret)), 0o600, "{secret}");
    }
    assert_eq!(mode(&bench.path("state")), 0o700);
    let again = bench.run(&line).exits(1);
    assert!(again.stderr().contains("one of a fabric already"), "{}", again.stderr());
    fs::remove_file(bench.path("etc/agent.yaml")).unwrap();
    let left = bench.run(&line).exits(1).stderr();
    assert!(left.contains("is left of another fabric"), "{left}");
    // What stands in the way later is found, and what was made by then goes.
    fs::remove_dir_all(bench.path("state")).unwrap();
    let late = bench.run(&line).exits(1).stderr();
    assert!(late.contains("exists already and is left as it is"), "{late}");
    assert_eq!(fs::read_dir(bench.path("state")).unwrap().count(), 0, "nothing of it is left");
    assert!(bench.path("etc/operator.key").exists());
}

#[test]
fn joining_says_what_is_wrong_and_leaves_nothing() {
    let bench = Bench::new();
    let join = |authority: &str, token: &str| {
        bench.run(&["join", authority, "--token", token, "--host", "beta", "--dir", "etc", "--state", "state"]).stderr()
    };
    let cut = join("192.0.2.7:7477", "rsj1_abc");
    assert!(cut.contains("not a whole token") && !cut.contains("abc"), "{cut}");
    let token = Token::generate(Pin([3; 32])).unwrap().reveal();
    let nobody = join("127.0.0.1:1", &token);
    assert!(nobody.contains("no authority answers at 127.0.0.1:1"), "{nobody}");
    assert!(!nobody.contains(&token[5..]), "{nobody}");
    assert!(!bench.path("etc/agent.yaml").exists());
    assert_eq!(fs::read_dir(bench.path("state")).unwrap().count(), 0);
}

#[test]
fn changes_need_an_agent_and_make_sense() {
    let bench = Bench::new();
    for line in [
        &["token", "create"][..],
        &["token", "list"],
        &["host", "revoke", "beta", "--key", "operator.key"],
        &["workload", "add", "web", "--on", "alpha", "--run", "netns:web", "--key", "operator.key"],
    ] {
        assert!(!bench.run(line).0.status.success(), "{line:?}");
    }
    bench.run(&["token", "list"]).exits(4);
    bench.run(&["token", "create", "a_b"]).exits(2);
    bench.run(&["expose", "api", "--on", "alpha"]).exits(2);
    let run = bench.run(&["workload", "add", "web", "--on", "alpha", "--run", "docker:web"]).stderr();
    assert!(run.contains("`container:NAME`, `pod:NAMESPACE/NAME` or `host`"), "{run}");
}

#[test]
fn what_looks_at_an_agent_says_that_there_is_none() {
    let bench = Bench::new();
    for line in [
        &["observe"][..],
        &["services"],
        &["peers"],
        &["ping", "beta"],
        &["dns", "query", "api", "--as", "web"],
        &["top"],
    ] {
        let ran = bench.run(line).exits(4);
        assert!(ran.stderr().contains("no agent answers") && ran.stdout().is_empty(), "{line:?}: {}", ran.stderr());
    }
}

#[test]
fn filters_say_what_they_take() {
    let bench = Bench::new();
    for (line, part) in [
        (&["observe", "--reason", "no_egde"][..], "did you mean `no_edge`?"),
        (&["observe", "--since", "yesterday"], "2026-01-31T12:00:00Z"),
        (&["observe", "--verdict", "maybe"], "allow, deny"),
        (&["ping", "-c", "0", "beta"], "1..=1000000"),
        (&["dns", "query", "api"], "--as <WORKLOAD>"),
    ] {
        let said = bench.run(line).exits(2).stderr();
        assert!(said.contains(part), "{line:?}: {said}");
    }
}

#[test]
fn check_says_what_to_do_before_there_is_an_agent() {
    let bench = Bench::new();
    let looked = bench.run(&["check", "--config", "missing.yaml", "-o", "json"]).json();
    let found = |value: &serde_json::Value, what: &str| {
        let all = value["findings"].as_array().expect("findings").iter().find(|one| one["what"] == what).cloned();
        all.unwrap_or_else(|| panic!("no {what} in {value:#}"))
    };
    assert_eq!(looked["schema"], 1);
    let settings = found(&looked, "agent.yaml");
    assert!(settings["state"] == "doubtful" && settings["remedy"].as_str().expect("one").contains("ripstop init"));
    assert!(found(&looked, "kernel")["says"].as_str().expect("text").starts_with("Linux "));

    let broken = bench.file("agent.yaml", "host: alpha\nlisen: \"[::]:7477\"\n");
    let ran = bench.run(&["check", "--config", &broken]).exits(1);
    assert!(ran.stdout().contains("× agent.yaml") && ran.stdout().contains("lisen"), "{}", ran.stdout());

    let file = bench.file("agent.yaml", "host: alpha\ngraph: graph.yaml\nlisten: 127.0.0.1:7999\nmetrics: off\n");
    bench.file("graph.yaml", GRAPH);
    bench.run(&["ca", "init", "--fabric", "shop.example"]).exits(0);
    bench.run(&["ca", "issue", "host", "beta", "--out", "."]).exits(0);
    let looked = bench.run(&["check", "--config", &file, "-o", "json"]).exits(1).json();
    let name = found(&looked, "name");
    assert!(name["state"] == "bad" && name["says"].as_str().expect("text").contains("host beta"), "{name}");
    assert_eq!(found(&looked, "graph")["state"], "good");
    assert_eq!(found(&looked, "QUIC port")["says"], "127.0.0.1:7999/udp is free");
}

#[test]
fn manual_pages_are_written_for_every_command() {
    let bench = Bench::new();
    bench.run(&["man", "."]).exits(0);
    for page in ["ripstop.1", "ripstop-observe.1", "ripstop-dns-query.1"] {
        let text = fs::read_to_string(bench.path(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(".TH"), "{page}");
    }
    assert!(!bench.path("ripstop-demo-serve.1").exists(), "hidden commands are nobody's business");
}
