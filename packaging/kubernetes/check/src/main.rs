//! Holds the manifests beside this package against the types of the Kubernetes API: every field that is written is one that the API
//! knows, of the type that it has. Run by `tests/run.sh`; `cargo run --manifest-path packaging/kubernetes/check/Cargo.toml`.

use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment},
    core::v1::{ConfigMap, Namespace, Secret, ServiceAccount},
    scheduling::v1::PriorityClass,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{fs, path::Path, process::ExitCode};

/// The manifests, and how many objects are in each.
const MANIFESTS: [(&str, usize); 2] = [("ripstop.yaml", 6), ("example.yaml", 1)];

fn main() -> ExitCode {
    let mistakes: Vec<_> = MANIFESTS.iter().flat_map(|(file, count)| mistakes_in(file, *count)).collect();
    mistakes.iter().for_each(|mistake| eprintln!("{mistake}"));
    if mistakes.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn mistakes_in(file: &str, count: usize) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => return vec![format!("{}: {error}", path.display())],
    };
    let objects: Vec<Value> = match serde_saphyr::from_multiple(&text) {
        Ok(objects) => objects,
        Err(error) => return vec![format!("{file}: {error}")],
    };
    let mut mistakes: Vec<_> = objects.iter().flat_map(mistakes_of).map(|mistake| format!("{file}: {mistake}")).collect();
    if objects.len() != count {
        mistakes.push(format!("{file}: {} objects in place of {count}", objects.len()));
    }
    mistakes
}

fn mistakes_of(object: &Value) -> Vec<String> {
    let kinds = (object["apiVersion"].as_str().unwrap_or_default(), object["kind"].as_str().unwrap_or_default());
    match kinds {
        ("v1", "Namespace") => as_type::<Namespace>(object),
        ("v1", "ServiceAccount") => as_type::<ServiceAccount>(object),
        ("v1", "ConfigMap") => as_type::<ConfigMap>(object),
        ("v1", "Secret") => as_type::<Secret>(object),
        ("scheduling.k8s.io/v1", "PriorityClass") => as_type::<PriorityClass>(object),
        ("apps/v1", "DaemonSet") => as_type::<DaemonSet>(object),
        ("apps/v1", "Deployment") => as_type::<Deployment>(object),
        (version, kind) => vec![format!("{kind} of {version} is not known here: add it")],
    }
}

/// What the type does not know is lost on the way through it.
fn as_type<T: Serialize + DeserializeOwned>(object: &Value) -> Vec<String> {
    let kind = object["kind"].as_str().unwrap_or_default();
    let known = serde_json::from_value::<T>(object.clone()).and_then(serde_json::to_value);
    match known {
        Ok(known) => lost(kind, object, &known),
        Err(error) => vec![format!("{kind}: {error}")],
    }
}

fn lost(at: &str, written: &Value, known: &Value) -> Vec<String> {
    match (written, known) {
        (Value::Object(fields), Value::Object(_)) => {
            fields.iter().flat_map(|(key, value)| lost(&format!("{at}.{key}"), value, &known[key])).collect()
        }
        (Value::Array(items), Value::Array(known)) if items.len() == known.len() => {
            items.iter().zip(known).flat_map(|(item, known)| lost(&format!("{at}[]"), item, known)).collect()
        }
        (written, known) if written == known => Vec::new(),
        (_, Value::Null) => vec![format!("{at}: the API has no such field")],
        (_, known) => vec![format!("{at}: the API takes it for {known}")],
    }
}
