//! `agent.yaml`: defaults, values and mistakes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use ripstop_config::{
    AgentConfig,
    agent::{
        AGENT_MAX, Admin, BusyPoll, CERTIFICATES, Carrier, ETCD_PREFIX, IdentityFiles, IdentitySource, PolicySource,
        Principal, SessionLog,
    },
};
#[cfg(feature = "otel")]
use ripstop_config::{agent::OTEL_TIMEOUT, units::Share};
use std::path::Path;

const FILE: &str = "/etc/ripstop/agent.yaml";

#[test]
fn what_is_left_out_has_defaults() {
    let config = AgentConfig::parse(FILE, "host: alpha\ngraph: graph.yaml\n").unwrap();
    assert_eq!(config.host.as_str(), "alpha");
    assert_eq!(config.policy, PolicySource::File("/etc/ripstop/graph.yaml".into()));
    assert_eq!(config.state, Path::new("/var/lib/ripstop"));
    let [certificate, key, ca] = ["host.pem", "host.key", "ca.pem"].map(|file| Path::new("/etc/ripstop").join(file));
    assert_eq!(config.identity, IdentitySource::Files(IdentityFiles { certificate, key, ca }));
    assert_eq!(config.listen.to_string(), "[::]:7477");
    assert_eq!(config.metrics.unwrap().to_string(), "127.0.0.1:7478");
    assert_eq!((config.page, config.run.as_path()), (None, Path::new("/run/ripstop")));
    assert_eq!(config.sessions, SessionLog::Stdout);
    assert_eq!((config.upstream, config.resolv_conf, config.resolved), (None, false, false));
    assert_eq!((config.admin, config.capture.is_empty()), (Admin::default(), true));
    assert_eq!(config.carrier, Carrier { in_band: true, etcd: None });
    assert_eq!((config.otel, config.busy_poll, config.data_threads), (None, BusyPoll::Auto, 1));
}

#[test]
fn everything_can_be_said() {
    let text = "
host: beta
graph: /srv/graph.yaml
identity: { certificate: pki/beta.pem, key: /secret/beta.key, ca: ../ca.pem }
listen: 192.0.2.7
data-threads: 4
busy-poll: off
metrics: off
page: ':80'
run: run
admin: { read: [alice, '%adm', 1001], change: ['%27'] }
capture: { allow: [beta, alpha] }
state: state
sessions: log/sessions.jsonl
dns: { upstream: [9.9.9.9, '[2620:fe::fe]:5353'], resolv-conf: true, resolved: true }
";
    let config = AgentConfig::parse("conf/agent.yaml", text).unwrap();
    assert_eq!(config.policy, PolicySource::File("/srv/graph.yaml".into()));
    assert_eq!(config.state, Path::new("conf/state"));
    let [certificate, key, ca] = ["conf/pki/beta.pem", "/secret/beta.key", "conf/../ca.pem"].map(Into::into);
    assert_eq!(config.identity_files(), Some(&IdentityFiles { certificate, key, ca }));
    assert_eq!((config.listen.to_string().as_str(), config.busy_poll), ("192.0.2.7:7477", BusyPoll::Off));
    assert_eq!(config.data_threads, 4);
    assert_eq!((config.metrics, config.page.unwrap().to_string()), (None, "127.0.0.1:80".into()));
    assert_eq!(config.run, Path::new("conf/run"));
    assert_eq!(config.sessions, SessionLog::File("conf/log/sessions.jsonl".into()));
    assert!(config.resolv_conf && config.resolved);
    let read = vec![Principal::User("alice".into()), Principal::Group("adm".into()), Principal::Uid(1001)];
    assert_eq!(config.admin, Admin { read, change: vec![Principal::Gid(27)] });
    assert_eq!(config.capture.iter().map(ripstop_config::HostName::as_str).collect::<Vec<_>>(), ["alpha", "beta"]);
    let upstream: Vec<_> = config.upstream.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(upstream, ["9.9.9.9:53", "[2620:fe::fe]:5353"]);
    let none =
        AgentConfig::parse("agent.yaml", "host: a\ngraph: g\nsessions: off\ndns: { upstream: [] }\nlisten: ':9'\n");
    let none = none.unwrap();
    assert_eq!((none.upstream, none.sessions), (Some(Vec::new()), SessionLog::Off));
    assert_eq!((none.policy, none.listen.to_string().as_str()), (PolicySource::File("g".into()), "[::]:9"));
}

#[test]
fn the_page_is_on_loopback_alone() {
    let page =
        |text: &str| AgentConfig::parse(FILE, &format!("host: a\ngraph: g\npage: {text}\n")).map(|config| config.page);
    assert_eq!(page("off").unwrap(), None);
    assert_eq!(page("127.0.0.1").unwrap().unwrap().to_string(), "127.0.0.1:7479");
    assert_eq!(page("'[::1]:9'").unwrap().unwrap().to_string(), "[::1]:9");
    for elsewhere in ["0.0.0.0:7479", "192.0.2.1:7479", "'[::]:7479'"] {
        let refused = page(elsewhere).unwrap_err().to_string();
        assert!(refused.contains("on loopback alone") && refused.contains("ssh -L 7479"), "{refused}");
    }
}

#[test]
fn whether_to_poll_is_one_of_three() {
    let read = |text: &str| AgentConfig::parse(FILE, &format!("host: a\ngraph: g\nbusy-poll: {text}\n"));
    assert_eq!(
        ["auto", "on", "off"].map(|text| read(text).unwrap().busy_poll),
        [BusyPoll::Auto, BusyPoll::On, BusyPoll::Off]
    );
    let refused = read("50us").unwrap_err().to_string();
    assert!(refused.contains("agent.yaml:3") && refused.contains("write `auto`, `on` or `off`"), "{refused}");
}

#[test]
fn data_threads_are_bounded_and_each_has_a_port() {
    let read = |text: &str| AgentConfig::parse(FILE, &format!("host: a\ngraph: g\ndata-threads: {text}\n"));
    assert_eq!(["1", "16"].map(|text| read(text).unwrap().data_threads), [1, 16]);
    for bad in ["0", "17", "-1", "all", "1.5"] {
        let refused = read(bad).unwrap_err().to_string();
        assert!(refused.contains("agent.yaml:3") && refused.contains("from 1 to 16"), "{refused}");
    }
    assert!(read("2\nlisten: ':65534'").is_ok());
    let refused = read("3\nlisten: ':65534'").unwrap_err().to_string();
    assert!(refused.contains("agent.yaml:3") && refused.contains("no 3 ports from 65534 on"), "{refused}");
}

#[test]
fn a_policy_is_a_file_or_signed_and_not_both() {
    let signed = AgentConfig::parse(FILE, "host: alpha\ntrust: operators.yaml\n").unwrap();
    assert_eq!(signed.policy, PolicySource::Signed("/etc/ripstop/operators.yaml".into()));
    let both = AgentConfig::parse(FILE, "host: alpha\ntrust: operators.yaml\ngraph: graph.yaml\n").unwrap_err();
    assert!(both.to_string().contains("cannot both be given"), "{both}");
    let none = AgentConfig::parse(FILE, "host: alpha\n").unwrap_err();
    assert!(none.to_string().contains("or `trust:"), "{none}");
}

#[test]
fn every_mistake_is_shown_at_once() {
    let run = "r".repeat(120);
    let text = format!(
        "hosts: alpha\ngraph: ''\nidentity: {{ cert: a, key: [b] }}\nlisten: everywhere\nmetrics: 127.0.0.1:0\nrun: {run}\n\
         sessions:\ndns: {{ upstream: [9.9.9.9, dns.example, 0.0.0.0] }}\nlisten: ':1'\n"
    );
    let found = AgentConfig::parse("agent.yaml", &text).unwrap_err();
    insta::assert_snapshot!(found.to_string());
}

#[test]
fn who_may_ask_is_a_user_or_a_group() {
    for bad in
        ["admin: [alice]", "admin: { read: alice, change: [''] }", "admin: { read: ['%'] }", "admin: { change: [a/b] }"]
    {
        let found = AgentConfig::parse(FILE, &format!("host: a\ngraph: g\n{bad}\n"));
        assert!(found.is_err(), "{bad}");
    }
    let many = format!("host: a\ngraph: g\nadmin: {{ read: [{}] }}\n", "alice, ".repeat(65));
    assert!(AgentConfig::parse(FILE, &many).unwrap_err().to_string().contains("make them a group"));
}

#[test]
fn large_files_and_other_files_are_refused() {
    assert!(AgentConfig::parse(FILE, &"#".repeat(AGENT_MAX + 1)).is_err());
    for text in ["", "host", "- host: a", "host: a", "host: a\ngraph: b\n---\n"] {
        assert!(!AgentConfig::parse(FILE, text).map_or_else(|found| found.0, |_| Vec::new()).is_empty(), "{text}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "((host|graph|listen|dns|upstream|run|identity)(: |:\n  )|\\PC{0,5}|[{}\\[\\],\n -]){0,30}") {
        let _ = AgentConfig::parse(FILE, &text).map_err(|found| found.to_string());
    }
}

#[test]
fn a_certificate_is_renewed_by_ones_own_authority_or_by_anothers() {
    let one_file = "host: a\ntrust: o.yaml\nidentity: { certificate: h.pem, key: h.pem }\n";
    let parse = |more: &str| AgentConfig::parse(FILE, &format!("{one_file}{more}"));
    let holds = parse("authority: { directory: /var/lib/ripstop/authority, operator: operator.key }\n").unwrap();
    let authority = holds.authority.unwrap();
    assert_eq!(authority.directory, Path::new("/var/lib/ripstop/authority"));
    assert_eq!(authority.operator.as_deref(), Some(Path::new("/etc/ripstop/operator.key")));
    assert_eq!((authority.certificates, holds.renew), (CERTIFICATES, None));
    let joined = parse("renew: { host: b, address: 192.0.2.7 }\n").unwrap();
    let renew = joined.renew.unwrap();
    assert_eq!((renew.host.as_str(), renew.address.to_string().as_str()), ("b", "192.0.2.7:7477"));
    assert!(joined.authority.is_none());
    let short = parse("authority: { directory: d, certificates: 90m }\n").unwrap().authority.unwrap();
    assert_eq!((short.certificates.as_secs(), short.operator), (5_400, None));
    for (wrong, said) in [
        ("authority: { directory: d }\nrenew: { host: b, address: 192.0.2.7 }\n", "cannot both be given"),
        ("authority: {}\n", "needs `directory`"),
        ("renew: { host: b }\n", "needs `address`"),
        ("renew: { host: b, address: 0.0.0.0 }\n", "nobody can be reached"),
        ("authority: { directory: d, certificates: soon }\n", "a span of time"),
    ] {
        let error = parse(wrong).unwrap_err().to_string();
        assert!(error.contains(said), "{wrong}: {error}");
    }
    let two_files =
        AgentConfig::parse(FILE, "host: a\ntrust: o\nrenew: { host: b, address: 192.0.2.7 }\n").unwrap_err();
    assert!(two_files.to_string().contains("must be in one file with its key"), "{two_files}");
}

#[test]
fn an_etcd_is_known_by_its_certificate_and_not_by_a_name_in_dns() {
    let parse =
        |carrier: &str| AgentConfig::parse(FILE, &format!("host: a\ntrust: o.yaml\ncarrier: {{ {carrier} }}\n"));
    let whole = parse(
        "in-band: false, etcd: { endpoints: ['https://192.0.2.7', 'https://[2001:db8::7]:2380/'], prefix: /a/b, ca: ca.pem, \
         name: etcd.example, certificate: c.pem, key: /k/c.key, user: u, password-file: p }",
    );
    let carrier = whole.unwrap().carrier;
    let etcd = carrier.etcd.unwrap();
    let endpoints: Vec<_> = etcd.endpoints.iter().map(ToString::to_string).collect();
    assert_eq!(endpoints, ["192.0.2.7:2379", "[2001:db8::7]:2380"]);
    assert_eq!((carrier.in_band, etcd.prefix.as_str()), (false, "/a/b"));
    let tls = etcd.tls.unwrap();
    assert_eq!((tls.ca.as_path(), tls.name.as_deref()), (Path::new("/etc/ripstop/ca.pem"), Some("etcd.example")));
    assert_eq!(tls.identity, Some(("/etc/ripstop/c.pem".into(), "/k/c.key".into())));
    let login = etcd.login.unwrap();
    assert_eq!((login.user.as_str(), login.password.as_path()), ("u", Path::new("/etc/ripstop/p")));

    let short = parse("etcd: { endpoints: [http://127.0.0.1] }").unwrap().carrier;
    assert!(short.in_band);
    let etcd = short.etcd.unwrap();
    assert_eq!((etcd.prefix.as_str(), etcd.tls, etcd.login), (ETCD_PREFIX, None, None));
}

#[test]
fn what_an_etcd_cannot_be_is_said() {
    let of = |carrier: &str| format!("host: a\ntrust: o.yaml\ncarrier: {{ {carrier} }}\n");
    let good = "endpoints: [https://192.0.2.7]";
    for (wrong, said) in [
        ("in-band: false".to_owned(), "no policy reaches this host"),
        ("etcd: { ca: c }".to_owned(), "needs `endpoints`"),
        ("etcd: { endpoints: [], ca: c }".to_owned(), "must have 1 to 9"),
        ("etcd: { endpoints: [https://etcd.example], ca: c }".to_owned(), "names are not looked up"),
        ("etcd: { endpoints: [192.0.2.7], ca: c }".to_owned(), "is not a URL"),
        ("etcd: { endpoints: [http://192.0.2.7] }".to_owned(), "without TLS anybody on the way"),
        ("etcd: { endpoints: [http://127.0.0.1, https://192.0.2.7], ca: c }".to_owned(), "some `http://`"),
        ("etcd: { endpoints: [http://127.0.0.1], ca: c }".to_owned(), "of no use with `http://`"),
        (format!("etcd: {{ {good} }}"), "`ca` is missing"),
        (format!("etcd: {{ {good}, ca: c, key: k }}"), "`certificate` and `key` belong together"),
        (format!("etcd: {{ {good}, ca: c, user: u }}"), "`user` and `password-file` belong together"),
        (format!("etcd: {{ {good}, ca: c, prefix: ripstop }}"), "no beginning of keys"),
        (format!("etcd: {{ {good}, ca: c, password: secret }}"), "password"),
    ] {
        let error = AgentConfig::parse(FILE, &of(&wrong)).unwrap_err().to_string();
        assert!(error.contains(said), "{wrong}: {error}");
    }
    let file = AgentConfig::parse(FILE, "host: a\ngraph: g\ncarrier: { in-band: true }\n").unwrap_err();
    assert!(file.to_string().contains("nothing to carry with `graph`"), "{file}");
}

#[cfg(feature = "otel")]
#[test]
fn a_collector_is_on_this_host_or_known_by_its_certificate() {
    let parse = |otel: &str| AgentConfig::parse(FILE, &format!("host: a\ngraph: g\notel: {{ {otel} }}\n"));
    let short = parse("endpoint: http://127.0.0.1").unwrap().otel.unwrap();
    assert_eq!((short.endpoint.to_string().as_str(), short.path.as_str()), ("127.0.0.1:4318", ""));
    assert_eq!((short.tls, short.headers, short.sample), (None, None, Share::ALL));
    assert_eq!((short.records, short.timeout), (true, OTEL_TIMEOUT));
    let whole = parse(
        "endpoint: 'https://[2001:db8::9]:443/otlp/', ca: ca.pem, name: otlp.example, headers-file: h, sample: 0.25, \
         records: false, timeout: 2s",
    );
    let whole = whole.unwrap().otel.unwrap();
    assert_eq!((whole.endpoint.to_string().as_str(), whole.path.as_str()), ("[2001:db8::9]:443", "/otlp"));
    let tls = whole.tls.unwrap();
    assert_eq!((tls.ca.as_path(), tls.name.as_deref()), (Path::new("/etc/ripstop/ca.pem"), Some("otlp.example")));
    assert_eq!(whole.headers.as_deref(), Some(Path::new("/etc/ripstop/h")));
    assert_eq!((whole.sample.to_string().as_str(), whole.records, whole.timeout.as_secs()), ("0.25", false, 2));

    for (wrong, said) in [
        ("ca: c", "needs `endpoint`"),
        ("endpoint: 127.0.0.1", "is not a URL"),
        ("endpoint: http://localhost", "names are not looked up"),
        ("endpoint: http://192.0.2.9", "could read who calls what"),
        ("endpoint: https://192.0.2.9", "`ca` is missing"),
        ("endpoint: http://127.0.0.1, ca: c", "of no use with `http://`"),
        ("endpoint: 'http://127.0.0.1/a?b'", "`/a?b` is not a path"),
        ("endpoint: http://127.0.0.1, sample: 10%", "from 0 (none) to 1 (all)"),
        ("endpoint: http://127.0.0.1, timeout: 2m", "from 100ms to 60s"),
        ("endpoint: http://127.0.0.1, headers: x", "unknown key `headers`"),
    ] {
        let error = parse(wrong).unwrap_err().to_string();
        assert!(error.contains(said), "{wrong}: {error}");
    }
}

#[test]
fn an_identity_is_of_files_or_of_a_workload_api() {
    let parse = |more: &str| AgentConfig::parse(FILE, &format!("host: a\ngraph: g\n{more}\n"));
    let config = parse("identity: { spire: 'unix:///run/spire/sockets/agent.sock' }").unwrap();
    assert_eq!(config.identity, IdentitySource::Spire("/run/spire/sockets/agent.sock".into()));
    assert_eq!(config.identity_files(), None);
    let long = format!("identity: {{ spire: 'unix:///{}' }}", "s".repeat(107));
    for (wrong, said) in [
        ("identity: { spire: 'unix:///a', certificate: h.pem }", "cannot both be given"),
        ("identity: { spire: 'unix:///a' }\nrenew: { host: b, address: 192.0.2.7 }", "nothing here renews"),
        ("identity: { spire: 'unix:///a' }\nauthority: { directory: d }", "nothing here renews"),
        ("identity: { spire: 'tcp://127.0.0.1:8081' }", "is not the socket of a Workload API"),
        ("identity: { spire: 'unix://run/agent.sock' }", "unix:///run/spire/sockets/agent.sock"),
        ("identity: { spire: 'unix:///run/' }", "is not the socket"),
        ("identity: { spire: 'unix:///run/a?b' }", "is not the socket"),
        (&*long, "at most 107 bytes"),
    ] {
        let error = parse(wrong).unwrap_err().to_string();
        assert!(error.contains(said), "{wrong}: {error}");
    }
}
