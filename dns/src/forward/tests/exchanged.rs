//! What passes between the forwarder and upstream.

use super::*;
use crate::forward::gate::WORKLOAD_MAX;
use ripstop_config::Reason;
use std::time::{Duration, Instant};

#[tokio::test]
async fn an_answer_comes_back_in_the_clients_case() {
    let server = Server::start().await;
    let (message, reply) = resolve(&forwarder(&[server.address]), "shop/web", "wWw.Example.COM.").await;
    assert_eq!(addresses(&message), [IpAddr::from([192, 0, 2, 1])]);
    assert_eq!(message.answers[0].name.to_string(), "wWw.Example.COM.");
    assert_eq!((reply.rcode, reply.denied), (Rcode::NoError, None));
    assert_eq!(server.asked(), (1, 0));
}

#[tokio::test]
async fn a_truncated_answer_is_fetched_over_tcp_and_cut_again_for_udp() {
    let server = Server::start().await;
    let forwarder = forwarder(&[server.address]);
    let query = query("large.example.com.", RecordType::A);
    let (whole, _) = resolve_via(&forwarder, "shop/web", &query, Via::Tcp).await;
    assert_eq!((whole.answers.len(), whole.metadata.truncation), (100, false));
    let (cut, reply) = resolve_via(&forwarder, "shop/web", &query, Via::Udp).await;
    assert!(cut.metadata.truncation && cut.answers.is_empty() && reply.bytes.len() <= 512);
    assert_eq!(server.asked(), (1, 1));
}

#[tokio::test]
async fn what_does_not_match_is_passed_over() {
    let server = Server::start().await;
    let (message, _) = resolve(&forwarder(&[server.address]), "shop/web", "forged.example.com.").await;
    assert_eq!(addresses(&message), [IpAddr::from([192, 0, 2, 1])]);
    assert_eq!(server.asked(), (1, 0));
}

#[tokio::test]
async fn guesses_and_lost_case_lead_to_tcp() {
    let server = Server::start().await;
    for (count, name) in [(1, "guessed.example.com."), (2, "lowercase.aaaaaaaaaaaaaaaaaaaaaaaaaa.example.com.")] {
        let (message, _) = resolve(&forwarder(&[server.address]), "shop/web", name).await;
        assert_eq!(addresses(&message), [IpAddr::from([192, 0, 2, 0])], "what the resolver says over TCP");
        assert_eq!(server.asked(), (count, count));
    }
}

#[tokio::test]
async fn a_dead_or_refusing_resolver_is_followed_by_the_next_and_passed_over_later() {
    let (good, dead) = (Server::start().await, Server::start().await);
    let gone = dead.address;
    drop(dead);
    let broken = Server::start().await;
    broken.set_broken(true);
    let forwarder = forwarder(&[gone, broken.address, good.address]);
    let began = Instant::now();
    for name in ["a.example.com.", "b.example.com."] {
        let (message, _) = resolve(&forwarder, "shop/web", name).await;
        assert_eq!(addresses(&message), [IpAddr::from([192, 0, 2, 1])]);
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!((good.asked(), broken.asked()), ((2, 0), (1, 0)), "the second query goes where the first was answered");
}

#[tokio::test]
async fn a_silent_resolver_costs_one_wait() {
    let (silent, good) = (Server::start().await, Server::start().await);
    silent.set_silent();
    let forwarder = forwarder(&[silent.address, good.address]);
    let began = Instant::now();
    let (message, _) = resolve(&forwarder, "shop/web", "www.example.com.").await;
    assert_eq!(addresses(&message), [IpAddr::from([192, 0, 2, 1])]);
    let took = began.elapsed();
    assert!(took > Duration::from_millis(1900) && took < Duration::from_millis(3900), "{took:?}");
}

#[tokio::test]
async fn when_all_fail_the_answer_says_how_and_is_never_refused() {
    let server = Server::start().await;
    let forwarder = forwarder(&[server.address]);
    let (message, reply) = resolve(&forwarder, "shop/web", "refused.example.com.").await;
    assert_eq!(reply.rcode, Rcode::ServFail);
    let (code, text) = ede(&message).unwrap();
    assert!(code == 22 && text.contains("Refused"), "{code} {text}");
    let began = Instant::now();
    let (message, _) = resolve(&forwarder, "shop/web", "silent.example.com.").await;
    assert_eq!(ede(&message).unwrap(), (22, "upstream resolvers did not answer in time".into()));
    assert!(began.elapsed() < Duration::from_secs(5), "stub resolvers wait 5 s");
    let address = server.address;
    drop(server);
    let (message, _) = resolve(&self::forwarder(&[address]), "shop/web", "x.example.com.").await;
    assert_eq!(ede(&message).unwrap().0, 23);
}

#[tokio::test]
async fn answers_that_point_into_the_fabric_are_removed() {
    let server = Server::start().await;
    let forwarder = forwarder(&[server.address]);
    for (name, kind) in [("rebind", RecordType::A), ("rebind6", RecordType::AAAA), ("mapped", RecordType::AAAA)] {
        let query = query(&format!("{name}.example.com."), kind);
        let (message, reply) = resolve_via(&forwarder, "shop/web", &query, Via::Udp).await;
        assert_eq!((addresses(&message).len(), reply.rcode), (0, Rcode::NoError), "{name}");
        assert_eq!(ede(&message).unwrap().0, 15, "{name}");
    }
}

#[tokio::test]
async fn a_flood_of_one_workload_slows_no_other() {
    let server = Server::start().await;
    let forwarder = forwarder(&[server.address]);
    let mut flood = tokio::task::JoinSet::new();
    for n in 0..WORKLOAD_MAX + 50 {
        let forwarder = forwarder.clone();
        let query = query(&format!("silent.n{n}.example.com."), RecordType::A).to_vec().unwrap();
        flood.spawn(async move { forwarder.resolve(&id("shop/web"), &query, Via::Udp).await });
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let began = Instant::now();
    let (message, _) = resolve(&forwarder, "shop/api", "www.example.com.").await;
    assert_eq!(addresses(&message).len(), 1);
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    let answers = flood.join_all().await;
    let dropped = answers.iter().filter(|answer| **answer == Answer::Drop(Reason::QueryFlood)).count();
    assert_eq!(dropped, 50);
    resolve(&forwarder, "shop/web", "after.example.com.").await;
}

#[tokio::test]
async fn mistakes_are_answered_without_asking_upstream() {
    let server = Server::start().await;
    let forwarder = forwarder(&[server.address]);
    let answered = forwarder.resolve(&id("shop/web"), &[0; 5], Via::Udp).await;
    assert_eq!(answered, Answer::Drop(Reason::MalformedQuery));
    let mut twice = query("www.example.com.", RecordType::A);
    twice.queries.push(twice.queries[0].clone());
    let answered = forwarder.resolve(&id("shop/web"), &twice.to_vec().unwrap(), Via::Udp).await;
    assert!(matches!(answered, Answer::Reply(reply) if reply.rcode == Rcode::FormErr));
    assert_eq!(server.asked(), (0, 0));
}
