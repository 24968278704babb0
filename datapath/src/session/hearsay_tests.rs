use super::*;

fn host(name: &str) -> HostName {
    HostName::new(name).unwrap()
}

fn said(issued: u64, state: State) -> Said {
    let standing = Standing { service: "shop/api".parse().unwrap(), state, sessions: 3, weight: None };
    Said {
        record: Bytes::from(format!("record {issued}")),
        stamp: Stamp { issued, life: 10 },
        policy: BundleId::default(),
        endpoints: vec![standing],
        addresses: Vec::new(),
    }
}

fn table(own: &str) -> Hearsay {
    Hearsay::new(host(own), 7)
}

const GOOD: Duration = Duration::from_secs(10);

#[test]
fn the_latest_counts_and_an_older_one_never_again() {
    let (hearsay, beta, api, now) = (table("alpha"), host("beta"), "shop/api".parse().unwrap(), Instant::now());
    let state = |now| hearsay.of(&beta, &api, now).map(|heard| heard.standing.state);
    let take = |issued, state, now| hearsay.take(&beta, said(issued, state), GOOD, now);
    assert_eq!((take(5, State::Draining, now), state(now)), (Taken::News, Some(State::Draining)));
    assert_eq!(take(5, State::Ready, now), Taken::Late, "as late");
    assert_eq!(take(4, State::Ready, now), Taken::Late, "older");
    assert_eq!((take(6, State::Draining, now), hearsay.news()), (Taken::Renewed, 1));
    assert_eq!((take(7, State::Ready, now), hearsay.news()), (Taken::News, 2));
    assert_eq!(state(now + GOOD), None, "at once, whoever looks first");
    assert_eq!(hearsay.expire(now + GOOD), 0);
    assert_eq!(take(7, State::Ready, now + GOOD), Taken::Late, "it is not brought back to life");
    assert!(!hearsay.wants(&beta, 7) && hearsay.wants(&beta, 8));
    assert_eq!(take(8, State::Unhealthy, now + GOOD), Taken::News);
    assert_eq!(hearsay.of(&beta, &api, now + GOOD + Duration::from_secs(3)).unwrap().age, Duration::from_secs(3));
    assert_eq!(hearsay.of(&beta, &"shop/db".parse().unwrap(), now + GOOD), None);
    hearsay.forget(&beta);
    assert_eq!((state(now + GOOD), hearsay.wants(&beta, 8)), (None, false));
    hearsay.keep(|_| false);
    assert!(hearsay.wants(&beta, 1), "of a host that was not known meanwhile nothing is");
}

#[test]
fn nobody_tells_a_host_of_itself() {
    let hearsay = table("alpha");
    assert!(!hearsay.wants(&host("alpha"), u64::MAX));
    let (claimed, others) = hearsay.claim(&[(host("alpha"), 9), (host("beta"), 9)], |_| true);
    assert_eq!((claimed, others), (vec![host("beta")], false));
}

#[test]
fn a_list_goes_on_where_it_was_left_and_begins_anew_with_another_table() {
    let (hearsay, now) = (table("alpha"), Instant::now());
    for name in ["beta", "gamma", "delta"] {
        hearsay.take(&host(name), said(5, State::Ready), GOOD, now);
    }
    let names = |heads: &Heads| heads.list.iter().map(|(host, _)| host.to_string()).collect::<Vec<_>>();
    let all = hearsay.heads(Cursor::default());
    assert_eq!(names(&all), ["beta", "gamma", "delta"]);
    assert!(hearsay.heads(all.cursor).list.is_empty());
    hearsay.take(&host("beta"), said(6, State::Ready), GOOD, now);
    assert_eq!(hearsay.heads(all.cursor).list, [(host("beta"), 6)]);
    assert_eq!(names(&hearsay.heads(Cursor { table: 8, ..all.cursor })), ["gamma", "delta", "beta"]);
    hearsay.expire(now + GOOD);
    assert!(hearsay.heads(Cursor::default()).list.is_empty(), "what is not good is not handed on");
    assert_eq!(hearsay.record(&host("beta"), now + GOOD), None);
}

#[test]
fn a_record_is_asked_for_once_at_a_time() {
    let hearsay = table("alpha");
    let list = [(host("beta"), 5), (host("gamma"), 5)];
    assert_eq!(hearsay.claim(&list, |host| host.as_str() == "beta"), (vec![host("beta")], false), "of members");
    assert_eq!(hearsay.claim(&list, |_| true), (vec![host("gamma")], true));
    hearsay.release(&[host("beta")]);
    assert_eq!(hearsay.claim(&list, |_| true), (vec![host("beta")], true));
}

#[test]
fn memory_is_bounded_whatever_is_said() {
    let (hearsay, now) = (table("alpha"), Instant::now());
    for number in 0..10_000_u16 {
        let name = host(&format!("h{number}"));
        hearsay.take(&name, said(5, State::Ready), GOOD, now);
        hearsay.hear(&name, 1);
        hearsay.seen(&name, SocketAddr::from(([192, 0, 2, 1], number)));
    }
    let table = hearsay.table();
    assert_eq!([table.hosts.len(), table.order.len(), table.hinted.len(), table.seen.len()], [HOSTS_MAX; 4]);
    drop(table);
    assert_eq!(hearsay.heads(Cursor::default()).list.len(), HEADS_MAX);
    assert!(hearsay.heads(Cursor::default()).more);
    assert_eq!(hearsay.own_addresses().len(), ADDRESSES_MAX);
    for issued in 0..10_000 {
        hearsay.take(&host("h1"), said(issued, State::Ready), GOOD, now);
    }
    assert_eq!(hearsay.table().order.len(), HOSTS_MAX, "one of each host");
}

#[test]
fn a_host_is_where_most_see_it() {
    let hearsay = table("alpha");
    let at = |last| SocketAddr::from(([192, 0, 2, last], 7477));
    for (by, last) in [("b", 9), ("c", 1), ("d", 1), ("e", 2), ("f", 3), ("g", 4), ("h", 4)] {
        hearsay.seen(&host(by), at(last));
    }
    assert_eq!(hearsay.own_addresses(), [at(1), at(2), at(3), at(4)]);
    hearsay.keep_connected(|by| by.as_str() == "b");
    assert_eq!(hearsay.own_addresses(), [at(9)]);
}

#[tokio::test]
async fn another_number_of_news_wakes() {
    let hearsay = table("alpha");
    let woken = async || tokio::time::timeout(Duration::from_millis(1), hearsay.hints()).await.is_ok();
    hearsay.hear(&host("beta"), 4);
    assert!(woken().await && hearsay.hinted(&host("beta")) == 4);
    hearsay.hear(&host("beta"), 4);
    assert!(!woken().await);
}
