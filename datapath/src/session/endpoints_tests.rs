use super::*;
use ripstop_config::Graph;
use std::time::Instant;

const GRAPH: &str = "
fabric: shop.example
hosts: { alpha: {}, beta: {}, gamma: {} }
tenants:
  shop:
    workloads:
      web: { on: [alpha], run: { netns: web } }
      api: { on: [alpha, beta], run: { netns: api } }
      db: { on: [gamma], run: { netns: db } }
    services:
      api: { by: api, port: 8080/tcp }
      db: { by: db, port: 5432/tcp }
";

fn policy() -> Policy {
    ripstop_policy::compile(Graph::parse("shop.yaml", GRAPH).unwrap()).unwrap()
}

fn host(name: &str) -> HostName {
    HostName::new(name).unwrap()
}

fn api() -> ServiceId {
    "shop/api".parse().unwrap()
}

fn interface() -> InterfaceId {
    InterfaceId::only("shop/api".parse().unwrap())
}

fn serving() -> Endpoints {
    let endpoints = Endpoints::default();
    endpoints.serve([(&api(), vec![interface()])].into_iter());
    endpoints
}

#[test]
fn a_host_serves_what_the_policy_places_there() {
    let policy = policy();
    let names = |name| served(&policy, &host(name)).map(|entry| entry.id.to_string()).collect::<Vec<_>>();
    assert_eq!((names("alpha"), names("gamma")), (vec!["shop/api".to_owned()], vec!["shop/db".to_owned()]));
}

#[test]
fn sessions_count_while_they_are_kept_even_when_the_service_is_gone() {
    let endpoints = serving();
    let (first, second) = (endpoints.take(&api()).unwrap(), endpoints.take(&api()).unwrap());
    assert_eq!(endpoints.sessions(&api()), 2);
    drop(first);
    assert_eq!(endpoints.sessions(&api()), 1);
    endpoints.serve(std::iter::empty());
    assert_eq!(endpoints.take(&api()).err(), Some(Reason::NotServedHere));
    drop(second);
    assert!(endpoints.own().is_empty());
}

#[test]
fn an_endpoint_is_ready_when_nothing_is_against_it() {
    let endpoints = Endpoints::default();
    assert_eq!(endpoints.ready(&api()), Err(Reason::NotServedHere));
    endpoints.serve([(&api(), Vec::new())].into_iter());
    assert_eq!(endpoints.ready(&api()), Err(Reason::NoInterface));
    endpoints.serve([(&api(), vec![interface()])].into_iter());
    assert_eq!(endpoints.ready(&api()), Ok(()));
    assert!(
        endpoints.set_healthy(&api(), &interface(), false) && !endpoints.set_healthy(&api(), &interface(), false),
        "news once"
    );
    assert_eq!(endpoints.ready(&api()), Err(Reason::EndpointUnhealthy));
    endpoints.drain(Some(&api()), true).unwrap();
    assert_eq!(endpoints.ready(&api()), Err(Reason::Draining));
    endpoints.serve([(&api(), vec![interface()])].into_iter());
    assert_eq!(endpoints.ready(&api()), Err(Reason::Draining), "another policy ends no drain");
    endpoints.drain(Some(&api()), false).unwrap();
    assert!(endpoints.set_healthy(&api(), &interface(), true));
    assert_eq!(endpoints.ready(&api()), Ok(()));
}

#[test]
fn a_drained_host_is_drained_with_what_comes_later() {
    let endpoints = Endpoints::default();
    endpoints.drain(None, true).unwrap();
    endpoints.serve([(&api(), vec![interface()])].into_iter());
    assert_eq!(endpoints.ready(&api()), Err(Reason::Draining));
    assert_eq!(endpoints.drain(Some(&api()), false), Err(DrainError::WholeHost));
    endpoints.drain(Some(&api()), true).unwrap();
    endpoints.drain(None, false).unwrap();
    assert_eq!(endpoints.ready(&api()), Ok(()), "undone for all");
    let db: ServiceId = "shop/db".parse().unwrap();
    assert_eq!(endpoints.drain(Some(&db), true), Err(DrainError::NotServedHere(db)));
}

#[test]
fn a_host_is_believed_only_of_its_own_endpoints() {
    let (endpoints, policy) = (Endpoints::default(), policy());
    let said = |service: &str| Standing {
        service: service.parse().unwrap(),
        state: State::Unhealthy,
        sessions: 7,
        weight: None,
    };
    let kept = endpoints.hear(&policy, &host("beta"), vec![said("shop/api"), said("shop/db"), said("shop/none")]);
    assert_eq!(kept, [said("shop/api")]);
    let ready = |on: &str, service: &str| {
        let heard = endpoints.heard(&host(on), &service.parse().unwrap());
        heard.map_or(Ok(()), |standing| standing.state.ready())
    };
    assert_eq!(ready("beta", "shop/api"), Err(Reason::EndpointUnhealthy));
    assert_eq!(ready("alpha", "shop/api"), Ok(()), "beta says nothing of alpha's");
    assert_eq!(ready("gamma", "shop/db"), Ok(()), "nor of a service that it does not serve");
    endpoints.hear(&policy, &host("beta"), Vec::new());
    assert_eq!(ready("beta", "shop/api"), Ok(()), "the last word counts");
    endpoints.hear(&policy, &host("beta"), vec![said("shop/api")]);
    endpoints.forget(|host| host.as_str() != "beta");
    assert_eq!(ready("beta", "shop/api"), Ok(()), "and is forgotten with the connection");
}

#[test]
fn what_is_said_anew_while_its_host_is_judged_stays() {
    let (endpoints, policy) = (Endpoints::default(), policy());
    let said = || vec![Standing { service: api(), state: State::Unhealthy, sessions: 7, weight: None }];
    endpoints.hear(&policy, &host("beta"), said());
    endpoints.forget(|judged| {
        endpoints.hear(&policy, judged, said());
        false
    });
    assert!(endpoints.has_heard(&host("beta")));
    endpoints.forget(|_| false);
    assert!(!endpoints.has_heard(&host("beta")));
}

#[test]
fn sessions_of_many_threads_are_counted_to_the_last() {
    let endpoints = serving();
    let session = |round: usize| {
        let at = endpoints.order(&api(), None, Instant::now()).remove(0);
        let kept = (endpoints.take(&api()).unwrap(), endpoints.serve_by(&api(), &at).unwrap());
        assert!(endpoints.sessions(&api()) > 0, "its own at least");
        round.is_multiple_of(2).then_some(kept)
    };
    let kept: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| (0..1_000).filter_map(session).collect::<Vec<_>>())).collect();
        for _ in 0..1_000 {
            endpoints.serve([(&api(), vec![interface()])].into_iter());
        }
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let counts = || (endpoints.sessions(&api()), endpoints.standing_by(&api(), &interface()).unwrap().1);
    assert_eq!((kept.len(), counts()), (2_000, (2_000, 2_000)));
    std::thread::spawn(move || drop(kept)).join().unwrap();
    assert_eq!(counts(), (0, 0));
}
