use super::*;
use crate::record::record;
use ripstop_config::Replica;

fn kept(count: u64) -> Recent {
    let recent = Recent::default();
    (0..count).for_each(|number| recent.keep(Arc::new(record(number))));
    recent
}

fn numbers(page: &Page) -> Vec<u64> {
    page.records.iter().map(|record| record.bytes_up).collect()
}

#[test]
fn the_newest_are_kept_and_what_was_missed_is_said() {
    let recent = kept(RECENT_MAX as u64 + 10);
    let all = recent.since(None, |_| true);
    assert_eq!((all.records.len(), all.missed, all.next), (RECENT_MAX, 0, RECENT_MAX as u64 + 10));
    assert_eq!(numbers(&all)[0], 10, "the oldest went");
    let page = recent.since(Some(4), |_| true);
    assert_eq!((page.missed, page.records.len()), (6, RECENT_MAX));
    let tail = recent.since(Some(all.next - 2), |_| true);
    assert_eq!((numbers(&tail), tail.missed), (vec![RECENT_MAX as u64 + 8, RECENT_MAX as u64 + 9], 0));
    assert!(recent.since(Some(all.next), |_| true).records.is_empty());
}

#[test]
fn a_number_of_a_former_agent_starts_anew() {
    let page = kept(3).since(Some(1_000), |_| true);
    assert_eq!((numbers(&page), page.missed), (vec![0, 1, 2], 0));
}

#[tokio::test]
async fn who_waits_is_woken_by_the_next_record() {
    let recent = Arc::new(kept(3));
    recent.wait_for(2).await;
    let waiting = tokio::spawn({
        let recent = Arc::clone(&recent);
        async move { recent.wait_for(3).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    recent.keep(Arc::new(record(3)));
    waiting.await.unwrap();
}

#[test]
fn each_part_of_a_filter_counts() {
    let replica = |id: &str| Some(Replica::new(id));
    let one =
        SessionRecord { caller_replica: replica("4f2a9c81d2aa"), endpoint_replica: replica("b01dface"), ..record(1) };
    let text = |text: &str| Some(text.to_owned());
    let fits = [
        Filter::default(),
        Filter { from: text("web"), to: text("shop/api"), tenant: text("shop"), ..Filter::default() },
        Filter { to: text("198.18.0.2"), verdict: text("allow"), reason: Some(Reason::Closed), ..Filter::default() },
        Filter { since: Some(OffsetDateTime::UNIX_EPOCH), ..Filter::default() },
        Filter { replica: text("4f2a"), ..Filter::default() },
        Filter { replica: text("b01dface"), ..Filter::default() },
    ];
    assert!(fits.iter().all(|filter| filter.fits(&one)));
    let misses = [
        Filter { from: text("api"), ..Filter::default() },
        Filter { to: text("web"), ..Filter::default() },
        Filter { tenant: text("ops"), ..Filter::default() },
        Filter { replica: text("f2a9"), ..Filter::default() },
        Filter { verdict: text("deny"), ..Filter::default() },
        Filter { reason: Some(Reason::Idle), ..Filter::default() },
        Filter { since: Some(OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(1)), ..Filter::default() },
    ];
    for filter in misses {
        assert!(!filter.fits(&one), "{filter:?}");
    }
    assert!(!Filter { replica: text(""), ..Filter::default() }.fits(&record(1)), "of no replica at all");
}

#[test]
fn denials_and_limits_are_counted_also_of_what_is_not_kept() {
    let recent = Recent::default();
    for _ in 0..RECENT_MAX + 1 {
        recent.keep(Arc::new(SessionRecord { verdict: "deny", reason: Reason::OpenRate, ..record(1) }));
    }
    recent.keep(Arc::new(SessionRecord { throttled_bytes: 7, ..record(1) }));
    recent.keep(Arc::new(SessionRecord { datagrams_dropped: Some(1), ..record(1) }));
    let tally = recent.tally();
    assert_eq!(tally.denied, [("open_rate".to_owned(), RECENT_MAX as u64 + 1)].into());
    assert_eq!(tally.held_back, 2);
}
