//! Paths that lose, delay, reorder, double and change what they carry: the application sees none of it but the time.

use crate::{
    flows::{echoing, exchange, open_many, percentile, session, sized, there_and_back, try_session},
    lab,
};
use std::{thread, time::Duration};

/// The longest that one read, write or opening may take on a very bad path.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_fifth_of_all_packets_lost() {
    let (lab, _server) = echoing();
    let relay = lab.relay();
    relay.lose_per_mille(200);
    let bytes = sized("bytes through 20 % loss", 5_000_000, 10_000_000);
    let watched = there_and_back(session(&lab, PATIENCE), bytes, |_| ());
    println!("measured: 20 % loss: {watched}, both ways at once, every byte equal");
    let tally = relay.tally();
    assert!(tally.lost * 5 > tally.forwarded, "{tally:?}");
}

#[test]
fn sessions_open_through_thirty_percent_loss() {
    let (lab, _server) = echoing();
    lab.relay().lose_per_mille(300);
    let (took, failed) = open_many(&lab, 50, 10, PATIENCE);
    assert_eq!((took.len(), &failed), (50, &vec![]));
    println!("measured: 30 % loss: 50 of 50 sessions open, p50 {:?}, slowest {:?}", percentile(&took, 50), took[49]);
}

#[test]
fn a_thousand_sessions_open_through_five_percent_loss() {
    let (lab, _server) = echoing();
    lab.relay().lose_per_mille(50);
    let (took, failed) = open_many(&lab, 1_000, 50, PATIENCE);
    assert_eq!((took.len(), &failed), (1_000, &vec![]));
    println!(
        "measured: 5 % loss: 1 000 of 1 000 sessions open, p50 {:?}, p99 {:?}",
        percentile(&took, 50),
        percentile(&took, 99)
    );
}

#[test]
fn far_shuffled_doubled_and_corrupted() {
    let (lab, _server) = echoing();
    let relay = lab.relay();
    relay.delay_ms(25).jitter_ms(2).reorder_per_mille(50).duplicate_per_mille(20).corrupt_per_mille(5);
    let mut stream = session(&lab, PATIENCE);
    let mut took: Vec<_> = (0..40).map(|number| exchange(&mut stream, number).unwrap()).collect();
    took.sort();
    let (p50, p90) = (percentile(&took, 50), percentile(&took, 90));
    println!("measured: 50 ms of round trip and disorder: a small exchange takes p50 {p50:?}, p90 {p90:?}");
    assert!((50..75).contains(&p50.as_millis()), "{p50:?}");
    let (took, failed) = open_many(&lab, 200, 20, PATIENCE);
    assert_eq!((took.len(), &failed), (200, &vec![]));
    println!("measured: the same path: 200 of 200 sessions open, p50 {:?}", percentile(&took, 50));
    let bytes = sized("bytes through disorder", 2_000_000, 20_000_000);
    let watched = there_and_back(stream, bytes, |_| ());
    println!("measured: the same path: {watched}, both ways at once, every byte equal");
    let tally = relay.tally();
    assert!(tally.corrupted > 0 && tally.duplicated > 0 && tally.reordered > 0, "{tally:?}");
}

/// What is lost before anything is known of a path is no reason to send a packet more with each round trip from then on.
#[test]
fn hosts_that_dialled_in_vain_send_as_fast_as_any() {
    const TRIP: Duration = Duration::from_millis(50);
    let (lab, _server) = echoing();
    let relay = lab.relay();
    relay.delay_ms(25).lose_per_mille(1000);
    let beta = lab.agent("beta");
    beta.kill();
    beta.start();
    // Alpha notices that beta is gone after two seconds; then each of them dials, and sends its first packet again and again.
    thread::sleep(Duration::from_secs(3));
    relay.lose_per_mille(0);
    let to = lab.service("shop/api", 8080);
    lab::wait_for("the service to be reached again", || try_session(&lab, to, PATIENCE).is_ok());
    let bytes = 10_000_000;
    let watched = there_and_back(session(&lab, PATIENCE), bytes, |_| ());
    println!("measured: 50 ms of round trip, the first packets lost: {watched}, both ways at once");
    // With a packet more for each it took 156.
    assert!(watched.took < TRIP * 60, "{watched}");
}
