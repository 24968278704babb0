//! The CNI plugin, called as a container runtime calls it, and by podman's own.

use crate::{
    lab::{Lab, Place, ripstop, within},
    podman::Podman,
    servers::nginx,
};
use serde_json::{Value, json};
use std::{fs, time::Duration};

const PODS: &str = "
tenants:
  shop:
    workloads:
      web: { on: [alpha], run: { pod: shop/web } }
      job: { on: [alpha], run: { pod: shop/job } }
      far: { on: [beta], run: { pod: shop/far } }
      api: { on: [beta], run: { netns: api } }
    services:
      api: { by: api, port: 8080/tcp }
    allow:
      - { from: web, to: api }
";
const URL: &str = "http://api.shop.lab.test:8080/";
const HELLO: &str = "hello from nginx\n";
/// Within this the agent has done what follows from a change.
const FOLLOWED: Duration = Duration::from_secs(3);

/// A container runtime of alpha, as far as the plugin sees one.
pub struct Runtime<'l> {
    lab: &'l Lab,
    alpha: Place,
}

impl<'l> Runtime<'l> {
    pub fn of(lab: &'l Lab) -> Self {
        Self { lab, alpha: lab.host("alpha") }
    }

    /// A namespace for a pod, with a loopback device as runtimes make it.
    pub fn namespace(&self, name: &str) {
        self.alpha.sh(&format!("ip netns add {name}; ip -n {name} link set lo up"));
    }

    /// Calls the plugin for a pod of the cluster's namespace `shop`: its exit code, and what it prints.
    fn call(&self, verb: &str, pod: &str, more: &Value) -> (bool, Value) {
        let mut config = json!({
            "cniVersion": "1.1.0", "name": "cluster", "type": "ripstop-cni",
            "capabilities": { "io.kubernetes.cri.pod-annotations": true },
            "prevResult": before(),
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let file = self.lab.file("network.json");
        fs::write(&file, config.to_string()).unwrap();
        let script = format!(
            "CNI_COMMAND={verb} CNI_CONTAINERID={pod} CNI_NETNS=/var/run/netns/{pod} CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin \
             CNI_ARGS='IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={pod}' exec {} cni < {}",
            ripstop(),
            file.display()
        );
        let output = self.alpha.run(&["sh", "-ec", &script]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let value = if said.is_empty() { Value::Null } else { serde_json::from_str(&said).expect(&said) };
        (output.status.success(), value)
    }

    pub fn ok(&self, verb: &str, pod: &str, more: &Value) -> Value {
        let (done, said) = self.call(verb, pod, more);
        assert!(done, "{verb} {pod}: {said}");
        said
    }

    fn code(&self, verb: &str, pod: &str, more: &Value) -> u64 {
        let (done, said) = self.call(verb, pod, more);
        assert!(!done && said["msg"].is_string(), "{verb} {pod}: {said}");
        said["code"].as_u64().unwrap()
    }

    fn asks(&self, pod: &str) -> Result<String, String> {
        let output = self.lab.netns("alpha", pod).run(&["curl", "-sS", "-m", "5", URL]);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if output.status.success() { Ok(said) } else { Err(said) }
    }
}

/// What a plugin before has made.
fn before() -> Value {
    json!({ "cniVersion": "1.1.0", "interfaces": [{ "name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/var/run/netns/one" }],
            "ips": [{ "address": "10.1.2.3/24", "interface": 0 }], "routes": [{ "dst": "0.0.0.0/0" }] })
}

pub fn annotated(name: &str) -> Value {
    json!({ "runtimeConfig": { "io.kubernetes.cri.pod-annotations": { "ripstop/workload": name } } })
}

/// The same with a result to be checked.
fn with_result(name: &str, result: &Value) -> Value {
    let mut more = annotated(name);
    more["prevResult"] = result.clone();
    more
}

#[test]
fn a_pod_is_attached_for_as_long_as_its_runtime_says() {
    let lab = Lab::of(&["alpha", "beta"]).graph(PODS).start();
    let _nginx = nginx(&lab, &lab.workload("api"), "beta");
    let runtime = Runtime::of(&lab);
    let (web, nothing) = (annotated("web"), json!({}));
    for name in ["one", "two", "plain"] {
        runtime.namespace(name);
    }
    runtime.ok("STATUS", "one", &nothing);

    let result = runtime.ok("ADD", "one", &web);
    assert_eq!(runtime.asks("one").unwrap(), HELLO);
    assert_eq!(result["ips"][0], before()["ips"][0], "what was before is handed on: {result}");
    assert_eq!(result["routes"], before()["routes"]);
    assert!(result["interfaces"][1]["name"].as_str().unwrap().starts_with("rs-web-"), "{result}");
    let index = lab.policy().workload(&"shop/web".parse().unwrap()).unwrap();
    assert_eq!(result["ips"][1]["address"], format!("{}/32", lab.policy().workload_entry(index).v4));
    assert_eq!(result["ips"][2]["interface"], 1);
    let resolver = lab.policy().resolver().0.to_string();
    assert_eq!(result["dns"], json!({ "nameservers": [resolver], "search": ["shop.lab.test"] }));
    runtime.ok("CHECK", "one", &with_result("web", &result));
    assert_eq!(runtime.code("CHECK", "one", &web), 101, "a result without the interface");

    runtime.ok("ADD", "two", &web);
    assert_eq!(runtime.asks("two").unwrap(), HELLO, "another pod is this workload as well");
    let second = json!({ "runtimeConfig": web["runtimeConfig"], "name": "another" });
    assert_eq!(runtime.code("ADD", "one", &second), 11, "a container has one interface of the fabric");
    runtime.ok("DEL", "two", &web);
    runtime.asks("two").unwrap_err();
    assert_eq!(runtime.asks("one").unwrap(), HELLO);
    assert_eq!(runtime.code("ADD", "two", &annotated("far")), 100, "a workload of another host");
    assert_eq!(runtime.ok("ADD", "plain", &nothing), before(), "a pod that is none of the fabric's");
    runtime.asks("plain").unwrap_err();

    // The next agent knows the pods that outlive this one.
    assert_eq!(lab.agent("alpha").stop(), 0);
    assert_eq!(runtime.code("ADD", "two", &annotated("job")), 11);
    assert_eq!(runtime.code("STATUS", "one", &nothing), 51);
    lab.agent("alpha").start();
    lab.agent("alpha").wait_up(&["beta"]);
    assert_eq!(runtime.asks("one").unwrap(), HELLO);
    runtime.ok("CHECK", "one", &with_result("web", &result));

    for _ in 0..2 {
        runtime.ok("DEL", "one", &web);
    }
    runtime.asks("one").unwrap_err();
    assert_eq!(runtime.code("CHECK", "one", &with_result("web", &result)), 101);
    runtime.ok("ADD", "two", &web);
    assert_eq!(runtime.asks("two").unwrap(), HELLO);
    let left = json!([{ "containerID": "one", "ifname": "eth0" }]);
    runtime.ok("GC", "-", &json!({ "cni.dev/valid-attachments": left }));
    within(FOLLOWED, "what is not left to be detached", || runtime.asks("two").is_err());

    // A pod that ends while there is no agent is nobody's when there is one again.
    runtime.ok("ADD", "two", &web);
    lab.agent("alpha").kill();
    runtime.ok("DEL", "two", &web);
    runtime.alpha.sh("ip netns del two");
    lab.agent("alpha").start();
    runtime.ok("ADD", "one", &web);
    within(FOLLOWED, "the path to beta", || runtime.asks("one").is_ok());
}

/// What podman is told: its networks are made by CNI plugins, ours among them.
const SETTINGS: &str = "mkdir -p /run/pods/net.d /run/pods/bin; ln -sf RIPSTOP /run/pods/bin/ripstop-cni
    for plugin in /usr/lib/cni/*; do ln -sf $plugin /run/pods/bin/; done
    cat > /run/pods/containers.conf <<'END'
[network]
network_backend = \"cni\"
cni_plugin_dirs = [\"/run/pods/bin\"]
network_config_dir = \"/run/pods/net.d\"
END
    cat > /run/pods/net.d/web.conflist <<'END'
{ \"cniVersion\": \"0.4.0\", \"name\": \"web\", \"plugins\": [{ \"type\": \"ripstop-cni\", \"pod\": \"shop/web\" }] }
END";

#[test]
fn podman_attaches_containers_by_a_network_of_the_fabric() {
    let lab = Lab::of(&["alpha", "beta"]).graph(PODS).start();
    let _nginx = nginx(&lab, &lab.workload("api"), "beta");
    let podman = Podman::with(&lab, "alpha", &["CONTAINERS_CONF=/run/pods/containers.conf"]);
    podman.place().sh(&SETTINGS.replace("RIPSTOP", ripstop()));
    podman.start_program("web", &["--network", "web"], &["sleep", "600"]);
    let found = podman.run(&["exec", "web", "cat", "/etc/resolv.conf"]);
    assert!(found.contains(&format!("nameserver {}", lab.policy().resolver().0)), "{found}");
    assert_eq!(podman.run(&["exec", "web", "wget", "-q", "-O", "-", URL]), HELLO, "by name, from within");
    podman.start_program("second", &["--network", "web"], &["sleep", "600"]);
    assert_eq!(podman.run(&["exec", "second", "wget", "-q", "-O", "-", URL]), HELLO, "as the same workload");
    podman.stop("web");
    assert_eq!(podman.run(&["exec", "second", "wget", "-q", "-O", "-", URL]), HELLO);
    podman.stop("second");
    within(FOLLOWED, "the workload to be nowhere", || {
        lab.host("alpha").ok(&[ripstop(), "workloads"]).contains("no pod shop/web was announced by CNI")
    });
}
