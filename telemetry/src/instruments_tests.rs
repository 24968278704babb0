use super::*;
use ripstop_dns::Rcode;
use std::{
    io::Write as _,
    process::{Command, Stdio},
};

/// Uses every instrument once, and returns what a scrape would show.
pub(crate) fn rendered() -> String {
    let recorder = recorder().unwrap();
    let handle = recorder.handle();
    metrics::with_local_recorder(&recorder, || {
        describe();
        use_everything();
    });
    handle.render()
}

fn use_everything() {
    let (caller, service) = ("shop/web".parse().unwrap(), "shop/api".parse().unwrap());
    for side in [Side::Caller, Side::Server] {
        let edge = EdgeInstruments::new(&caller, &service, side);
        edge.opened();
        edge.bytes_up(10);
        edge.bytes_down(20);
        edge.throttled(Duration::from_millis(3));
        edge.burst(65_536);
        edge.connected(Duration::from_millis(2));
        verdict(Some(&caller), Some(&service), side, None);
        for reason in Reason::ALL {
            edge.closed(*reason, Duration::from_secs(1));
            verdict(Some(&caller), Some(&service), side, Some(*reason));
        }
    }
    let drops = DropCounters::new(&caller);
    Reason::ALL.iter().for_each(|reason| drops.count(*reason));
    let dns = DnsCounters::new(&caller);
    for source in DnsSource::ALL {
        Rcode::ALL.iter().for_each(|rcode| dns.count(*rcode, source));
    }
    staged(&caller, &service, "would_deny");
    VoiceRequest::Whoami.count(&caller, VoiceResult::Answered);
    policy_loaded(true, [1, 2, 3, 4, 5, 6, 7, 8]);
    policy_loaded(false, [0; 8]);
    bundle_refused();
    host_records(2);
    host_record_refused("forged");
    peers(2, 0, 1);
    peer(&HostName::new("beta").unwrap(), true, Some(Duration::from_micros(300)));
    workloads(3, 1);
    endpoint_healthy(&service, Some(true));
    endpoint_healthy(&service, None);
    endpoint_draining(&service, Some(false));
    certificate_expires(UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    certificate_renewed(true);
    enrolment("joined");
    bundle_refused();
    records_written(1);
    records_lost(1);
    record_write_failed();
    records_unwritten(1);
    door(true);
    captures(0);
    carrier(true);
    otlp("traces", "sent", 1);
    HandedOnCounter::default().count();
    predecessor_sessions(2);
    build_info();
    crate::process::sample();
}

#[test]
fn promtool_finds_nothing_to_complain_about() {
    let text = rendered();
    let check = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut check) = check else {
        eprintln!("SKIPPED: promtool is not installed (Debian package `prometheus`)");
        return;
    };
    check.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = check.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

#[test]
fn every_metric_is_used_and_described() {
    let text = rendered();
    let names = COUNTERS.iter().chain(GAUGES).map(|(name, ..)| *name).chain(HISTOGRAMS.iter().map(|(name, ..)| *name));
    for name in names {
        assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
        let used =
            text.lines().any(|line| line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} ")));
        assert!(used || text.contains(&format!("{name}_bucket{{")), "{name} is not used, or is a summary");
    }
    let described = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
    assert_eq!(described, COUNTERS.len() + GAUGES.len() + HISTOGRAMS.len(), "a metric is missing from the tables");
}

#[test]
fn every_reason_is_a_label() {
    let text = rendered();
    for reason in Reason::ALL {
        let drop = format!("{DROPPED}{{tenant=\"shop\",workload=\"shop/web\",reason=\"{reason}\"}} 1");
        assert!(text.contains(&drop), "{drop}");
        let verdict = if reason.is_denial() { "deny" } else { "allow" };
        assert!(text.contains(&format!("verdict=\"{verdict}\",reason=\"{reason}\"")), "{reason}");
    }
    assert!(text.contains("verdict=\"allow\",reason=\"none\""));
}

#[test]
fn what_is_not_in_the_graph_is_counted_as_other() {
    let recorder = recorder().unwrap();
    metrics::with_local_recorder(&recorder, || {
        verdict(None, None, Side::Server, Some(Reason::UnknownCaller));
        verdict(Some(&"shop/web".parse().unwrap()), None, Side::Server, Some(Reason::NoService));
    });
    let text = recorder.handle().render();
    assert!(text.contains("tenant=\"other\",caller=\"other\",service=\"other\""), "{text}");
    assert!(text.contains("caller=\"shop/web\",service=\"other\""), "{text}");
}

#[test]
fn values_are_what_was_recorded() {
    let text = rendered();
    let edge = "tenant=\"shop\",caller=\"shop/web\",service=\"shop/api\",side=\"caller\"";
    assert!(text.contains(&format!("{SESSION_BYTES}{{{edge},direction=\"up\"}} 10")), "{text}");
    assert!(text.contains(&format!("{THROTTLE}_sum{{{edge}}} 0.003")), "{text}");
    assert!(text.contains(&format!("{POLICY_DIGEST} {}", 0x0102_0304_0506_u64)), "{text}");
    assert!(text.contains(&format!("{POLICY_OK} 0")), "a refused reload shows");
}

#[test]
fn the_bytes_of_a_session_are_told_when_it_ends() {
    let recorder = recorder().unwrap();
    let says = |what: &str, bytes: u64| {
        let text = recorder.handle().render();
        let is_it = |line: &&str| line.starts_with(&format!("{what}{{")) && line.contains("direction=\"down\"");
        assert!(text.lines().find(is_it).unwrap().ends_with(&format!(" {bytes}")), "{text}");
    };
    metrics::with_local_recorder(&recorder, || {
        let edge = EdgeInstruments::new(&"shop/web".parse().unwrap(), &"shop/api".parse().unwrap(), Side::Caller);
        (0..10).for_each(|_| edge.bytes_down(1_000));
        (0..5).for_each(|_| edge.throttled_down(100));
        says(SESSION_BYTES, 0);
        edge.closed(Reason::Closed, Duration::from_secs(1));
        says(SESSION_BYTES, 10_000);
        says(THROTTLED, 500);
    });
}
