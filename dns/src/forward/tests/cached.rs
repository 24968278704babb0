//! What is kept, for how long, and what is given when upstream fails. The clock is stopped only while nothing waits for
//! a socket: a stopped clock jumps to the next timer as soon as all tasks are idle.

use super::*;
use std::time::Duration;

/// Lets time pass without waiting.
async fn pass(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

fn ttls(message: &Message) -> Vec<u32> {
    message.answers.iter().map(|record| record.ttl).collect()
}

#[tokio::test]
async fn a_hundred_at_once_are_one_query_upstream() {
    let server = Server::start().await;
    let forwarder = forwarder(&[server.address]);
    for (name, total) in [("slow.example.com.", 1), ("zero.example.com.", 2), ("nosoa.example.com.", 3)] {
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let forwarder = forwarder.clone();
            waiting.spawn(async move { resolve(&forwarder, "shop/web", name).await.1.rcode });
        }
        let rcodes = waiting.join_all().await;
        assert!(rcodes.len() == 100 && rcodes.windows(2).all(|two| two[0] == two[1]));
        assert_eq!(server.asked(), (total, 0), "{name}");
    }
    resolve(&forwarder, "shop/web", "zero.example.com.").await;
    assert_eq!(server.asked().0, 4, "a TTL of zero is not kept beyond those who waited");
}

#[tokio::test]
async fn failures_are_shared_and_kept_for_a_moment() {
    let server = Server::start().await;
    let forwarder = forwarder(&[server.address]);
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let forwarder = forwarder.clone();
        waiting.spawn(async move { resolve(&forwarder, "shop/web", "refused.example.com.").await.1.rcode });
    }
    assert!(waiting.join_all().await.iter().all(|rcode| *rcode == Rcode::ServFail));
    assert_eq!(server.asked(), (2, 0), "one try in each round");
    pass(3).await;
    resolve(&forwarder, "shop/web", "refused.example.com.").await;
    assert_eq!(server.asked(), (4, 0));
}

#[tokio::test]
async fn answers_are_kept_for_their_shortest_ttl_which_counts_down() {
    let server = Server::start().await;
    let forwarder = forwarder(&[server.address]);
    assert_eq!(ttls(&resolve(&forwarder, "shop/web", "mixed.example.com.").await.0), [60, 7]);
    pass(5).await;
    let (message, _) = resolve(&forwarder, "shop/api", "MIXED.example.com.").await;
    assert_eq!((ttls(&message), server.asked()), (vec![55, 2], (1, 0)));
    assert_eq!(message.answers[0].name.to_string(), "MIXED.example.com.");
    pass(3).await;
    assert_eq!(ttls(&resolve(&forwarder, "shop/web", "mixed.example.com.").await.0), [60, 7]);
    assert_eq!(server.asked(), (2, 0));
}

#[tokio::test]
async fn other_types_and_dnssec_are_other_questions() {
    let server = Server::start().await;
    let forwarder = forwarder(&[server.address]);
    let plain = query("www.example.com.", RecordType::A);
    let mut dnssec = plain.clone();
    dnssec.edns.as_mut().unwrap().set_dnssec_ok(true);
    let mut unchecked = plain.clone();
    unchecked.metadata.checking_disabled = true;
    let other = query("www.example.com.", RecordType::AAAA);
    for _ in 0..2 {
        for question in [&plain, &dnssec, &unchecked, &other] {
            resolve_via(&forwarder, "shop/web", question, Via::Udp).await;
        }
    }
    assert_eq!(server.asked(), (4, 0));
}

#[tokio::test]
async fn negative_answers_are_kept_as_their_soa_says() {
    let server = Server::start().await;
    let forwarder = forwarder(&[server.address]);
    for (name, lasts, rcode) in [("absent", 3, Rcode::NxDomain), ("nodata", 2, Rcode::NoError)] {
        let before = server.asked().0;
        let name = format!("{name}.example.com.");
        let (message, reply) = resolve(&forwarder, "shop/web", &name).await;
        assert_eq!((reply.rcode, message.answers.len(), message.authorities.len()), (rcode, 0, 1));
        pass(lasts - 1).await;
        resolve(&forwarder, "shop/web", &name).await;
        assert_eq!(server.asked().0, before + 1, "{name} is kept");
        pass(1).await;
        resolve(&forwarder, "shop/web", &name).await;
        assert_eq!(server.asked().0, before + 2, "{name} is asked again");
    }
}

#[tokio::test]
async fn an_older_answer_is_given_while_upstream_fails() {
    let server = Server::start().await;
    let forwarder = forwarder(&[server.address]);
    resolve(&forwarder, "shop/web", "brief.example.com.").await;
    server.set_broken(true);
    pass(5).await;
    let (message, reply) = resolve(&forwarder, "shop/web", "brief.example.com.").await;
    assert_eq!((addresses(&message).len(), ttls(&message), reply.rcode), (1, vec![30], Rcode::NoError));
    assert_eq!(ede(&message).unwrap().0, 3);
    let asked = server.asked();
    resolve(&forwarder, "shop/web", "brief.example.com.").await;
    assert_eq!(server.asked(), asked, "upstream is left alone for a while");
    server.set_broken(false);
    pass(31).await;
    let (message, _) = resolve(&forwarder, "shop/web", "brief.example.com.").await;
    assert_eq!((ttls(&message), ede(&message)), (vec![2], None));
    server.set_broken(true);
    pass(86_500).await;
    let (_, reply) = resolve(&forwarder, "shop/web", "brief.example.com.").await;
    assert_eq!(reply.rcode, Rcode::ServFail, "a day is the limit");
}
