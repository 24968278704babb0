//! The CNI plugin (Container Network Interface, version 1.1): how a container runtime tells the agent of pods.
//!
//! It is this binary, called as `ripstop-cni` or `ripstop cni`. It changes nothing itself: it asks the agent of its host, by the
//! admin socket, to attach a pod's namespace to the workload that the pod is by the graph (`run: { pod: NAMESPACE/NAME }`).
//!
//! 1. The runtime says what to do in the environment ([`environment`]) and gives the network's configuration on standard input
//!    ([`config`]), with the result of the plugins before this one.
//! 2. [`config::Config::pod`] says which pod it is: its namespace as the runtime knows it, and its own annotation. A pod of a
//!    cluster that has no annotation is none of the fabric's: it is passed on as it is, also when there is no agent.
//! 3. The verb is done ([`verbs`]).
//! 4. The result, or an error with its code ([`error`]), goes to standard output as JSON.
//!
//! What cannot be done fails closed: the runtime does not start a pod of the fabric that has no interface.

mod config;
mod environment;
mod error;
pub mod install;
mod result;
mod verbs;

#[cfg(test)]
mod tests;

use config::Config;
use environment::Environment;
use error::CniError;
use serde_json::{Value, json};
use std::{
    ffi::OsStr,
    io::{self, Read, Write},
    path::Path,
    process::ExitCode,
};

/// The plugin's name, by which a configuration's `type` finds its binary.
pub const NAME: &str = "ripstop-cni";
/// The versions of the specification that are understood, oldest first.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The version that answers where none was understood.
const NEWEST: &str = "1.1.0";
/// Bytes of a configuration at most, with the results of other plugins or a list of attachments in it.
const CONFIG_MAX: u64 = 4 << 20;

/// Whether this process was called as the plugin.
#[must_use]
pub fn is_called() -> bool {
    let name = std::env::args_os().next();
    name.as_deref().and_then(|name| Path::new(name).file_name()) == Some(OsStr::new(NAME))
}

/// Does what the runtime asks for.
#[must_use]
pub fn run() -> ExitCode {
    let mut text = String::new();
    let read = io::stdin().take(CONFIG_MAX).read_to_string(&mut text);
    let (version, outcome) = match read {
        Ok(_) => answer(&text, |name| std::env::var(name).ok()),
        Err(error) => (NEWEST.to_owned(), Err(CniError::io("failed to read the network's configuration", &error))),
    };
    let (said, code) = match outcome {
        Ok(result) => (result, ExitCode::SUCCESS),
        Err(error) => (Some(error.shown(&version)), ExitCode::FAILURE),
    };
    let Some(said) = said else { return code };
    // The runtime that does not listen any more has no use for what is said.
    match writeln!(io::stdout(), "{said}") {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The version to answer in, and the answer; `None` where the specification wants none.
fn answer(text: &str, variable: impl Fn(&str) -> Option<String>) -> (String, Result<Option<Value>, CniError>) {
    let command = variable("CNI_COMMAND");
    if command.as_deref() == Some("VERSION") {
        return (NEWEST.to_owned(), Ok(Some(versions(text))));
    }
    let config = match Config::parse(text) {
        Ok(config) => config,
        Err(error) => return (NEWEST.to_owned(), Err(error)),
    };
    let version = config.cni_version.clone();
    let outcome = Environment::read(variable).and_then(|environment| verbs::act(&environment, &config));
    (version, outcome)
}

/// In the version of whoever asks, as far as that is said.
fn versions(text: &str) -> Value {
    let asked: Value = serde_json::from_str(text).unwrap_or_default();
    let version = asked.get("cniVersion").and_then(Value::as_str).unwrap_or(NEWEST);
    json!({ "cniVersion": version, "supportedVersions": VERSIONS })
}
