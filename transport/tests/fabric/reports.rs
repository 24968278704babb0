//! What hosts say of themselves.

use crate::{
    hostile::Raw,
    lab::{Fabric, Host, eventually, name, within},
};
use bytes::Bytes;
use ripstop_transport::REPORT_MAX;
use std::time::Duration;

async fn next(host: &mut Host) -> (String, Bytes) {
    let (from, report) = within(3, "a report", host.reports.next()).await.unwrap();
    (from.to_string(), report)
}

#[tokio::test]
async fn a_report_reaches_every_host_and_those_that_connect_later() {
    let fabric = Fabric::new("shop.example");
    let (alpha, mut beta) = fabric.pair("alpha", "beta").await;
    alpha.transport.announce(Bytes::from_static(b"one"));
    assert_eq!(next(&mut beta).await, ("alpha".into(), "one".into()));
    // Of many in a row the last one arrives, whatever else does.
    for number in 0..500 {
        alpha.transport.announce(Bytes::from(format!("{number}")));
    }
    while next(&mut beta).await.1 != "499" {}
    let mut gamma = fabric.host("gamma");
    gamma.dial(&[&alpha]);
    assert_eq!(next(&mut gamma).await, ("alpha".into(), "499".into()));
    gamma.transport.announce(Bytes::from(vec![7; REPORT_MAX]));
    let mut alpha = alpha;
    assert_eq!(next(&mut alpha).await, ("gamma".into(), Bytes::from(vec![7; REPORT_MAX])));
    // Too long: nothing is sent, and the one before stands.
    gamma.transport.announce(Bytes::from(vec![8; REPORT_MAX + 1]));
    gamma.dial(&[&beta]);
    assert_eq!(next(&mut beta).await.1, vec![7; REPORT_MAX]);
    assert_eq!(alpha.transport.counts().reports_ignored, 0);
    alpha.transport.close();
    assert_eq!(within(1, "the end", alpha.reports.next()).await, None);
}

#[tokio::test]
async fn a_host_that_reports_without_pause_is_not_listened_to_for_ever() {
    let fabric = Fabric::new("shop.example");
    let mut alpha = fabric.host("alpha");
    let mallory = Raw::new(Some(&fabric.issue("mallory"))).connect(alpha.address).await;
    let mut report = vec![1; REPORT_MAX + 2];
    let mut stream = mallory.open_uni().await.unwrap();
    let _ = stream.write_all(&report).await;
    let _ = stream.finish();
    report.truncate(100);
    for _ in 0..200 {
        let mut stream = within(2, "a stream", mallory.open_uni()).await.unwrap();
        stream.write_all(&report).await.unwrap();
        stream.finish().unwrap();
    }
    eventually("most to be ignored", Duration::from_secs(3), || alpha.transport.counts().reports_ignored >= 100).await;
    let (from, taken) = within(1, "one", alpha.reports.next()).await.unwrap();
    assert_eq!((from, taken.len()), (name("mallory"), 99));
    assert!(mallory.close_reason().is_none());
}
