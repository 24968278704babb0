use super::*;
use crate::bundles::seal;
use ripstop_config::{FabricName, Operators};
use ripstop_policy::Content;
use ripstop_transport::signing::SigningKey;
use std::{fs::Permissions, os::unix::fs::PermissionsExt};

const GRAPH: &str = "fabric: shop.example\nhosts: { alpha: {} }\ntenants: {}\n";

struct Bed {
    trust: Trust,
    key: SigningKey,
    state: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        let (key, _) = SigningKey::generate().unwrap();
        let keys = [("op".parse().unwrap(), key.public())].into();
        let trust = Trust { fabric: FabricName::new("shop.example").unwrap(), operators: Operators::of(1, keys) };
        Self { trust, key, state: tempfile::tempdir().unwrap() }
    }

    fn bundle(&self, version: &str) -> Bundle {
        let content = Content { file: "g".into(), graph: GRAPH.into(), ..Content::default() };
        let version = version.parse().unwrap();
        let sealed = seal(&self.trust.fabric, version, None, content, std::slice::from_ref(&self.key)).unwrap();
        self.trust.open(&sealed.encode()).unwrap()
    }

    fn open(&self) -> Opened {
        self.open_as(&self.trust).unwrap()
    }

    /// What another test runs has the lock of a store that was dropped, too, from its fork to its exec.
    fn open_as(&self, trust: &Trust) -> Result<Opened, StoreError> {
        for _ in 0..100 {
            match Store::open(self.state.path(), trust) {
                Err(StoreError::InUse(_)) => std::thread::sleep(std::time::Duration::from_millis(10)),
                opened => return opened,
            }
        }
        Store::open(self.state.path(), trust)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.state.path().join(DIRECTORY).join(name)
    }

    fn versions(&self) -> Vec<String> {
        self.open().store.kept().unwrap().iter().map(|id| id.version.to_string()).collect()
    }
}

#[test]
fn what_is_kept_is_there_at_the_next_start() {
    let bed = Bed::new();
    let opened = bed.open();
    assert!(opened.bundle.is_none() && opened.damage.is_none() && opened.store.floor().is_none());
    let mut store = opened.store;
    for version in ["1.1", "1.2", "2.1"] {
        store.keep(&bed.bundle(version)).unwrap();
    }
    drop(store);
    let opened = bed.open();
    assert_eq!(opened.bundle.unwrap().version().to_string(), "2.1");
    assert_eq!(opened.store.version("1.2".parse().unwrap(), &bed.trust).unwrap().version().to_string(), "1.2");
    assert!(opened.store.version("1.9".parse().unwrap(), &bed.trust).unwrap_err().contains("ripstop history"));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&bed.file("")), mode(&bed.file(FLOOR))), (0o700, 0o600));
}

/// Every way in which a state can be damaged short of losing all that says how new it was.
const DAMAGES: [fn(&Bed, &str); 7] = [
    |_, _| {},
    |bed, _| fs::remove_file(bed.file(FLOOR)).unwrap(),
    |bed, _| fs::write(bed.file(FLOOR), "1.1-0000000000000000 1.1-0000000000000001\n").unwrap(),
    |bed, _| fs::write(bed.file(FLOOR), [0xff, 0xfe, 0]).unwrap(),
    |bed, newest| fs::write(bed.file(newest), "half a bun").unwrap(),
    |bed, newest| fs::remove_file(bed.file(newest)).unwrap(),
    |bed, newest| {
        fs::write(bed.file(newest), "").unwrap();
        fs::write(bed.file(FLOOR), "").unwrap();
    },
];

#[test]
fn of_a_thousand_replays_across_restarts_and_damage_none_is_taken() {
    let bed = Bed::new();
    let old: Vec<_> = (1..=20).map(|counter| bed.bundle(&format!("2.{counter}"))).collect();
    let older_epoch = bed.bundle("1.99");
    let newest = bed.bundle("2.21");
    let (mut replays, mut restarts) = (0, 0);
    for round in 0..7 {
        for damage in DAMAGES {
            let mut store = bed.open().store;
            if store.takes(newest.id()) {
                store.keep(&newest).unwrap();
            }
            drop(store);
            damage(&bed, &file_name(newest.id()));
            let mut store = bed.open().store;
            restarts += 1;
            assert_eq!(store.floor(), Some(newest.id()), "round {round}");
            for bundle in old.iter().chain([&older_epoch]) {
                assert!(matches!(store.keep(bundle), Err(StoreError::NotNewer { .. })), "{}", bundle.id());
                replays += 1;
            }
            assert!(store.kept().unwrap().iter().all(|id| *id == newest.id()), "nothing of it was written");
        }
    }
    assert!(replays >= 1_000 && restarts >= 49, "{replays} replays, {restarts} restarts");
}

#[test]
fn the_newest_is_taken_again_where_it_was_lost_and_only_there() {
    let bed = Bed::new();
    let newest = bed.bundle("1.2");
    let mut store = bed.open().store;
    store.keep(&newest).unwrap();
    assert!(matches!(store.keep(&newest), Err(StoreError::NotNewer { .. })));
    drop(store);
    fs::write(bed.file(&file_name(newest.id())), "half").unwrap();
    let Opened { mut store, bundle, damage } = bed.open();
    assert!(bundle.is_none() && damage.unwrap().contains("everything is denied"));
    store.keep(&newest).unwrap();
    drop(store);
    assert_eq!(bed.open().bundle.unwrap().id(), newest.id());
}

#[test]
fn a_state_that_cannot_tell_how_new_it_was_is_not_used() {
    let bed = Bed::new();
    drop(bed.open());
    fs::write(bed.file(FLOOR), "garbage").unwrap();
    let error = bed.open_as(&bed.trust).unwrap_err();
    assert!(matches!(error, StoreError::Floor(_)) && error.to_string().contains("put the file back"), "{error}");
}

#[test]
fn a_bundle_in_the_place_of_a_newer_one_is_not_it() {
    let bed = Bed::new();
    let (old, new) = (bed.bundle("1.1"), bed.bundle("1.2"));
    let mut store = bed.open().store;
    store.keep(&old).unwrap();
    store.keep(&new).unwrap();
    drop(store);
    fs::copy(bed.file(&file_name(old.id())), bed.file(&file_name(new.id()))).unwrap();
    let opened = bed.open();
    assert!(opened.bundle.is_none() && opened.damage.unwrap().contains("another policy"));
}

#[test]
fn a_write_that_was_cut_short_leaves_what_was() {
    let bed = Bed::new();
    let mut store = bed.open().store;
    store.keep(&bed.bundle("1.1")).unwrap();
    drop(store);
    let next = bed.bundle("1.2");
    fs::write(bed.file(&format!("{}{NEXT}", file_name(next.id()))), "hal").unwrap();
    fs::write(bed.file(&format!("{FLOOR}{NEXT}")), "1.").unwrap();
    let opened = bed.open();
    assert_eq!(opened.bundle.unwrap().version().to_string(), "1.1");
    // Between the two files of one bundle.
    fs::write(bed.file(&file_name(next.id())), next.bytes()).unwrap();
    drop(opened.store);
    assert_eq!(bed.open().bundle.unwrap().version().to_string(), "1.2");
}

#[test]
fn old_ones_go_and_what_can_be_rolled_back_to_stays() {
    let bed = Bed::new();
    let mut store = bed.open().store;
    for counter in 1..=KEPT_MAX + 5 {
        store.keep(&bed.bundle(&format!("1.{counter}"))).unwrap();
    }
    drop(store);
    let versions = bed.versions();
    assert_eq!((versions.len(), versions[0].as_str()), (KEPT_MAX, "1.6"));
}

#[test]
fn a_state_is_one_agents_and_its_owners() {
    let bed = Bed::new();
    let held = bed.open();
    assert!(matches!(Store::open(bed.state.path(), &bed.trust), Err(StoreError::InUse(_))));
    drop(held);
    fs::set_permissions(bed.file(""), Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(bed.open_as(&bed.trust), Err(StoreError::Directory(_))));
}

#[test]
fn what_operators_who_are_trusted_no_more_signed_is_not_put_in_force_again() {
    let bed = Bed::new();
    let mut store = bed.open().store;
    store.keep(&bed.bundle("1.1")).unwrap();
    drop(store);
    let other = Bed::new();
    let opened = bed.open_as(&other.trust).unwrap();
    assert!(opened.bundle.is_none() && opened.damage.unwrap().contains("0 of the 1 signatures"));
    assert_eq!(opened.store.floor().unwrap().version.to_string(), "1.1", "but it counts");
}
