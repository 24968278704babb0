use super::{config::Config, error::Code, *};
use serde_json::json;
use std::collections::BTreeMap;

fn asked(variables: &[(&str, &str)], config: &Value) -> (String, Result<Option<Value>, CniError>) {
    let variables: BTreeMap<_, _> = variables.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    answer(&config.to_string(), |name| variables.get(name).cloned())
}

/// A network of a cluster, and no agent.
fn network(annotations: &Value) -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "pods", "type": NAME, "socket": "/nonexistent/agent.sock",
        "capabilities": { "io.kubernetes.cri.pod-annotations": true },
        "runtimeConfig": { "io.kubernetes.cri.pod-annotations": annotations },
        "prevResult": { "cniVersion": "1.1.0", "interfaces": [{ "name": "eth0", "sandbox": "/proc/self/ns/net" }], "ips": [] }
    })
}

const POD: [(&str, &str); 4] = [
    ("CNI_CONTAINERID", "c1"),
    ("CNI_IFNAME", "eth0"),
    ("CNI_NETNS", "/proc/self/ns/net"),
    ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0"),
];

fn verb(verb: &str, config: &Value) -> Result<Option<Value>, CniError> {
    asked(&[&[("CNI_COMMAND", verb)], &POD[..]].concat(), config).1
}

fn code(outcome: Result<Option<Value>, CniError>) -> Code {
    outcome.unwrap_err().code
}

#[test]
fn the_versions_are_told_whatever_else_is_said() {
    let (_, said) = asked(&[("CNI_COMMAND", "VERSION")], &json!({ "cniVersion": "1.0.0" }));
    assert_eq!(said.unwrap().unwrap(), json!({ "cniVersion": "1.0.0", "supportedVersions": VERSIONS }));
    assert_eq!(VERSIONS.last(), Some(&NEWEST));
}

#[test]
fn a_pod_without_the_annotation_is_passed_on_without_an_agent() {
    let config = network(&json!({ "other": "web" }));
    assert_eq!(verb("ADD", &config).unwrap().unwrap(), config["prevResult"]);
    assert_eq!(verb("CHECK", &config), Ok(None));
}

#[test]
fn a_pod_of_the_fabric_does_not_start_without_an_agent_and_can_be_removed() {
    let config = network(&json!({ "ripstop/workload": "web" }));
    let error = verb("ADD", &config).unwrap_err();
    assert_eq!(error.code, Code::Later);
    assert!(error.details.contains("/nonexistent/agent.sock"), "{error:?}");
    let shown = error.shown("1.1.0");
    assert_eq!((&shown["cniVersion"], &shown["code"]), (&json!("1.1.0"), &json!(11)));
    assert_eq!(verb("DEL", &config), Ok(None));
    assert_eq!(code(verb("CHECK", &config)), Code::Later);
    assert_eq!(code(verb("STATUS", &config)), Code::Limited);
}

#[test]
fn what_makes_no_sense_has_the_code_of_the_specification() {
    let config = network(&json!({}));
    assert_eq!(code(verb("MOVE", &config)), Code::Environment);
    assert_eq!(code(asked(&[], &config).1), Code::Environment);
    for missing in ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"] {
        let given: Vec<_> = POD.into_iter().filter(|(name, _)| *name != missing).collect();
        let error = asked(&[&[("CNI_COMMAND", "ADD")], &given[..]].concat(), &config).1.unwrap_err();
        assert_eq!(error.code, Code::Environment);
        assert!(error.message.contains(missing), "{error:?}");
    }
    let mut old = config.clone();
    old["cniVersion"] = "0.1.0".into();
    assert_eq!(code(verb("ADD", &old)), Code::Version);
    let (version, broken) = answer("{", |name| (name == "CNI_COMMAND").then(|| "ADD".to_owned()));
    assert_eq!((version.as_str(), code(broken)), (NEWEST, Code::Decode));
    assert_eq!(code(verb("GC", &config)), Code::Config);
}

fn pod(config: &Value, namespace: Option<&str>) -> Result<Option<String>, Code> {
    let config = Config::parse(&config.to_string()).unwrap();
    config.pod(namespace).map(|pod| pod.map(|pod| pod.to_string())).map_err(|error| error.code)
}

#[test]
fn nobody_takes_another_namespace_s_place() {
    let annotated = network(&json!({ "ripstop/workload": "web" }));
    assert_eq!(pod(&annotated, Some("shop")), Ok(Some("shop/web".into())));
    assert_eq!(pod(&network(&json!({ "ripstop/workload": "other/web" })), Some("shop")), Err(Code::Config));
    assert_eq!(pod(&annotated, None), Err(Code::Config), "nothing of a cluster says it");
    let mut blind = annotated.clone();
    blind["capabilities"] = json!({});
    assert_eq!(pod(&blind, Some("shop")), Err(Code::Config), "annotations that are never handed over");
    let mut named = network(&json!({ "ripstop/workload": "web" }));
    named["pod"] = "billing/invoices".into();
    assert_eq!(pod(&named, None), Ok(Some("billing/invoices".into())));
    assert_eq!(pod(&named, Some("billing")), Ok(Some("billing/invoices".into())));
    assert_eq!(pod(&named, Some("shop")), Err(Code::Config));
}

#[test]
fn it_is_put_behind_the_network_that_is_there_and_taken_away() {
    let directory = tempfile::tempdir().unwrap();
    let (bin, conf) = (directory.path().join("bin"), directory.path().join("net.d"));
    std::fs::create_dir(&bin).unwrap();
    std::fs::create_dir(&conf).unwrap();
    let none = install::install(&bin, &conf).unwrap_err();
    assert!(none.to_string().contains("no network yet"), "{none}");
    let own = json!({ "cniVersion": "0.4.0", "name": "k8s", "plugins": [{ "type": "bridge" }, { "type": "portmap" }] });
    std::fs::write(conf.join("10-own.conflist"), own.to_string()).unwrap();
    std::fs::write(conf.join("20-later.conf"), "not looked at").unwrap();
    for _ in 0..2 {
        let [binary, file] = install::install(&bin, &conf).unwrap();
        assert!(binary.ends_with(NAME) && file.file_name().unwrap() < "10-own.conflist");
        let chained: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let types: Vec<_> = chained["plugins"].as_array().unwrap().iter().map(|plugin| &plugin["type"]).collect();
        assert_eq!(types, ["bridge", "portmap", NAME]);
        assert_eq!(chained["name"], "k8s");
    }
    assert_eq!(install::uninstall(&bin, &conf).unwrap().len(), 2);
    assert!(install::uninstall(&bin, &conf).unwrap().is_empty());
    let single = json!({ "cniVersion": "1.0.0", "name": "one", "type": "bridge" });
    std::fs::write(conf.join("10-own.conflist"), single.to_string()).unwrap();
    let [_, file] = install::install(&bin, &conf).unwrap();
    let chained: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!((&chained["name"], &chained["plugins"][0]["type"]), (&json!("one"), &json!("bridge")));
}
