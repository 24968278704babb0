use super::*;
use ripstop_config::Graph;
use std::fs::File;

const GRAPH: &str = "
fabric: f.test
hosts: { alpha: {}, beta: {} }
tenants:
  shop:
    workloads:
      web: { on: [alpha], run: { pod: shop/web } }
      api: { on: [beta], run: { pod: shop/api } }
";

struct Bench {
    directory: tempfile::TempDir,
    policy: Policy,
}

impl Bench {
    fn new() -> Self {
        let policy = ripstop_policy::compile(Graph::parse("g", GRAPH).unwrap()).unwrap();
        Self { directory: tempfile::tempdir().unwrap(), policy }
    }

    fn open(&self) -> Arc<Pods> {
        Pods::open(self.directory.path(), Arc::new(Doorway::Here), Arc::default())
    }

    /// A file in a namespace's place: what counts is which it is.
    fn namespace(&self, name: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        File::create(&path).unwrap();
        path
    }

    fn announce(&self, pods: &Pods, pod: &str, container: &str, netns: &Path) -> Result<Announced, String> {
        let sandbox = sandbox(container);
        let announced = Announcement { sandbox, pod: pod.parse().unwrap(), netns: netns.into() };
        pods.announce(&self.policy, &HostName::new("alpha").unwrap(), announced)
    }
}

fn sandbox(container: &str) -> Sandbox {
    Sandbox { container: container.into(), interface: "eth0".into(), network: "pods".into() }
}

fn web() -> Announced {
    Announced::Workload("shop/web".parse().unwrap())
}

#[test]
fn only_workloads_of_the_host_are_announced_and_each_container_once() {
    let bench = Bench::new();
    let pods = bench.open();
    let one = bench.namespace("one");
    for unknown in ["shop/api", "shop/other", "other/web"] {
        let said = bench.announce(&pods, unknown, "c1", &one).unwrap();
        assert!(matches!(&said, Announced::Unknown(why) if why.contains(unknown)), "{said:?}");
    }
    assert_eq!(bench.announce(&pods, "shop/web", "c1", &one).unwrap(), web());
    // Told twice, it is the same.
    assert_eq!(bench.announce(&pods, "shop/web", "c1", &one).unwrap(), web());
    let other = bench.namespace("two");
    assert_eq!(bench.announce(&pods, "shop/web", "c2", &other).unwrap(), web());
    let found = |pods: &Pods| {
        let all = pods.of(&"shop/web".parse().unwrap()).into_iter();
        all.map(|one| (one.container, one.netns)).collect::<Vec<_>>()
    };
    assert_eq!(found(&pods), [("c1".into(), one.clone()), ("c2".into(), other.clone())]);
    // One namespace cannot hold two interfaces with the same addresses.
    for container in ["c2", "c3"] {
        let sandbox = Sandbox { interface: "eth1".into(), ..sandbox(container) };
        let announced = Announcement { sandbox, pod: "shop/web".parse().unwrap(), netns: other.clone() };
        let said = pods.announce(&bench.policy, &HostName::new("alpha").unwrap(), announced).unwrap();
        assert!(matches!(&said, Announced::Later(why) if why.contains("c2, by eth0 of pods")), "{said:?}");
    }
    assert!(pods.retract(&sandbox("c1")).unwrap() && !pods.retract(&sandbox("c1")).unwrap());
    assert_eq!(found(&pods), [("c2".into(), other)]);
}

#[test]
fn a_workload_has_so_many_pods_on_a_host_and_no_more() {
    let bench = Bench::new();
    let pods = bench.open();
    let announce = |index: usize| {
        let name = format!("c{index}");
        bench.announce(&pods, "shop/web", &name, &bench.namespace(&name)).unwrap()
    };
    assert!((0..REPLICAS_MAX).all(|index| announce(index) == web()));
    let said = announce(REPLICAS_MAX);
    assert!(matches!(&said, Announced::Later(why) if why.contains("256 pods are shop/web on alpha")), "{said:?}");
    assert!(pods.retract(&sandbox("c7")).unwrap());
    assert_eq!(announce(REPLICAS_MAX), web());
}

#[test]
fn a_pod_whose_namespace_is_gone_is_in_nobody_s_way() {
    let bench = Bench::new();
    let pods = bench.open();
    let one = bench.namespace("one");
    bench.announce(&pods, "shop/web", "c1", &one).unwrap();
    let before = pods.of(&"shop/web".parse().unwrap())[0].id;
    // Another's by now, though by the same path.
    fs::rename(bench.namespace("new"), &one).unwrap();
    assert_ne!(NsId::of(&one).unwrap(), before);
    assert_eq!(bench.announce(&pods, "shop/web", "c2", &one).unwrap(), web());
    assert_eq!(pods.all().len(), 1);
}

#[test]
fn the_next_agent_knows_them_and_a_runtime_says_which_are_left() {
    let bench = Bench::new();
    let one = bench.namespace("one");
    bench.announce(&bench.open(), "shop/web", "c1", &one).unwrap();
    let pods = bench.open();
    assert_eq!(pods.all().len(), 1);
    assert_eq!(pods.keep_only("another", &[]), Ok(0));
    assert_eq!(pods.keep_only("pods", &[sandbox("c1"), sandbox("c9")]), Ok(0));
    assert_eq!(pods.keep_only("pods", &[sandbox("c2")]), Ok(1));
    assert!(bench.open().all().is_empty());
    fs::write(bench.directory.path().join(FILE), "[{]").unwrap();
    assert!(bench.open().all().is_empty());
}

#[test]
fn what_a_runtime_cannot_have_said_is_refused() {
    let bench = Bench::new();
    let pods = bench.open();
    let one = bench.namespace("one");
    for container in ["", "a\nb", &"x".repeat(NAME_MAX + 1)] {
        assert!(bench.announce(&pods, "shop/web", container, &one).unwrap_err().contains("container"), "{container}");
    }
    assert!(bench.announce(&pods, "shop/web", "c1", Path::new("one")).unwrap_err().contains("absolute"));
    assert!(bench.announce(&pods, "shop/web", "c1", Path::new("/nonexistent")).unwrap_err().contains("/nonexistent"));
    assert!(pods.all().is_empty() && !bench.directory.path().join(FILE).exists());
}
