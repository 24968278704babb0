//! What the manifests in `packaging/kubernetes/` give and ask for. That they are what the API takes is checked by
//! `packaging/kubernetes/check`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use ripstop_config::{Graph, graph::Pod};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, path::Path, process::Command};

fn objects(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/kubernetes").join(file);
    serde_saphyr::from_multiple(&fs::read_to_string(&path).unwrap()).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn of_kind(file: &str, kind: &str) -> Value {
    objects(file).into_iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The containers of the agent's pod, those of its start first.
fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    list(&pod["initContainers"]).chain(list(&pod["containers"]))
}

fn agents_pod() -> Value {
    of_kind("ripstop.yaml", "DaemonSet")["spec"]["template"]["spec"].clone()
}

#[test]
fn all_is_in_one_namespace_and_asks_the_cluster_for_nothing() {
    let objects = objects("ripstop.yaml");
    let name = &of_kind("ripstop.yaml", "Namespace")["metadata"]["name"];
    for object in objects.iter().filter(|object| object["kind"] != "Namespace" && object["kind"] != "PriorityClass") {
        assert_eq!(object["metadata"]["namespace"], *name, "{}", object["kind"]);
    }
    assert!(!objects.iter().any(|object| object["kind"].as_str().unwrap().contains("Role")));
    let set = of_kind("ripstop.yaml", "DaemonSet");
    assert_eq!(set["spec"]["selector"]["matchLabels"], set["spec"]["template"]["metadata"]["labels"]);
    let pod = agents_pod();
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["priorityClassName"], of_kind("ripstop.yaml", "PriorityClass")["metadata"]["name"]);
    let volumes: BTreeSet<_> = list(&pod["volumes"]).map(|volume| volume["name"].as_str().unwrap()).collect();
    let mounts = containers(&pod).flat_map(|container| list(&container["volumeMounts"]));
    assert_eq!(volumes, mounts.map(|mount| mount["name"].as_str().unwrap()).collect());
}

/// No container has more than docs/kubernetes.md names.
#[test]
fn the_agent_alone_has_two_capabilities() {
    let pod = agents_pod();
    assert!(pod.get("hostPID").is_none() && pod.get("hostIPC").is_none());
    for container in containers(&pod) {
        let context = &container["securityContext"];
        let name = &container["name"];
        assert!(context.get("privileged").is_none() && context["readOnlyRootFilesystem"] == true, "{name}");
        assert_eq!(context["capabilities"]["drop"], json!(["ALL"]), "{name}");
        let added = context["capabilities"].get("add").cloned().unwrap_or_else(|| json!([]));
        let expected = if name == "agent" { json!(["NET_ADMIN", "SYS_ADMIN"]) } else { json!([]) };
        assert_eq!(added, expected, "{name}");
    }
}

/// What the containers and their probes run, as a node would fill it in.
fn commands(pod: &Value) -> Vec<Vec<String>> {
    let words = |line: &Value| {
        let fill = |word: &Value| {
            let word = word.as_str().unwrap().replace("$(AUTHORITY)", "192.0.2.10:7477");
            word.replace("$(NODE)", "node-1").replace("$(ADDRESS)", "192.0.2.11")
        };
        list(line).map(fill).collect::<Vec<_>>()
    };
    let started = containers(pod).map(|container| words(&container["args"]));
    let probes =
        containers(pod).flat_map(|container| ["startupProbe", "readinessProbe"].map(|probe| &container[probe]));
    let asked = probes.map(|probe| words(&probe["exec"]["command"])).filter(|line| !line.is_empty());
    started.chain(asked.map(|line| line[1..].to_vec())).collect()
}

/// This binary understands them: it objects to what is put behind.
#[test]
fn what_the_containers_run_is_understood() {
    let commands = commands(&agents_pod());
    assert_eq!(commands.len(), 5);
    for line in commands {
        let output = Command::new(env!("CARGO_BIN_EXE_ripstop")).args(&line).arg("--nonsense").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("unexpected argument '--nonsense'"), "{line:?}: {said}");
    }
}

#[test]
fn the_example_is_a_pod_of_the_fabric() {
    let example = of_kind("example.yaml", "Deployment");
    let template = &example["spec"]["template"];
    let name = template["metadata"]["annotations"]["ripstop/workload"].as_str().unwrap();
    let pod = Pod::new(example["metadata"]["namespace"].as_str().unwrap(), name).unwrap();
    let graph = format!(
        "fabric: fabric.example\nhosts: {{ node-1: {{}}, node-2: {{}} }}\ntenants:\n  shop:\n    workloads:\n      \
         web: {{ on: [node-1, node-2], run: {{ pod: {pod} }}, may: [drain] }}\n"
    );
    let policy = ripstop_policy::compile(Graph::parse("g", &graph).unwrap()).unwrap();
    let dns = &template["spec"]["dnsConfig"];
    assert_eq!(dns["nameservers"], json!([policy.resolver().0]));
    assert_eq!(dns["searches"][0], "shop.fabric.example");
    // A pod that ends says so at the resolver's address.
    let hook = &template["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"];
    let said = format!("http://{}/v1/drain", policy.resolver().0);
    assert!(list(hook).any(|word| word.as_str().unwrap().contains(&said)), "{hook}");
}
