//! What a hostile member of the fabric may hand on, and what comes of it.

use super::*;
use ripstop_config::{Graph, ServiceId};
use ripstop_datapath::session::endpoints::State;
use ripstop_transport::{CLOCKS_APART_MAX, Identity, RECORD_LIFE_MAX, Record, Revoked, Stamp, pki};
use std::{path::Path, sync::LazyLock, time::SystemTime};

const GRAPH: &str = "
fabric: lab.test
hosts: { alpha: {}, beta: {}, gamma: {} }
tenants:
  shop:
    workloads: { api: { on: [gamma], run: { netns: api } } }
    services: { api: { by: api, port: 8080/tcp } }
";

/// Those of alpha, beta and gamma, of a host that the graph does not name, and of a gamma of another authority.
struct Identities {
    alpha: Identity,
    beta: Identity,
    gamma: Identity,
    unknown: Identity,
    stranger: Identity,
}

static ALL: LazyLock<Identities> = LazyLock::new(|| {
    let directory = tempfile::tempdir().unwrap();
    let (own, other) = (authority(), authority());
    let identity = |authority: &pki::Authority, name: &str| issue(authority, name, directory.path());
    Identities {
        alpha: identity(&own, "alpha"),
        beta: identity(&own, "beta"),
        gamma: identity(&own, "gamma"),
        unknown: identity(&own, "unknown"),
        stranger: identity(&other, "gamma"),
    }
});

fn authority() -> pki::Authority {
    pki::Authority::create(&"lab.test".parse().unwrap()).unwrap()
}

fn issue(authority: &pki::Authority, name: &str, directory: &Path) -> Identity {
    let at = |file: &str| directory.join(format!("{name}-{file}"));
    let issued = authority.issue_host(&HostName::new(name).unwrap(), pki::HOST_VALIDITY_MIN).unwrap();
    std::fs::write(at("ca"), authority.certificate_pem()).unwrap();
    std::fs::write(at("pem"), &issued.certificate_pem).unwrap();
    std::fs::write(at("key"), issued.key_pem.as_bytes()).unwrap();
    std::fs::set_permissions(at("key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    Identity::load(&at("pem"), &at("key"), &at("ca")).unwrap()
}

const LIFE: Duration = Duration::from_secs(10);

fn host(name: &str) -> HostName {
    HostName::new(name).unwrap()
}

/// Alpha, which hears what is handed on.
fn judge() -> Judge {
    let graph = Graph::parse("graph.yaml", GRAPH).unwrap();
    Judge {
        policy: Arc::new(ripstop_policy::compile(graph).unwrap()),
        revoked: Revoked::default(),
        identity: ALL.alpha.clone(),
        hearsay: Arc::new(Hearsay::new(host("alpha"), 7)),
        clocks: Arc::default(),
    }
}

fn stamp(ago: Duration) -> Stamp {
    Stamp::now(LIFE, None, SystemTime::now() - ago)
}

fn record(of: &Identity, stamp: Stamp, state: &str) -> Vec<u8> {
    let standing = format!(r#"{{"service":"shop/api","state":"{state}","sessions":3}}"#);
    of.sign_record(stamp, format!(r#"{{"version":1,"endpoints":[{standing}]}}"#).as_bytes()).unwrap()
}

fn hear(judge: &Judge, record: &[u8]) -> Result<Taken, Refused> {
    judge.judge(record, |_| true).1
}

/// What alpha believes of gamma's endpoint.
fn believed(judge: &Judge) -> Option<State> {
    let api: ServiceId = "shop/api".parse().unwrap();
    judge.hearsay.of(&host("gamma"), &api, Instant::now()).map(|heard| heard.standing.state)
}

/// What beta signed, with gamma's name in its head.
fn beta_as_gamma(record: &[u8]) -> Vec<u8> {
    assert_eq!(record[1..6], *b"\x04beta");
    [&record[..1], b"\x05gamma", &record[6..]].concat()
}

/// The record with another name in its head, of as many letters.
fn renamed(mut record: Vec<u8>, name: &str) -> Vec<u8> {
    assert_eq!(usize::from(record[1]), name.len());
    record[2..2 + name.len()].copy_from_slice(name.as_bytes());
    record
}

#[test]
fn what_a_host_signed_is_believed_whoever_hands_it_on() {
    let judge = judge();
    assert_eq!(hear(&judge, &record(&ALL.gamma, stamp(LIFE / 2), "draining")), Ok(Taken::News));
    assert_eq!(believed(&judge), Some(State::Draining));
    assert_eq!(hear(&judge, &record(&ALL.gamma, stamp(Duration::ZERO), "ready")), Ok(Taken::News));
    assert_eq!(believed(&judge), Some(State::Ready));
    let kept = judge.hearsay.record(&host("gamma"), Instant::now()).unwrap();
    assert!(Record::read(&kept).is_ok_and(|read| read.host == host("gamma")), "as it came, to be handed on");
}

#[test]
fn nothing_that_is_hostile_is_taken() {
    let (mut judge, soon) = (judge(), Duration::from_secs(1));
    assert_eq!(hear(&judge, &record(&ALL.gamma, stamp(soon), "draining")), Ok(Taken::News));
    let newer = stamp(Duration::ZERO);
    let true_one = record(&ALL.gamma, newer, "ready");
    let mut changed = true_one.clone();
    let at = changed.windows(5).position(|window| window == b"ready").unwrap();
    changed[at..at + 5].copy_from_slice(b"other");
    let at_time = |time| Stamp::now(LIFE, None, time);
    let (now, apart) = (SystemTime::now(), CLOCKS_APART_MAX + soon);
    let cases = [
        ("changed on the way", changed, Refused::Forged),
        ("beta's, as gamma's", beta_as_gamma(&record(&ALL.beta, newer, "ready")), Refused::Forged),
        ("of another authority", record(&ALL.stranger, newer, "ready"), Refused::Certificate),
        ("of a host that nobody named", record(&ALL.unknown, newer, "ready"), Refused::Unknown),
        ("expired", record(&ALL.gamma, at_time(now - LIFE - apart), "ready"), Refused::Expired),
        ("of the future", record(&ALL.gamma, at_time(now + apart), "ready"), Refused::Future),
        ("for ever", record(&ALL.gamma, Stamp { life: u16::MAX, ..newer }, "ready"), Refused::Future),
        ("too long", vec![true_one[0]; RECORD_MAX + 1], Refused::Malformed),
        ("cut", true_one[..true_one.len() / 4].to_vec(), Refused::Malformed),
        ("of another version", ALL.gamma.sign_record(newer, br#"{"version":9}"#).unwrap(), Refused::Version),
    ];
    for (what, bytes, refused) in cases {
        assert_eq!(hear(&judge, &bytes), Err(refused), "{what}");
    }
    assert_eq!(hear(&judge, &record(&ALL.gamma, stamp(soon * 2), "ready")), Ok(Taken::Late), "an old one of its own");
    let shut_out = Revoked { hosts: [host("gamma")].into(), ..Revoked::default() };
    let certificate = Revoked { certificates: [ALL.gamma.certificate().clone()].into(), ..Revoked::default() };
    for revoked in [shut_out, certificate] {
        judge.revoked = revoked;
        assert_eq!(hear(&judge, &true_one), Err(Refused::Revoked));
    }
    assert_eq!(believed(&judge), Some(State::Draining), "unmoved");
    judge.again();
    assert_eq!(believed(&judge), None, "signed with a certificate that is shut out by now");
}

/// By how many seconds alpha finds gamma's clock to be ahead, where it is too far off.
fn ahead(judge: &Judge) -> Option<i64> {
    judge.clocks.apart(Instant::now()).get(&host("gamma")).map(|ahead| ahead.round() as i64)
}

#[test]
fn a_clock_that_is_wrong_is_told_of_the_host_whose_it_is() {
    let (judge, now) = (judge(), SystemTime::now());
    let at = |seconds: i64| {
        let by = Duration::from_secs(seconds.unsigned_abs());
        Stamp::now(LIFE, None, if seconds < 0 { now - by } else { now + by })
    };
    assert_eq!(hear(&judge, &record(&ALL.beta, at(3_600), "ready")), Err(Refused::Future));
    assert_eq!(hear(&judge, &beta_as_gamma(&record(&ALL.beta, at(90), "ready"))), Err(Refused::Future));
    assert_eq!(ahead(&judge), None, "gamma has not signed that");
    assert_eq!(hear(&judge, &record(&ALL.gamma, at(-90), "ready")), Err(Refused::Expired));
    assert_eq!(ahead(&judge), Some(-90));
    assert_eq!(hear(&judge, &record(&ALL.gamma, Stamp { life: 0, ..at(0) }, "ready")), Err(Refused::Future));
    assert_eq!(hear(&judge, &record(&ALL.gamma, at(0), "ready")), Ok(Taken::News));
    assert_eq!(ahead(&judge), None, "it is set");
    assert_eq!(hear(&judge, &record(&ALL.gamma, at(-90), "ready")), Err(Refused::Expired));
    assert_eq!(ahead(&judge), None, "an old one that somebody kept says nothing");
    assert_eq!(hear(&judge, &record(&ALL.gamma, at(62), "ready")), Err(Refused::Future));
    assert_eq!((ahead(&judge), judge.clocks.apart(Instant::now()).len()), (Some(62), 2), "and beta");
}

#[test]
fn a_flood_of_records_grows_no_memory() {
    let (judge, now) = (judge(), SystemTime::now());
    let at = |ms: u64| Stamp { issued: Stamp::now(LIFE, None, now).issued + ms, life: 10 };
    let one = record(&ALL.beta, at(0), "ready");
    let mut kept = 0;
    for number in 0..10_000_u64 {
        let bytes = match number % 100 {
            // Each later than the one before, and signed.
            0 => record(&ALL.beta, at(number), "ready"),
            // Of gamma, with beta's certificate.
            1 => beta_as_gamma(&one),
            // Of hosts that there are not.
            _ => renamed(one.clone(), &format!("{:04}", number % 10_000)),
        };
        kept += usize::from(matches!(hear(&judge, &bytes), Ok(Taken::News | Taken::Renewed)));
    }
    assert_eq!(kept, 100, "beta's own alone");
    assert_eq!(judge.hearsay.ages(Instant::now()).into_keys().collect::<Vec<_>>(), [host("beta")]);
}

#[test]
fn an_answer_is_of_what_was_asked_for() {
    let judge = judge();
    let answer = |records: &[&[u8]]| wire::records(records.iter().map(|one| Bytes::copy_from_slice(one)));
    let (beta, gamma) = (record(&ALL.beta, stamp(LIFE / 4), "ready"), record(&ALL.gamma, stamp(LIFE / 4), "ready"));
    let (came, outcome) = take(&judge, &[host("beta")], &answer(&[&beta, &gamma]));
    assert!(came.len() == 1 && matches!(outcome, Err(Untold::Malformed)), "{came:?} {outcome:?}");
    assert_eq!(believed(&judge), None, "of gamma nothing was asked");
    let (came, outcome) = take(&judge, &[host("beta"), host("gamma")], &answer(&[&gamma, &beta]));
    assert!(outcome.is_ok());
    assert_eq!(came, [(host("gamma"), Taken::News), (host("beta"), Taken::Late)]);
    let forged = beta_as_gamma(&beta);
    let later = record(&ALL.gamma, stamp(Duration::ZERO), "draining");
    let mut changed = later.clone();
    *changed.last_mut().unwrap() ^= 1;
    for bad in [&forged, &changed] {
        // It claims to be older than what is here, or it is not signed: either way nothing changes.
        let (_, outcome) = take(&judge, &[host("gamma")], &answer(&[bad]));
        assert!(!matches!(outcome, Err(Untold::Malformed)), "{outcome:?}");
        assert_eq!(believed(&judge), Some(State::Ready));
    }
    let (came, outcome) = take(&judge, &[host("gamma")], &answer(&[&later, &later]));
    assert!(came.len() == 1 && matches!(outcome, Err(Untold::Malformed)), "more than were asked for");
    assert!(RECORD_LIFE_MAX >= own::life(usize::MAX));
}
