use super::*;
use std::collections::BTreeSet;

fn id(text: &str) -> WorkloadId {
    text.parse().unwrap()
}

#[test]
fn names_of_interfaces_fit_and_tell_replicas_apart() {
    let web = id("shop/frontend");
    let one = link_name(&web, None);
    assert!(one.starts_with("rs-fronte-") && one.len() == 15, "{one}");
    let names: BTreeSet<_> =
        (0..64).map(|index| link_name(&web, Some(&Replica::new(format!("{index:064x}"))))).collect();
    assert_eq!(names.len(), 64, "{names:?}");
    let prefix = link_prefix(&web);
    assert!(names.iter().all(|name| name.len() == 15 && name.starts_with(&prefix) && *name != one), "{names:?}");
    assert_ne!(link_prefix(&id("shop/frost")), prefix);
    assert_eq!(link_name(&id("shop/a"), Some(&Replica::new("x"))).len(), 13, "a short name stays short");
}

#[test]
fn a_name_is_the_same_at_every_start() {
    // Another version of the agent takes over what stands under these names after a kill.
    assert_eq!(link_name(&id("shop/web"), None), "rs-web-8a544");
    assert_eq!(link_name(&id("shop/web"), Some(&Replica::new("4f2a9c81d2aa"))), "rs-web-4a991gin");
}
