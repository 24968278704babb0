use super::*;
use crate::pki;
use proptest::prelude::*;
use std::{path::Path, sync::LazyLock};

fn identities(directory: &Path) -> [Identity; 3] {
    let fabric: FabricName = "lab.test".parse().unwrap();
    let authority = pki::Authority::create(&fabric).unwrap();
    let other = pki::Authority::create(&fabric).unwrap();
    let load = |authority: &pki::Authority, name: &str, place: &str| {
        let at = |file: &str| directory.join(format!("{place}-{file}"));
        let issued = authority.issue_host(&HostName::new(name).unwrap(), pki::HOST_VALIDITY_MIN).unwrap();
        std::fs::write(at("ca"), authority.certificate_pem()).unwrap();
        std::fs::write(at("pem"), &issued.certificate_pem).unwrap();
        std::fs::write(at("key"), issued.key_pem.as_bytes()).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(at("key"), mode).unwrap();
        Identity::load(&at("pem"), &at("key"), &at("ca")).unwrap()
    };
    [load(&authority, "alpha", "a"), load(&authority, "beta", "b"), load(&other, "alpha", "c")]
}

static ALL: LazyLock<[Identity; 3]> = LazyLock::new(|| identities(tempfile::tempdir().unwrap().path()));

const STAMP: Stamp = Stamp { issued: 1_800_000_000_000, life: 10 };

fn open(by: &Identity, record: &[u8], revoked: &Revoked) -> Result<(HostName, Vec<u8>), RecordError> {
    let record = Record::read(record)?;
    let report = by.verify_record(&record, revoked)?.to_vec();
    Ok((record.host, report))
}

#[test]
fn a_record_is_believed_of_the_host_that_signed_it_alone() {
    let [alpha, beta, stranger] = &*ALL;
    let nobody = Revoked::default();
    let record = alpha.sign_record(STAMP, b"hello").unwrap();
    let (host, report) = open(beta, &record, &nobody).unwrap();
    assert_eq!((host.as_str(), &report[..]), ("alpha", &b"hello"[..]));
    let foreign = stranger.sign_record(STAMP, b"hello").unwrap();
    assert!(matches!(open(beta, &foreign, &nobody), Err(RecordError::Certificate(_))));
    let shut_out = Revoked { hosts: [alpha.host().clone()].into(), ..Revoked::default() };
    assert!(matches!(open(beta, &record, &shut_out), Err(RecordError::Revoked)));
    let old = Revoked { certificates: [alpha.certificate().clone()].into(), ..Revoked::default() };
    assert!(matches!(open(beta, &record, &old), Err(RecordError::Revoked)));
    assert!(alpha.sign_record(STAMP, &vec![0; RECORD_REPORT_MAX + 1]).is_err());
    assert!(open(beta, &vec![FORM; RECORD_MAX + 1], &nobody).is_err());
}

/// A member of the fabric that makes a record of another one: with its own certificate, and with that one's.
#[test]
fn no_member_signs_for_another() {
    let [alpha, beta, _] = &*ALL;
    let record = beta.sign_record(STAMP, b"hello").unwrap();
    let mut forged = Record::read(&record).unwrap();
    forged.host = alpha.host().clone();
    assert!(
        matches!(alpha.verify_record(&forged, &Revoked::default()), Err(RecordError::Another(host)) if host == *beta.host())
    );
    let true_one = alpha.sign_record(STAMP, b"hello").unwrap();
    forged.chain = Record::read(&true_one).unwrap().chain;
    assert!(matches!(beta.verify_record(&forged, &Revoked::default()), Err(RecordError::Signature)));
}

#[test]
fn no_byte_of_it_can_be_another() {
    let [alpha, beta, _] = &*ALL;
    let record = alpha.sign_record(STAMP, b"hello").unwrap();
    for at in 0..record.len() {
        let mut changed = record.clone();
        changed[at] ^= 1;
        assert!(open(beta, &changed, &Revoked::default()).is_err(), "byte {at}");
        assert!(open(beta, &record[..at], &Revoked::default()).is_err(), "cut at {at}");
    }
}

#[test]
fn it_is_of_its_time_as_far_as_clocks_agree() {
    let at = |ms: u64| UNIX_EPOCH + Duration::from_millis(STAMP.issued) + Duration::from_millis(ms);
    let before = |ms: u64| UNIX_EPOCH + Duration::from_millis(STAMP.issued - ms);
    assert_eq!((STAMP.check(at(0)), STAMP.check(at(40_000)), STAMP.check(before(30_000))), (Ok(()), Ok(()), Ok(())));
    assert_eq!(STAMP.check(at(40_001)), Err(StampError::Expired(Duration::from_millis(1))));
    assert_eq!(STAMP.check(before(30_001)), Err(StampError::Future(Duration::from_millis(30_001))));
    for life in [0, 121, u16::MAX] {
        assert_eq!(Stamp { life, ..STAMP }.check(at(0)), Err(StampError::Life(life)));
    }
    let first = Stamp::now(Duration::from_secs(900), None, at(0));
    assert_eq!(first, Stamp { issued: STAMP.issued, life: 120 }, "no longer than any");
    let next = Stamp::now(Duration::from_secs(10), Some(first), before(5_000));
    assert_eq!(next.issued, STAMP.issued + 1, "greater, though the clock was set back");
}

#[test]
fn its_size_is_mostly_the_certificate() {
    let record = ALL[0].sign_record(STAMP, b"").unwrap();
    println!("measured: {} bytes without a report", record.len());
    assert!(record.len() < 800);
}

proptest! {
    #[test]
    fn bytes_do_not_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let bytes = [&[FORM, 1, b'a', 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 1][..], &bytes].concat();
        prop_assert!(open(&ALL[0], &bytes, &Revoked::default()).is_err());
        if let Ok(record) = Record::read(&bytes) {
            prop_assert_eq!(record.encode().unwrap(), bytes);
        }
    }
}
