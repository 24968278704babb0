//! The rules of the code's layers, each with its reason: who may depend on whom, what the pure crates may not touch,
//! where `unsafe` may be, and how long a file may grow.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Longest source file in lines, tests aside: beyond it a file does more than one thing.
const FILE_LINES_MAX: usize = 500;

/// What a crate of the workspace may depend on within the workspace, and why not on more.
struct Layer {
    package: &'static str,
    may_use: &'static [&'static str],
    because: &'static str,
}

const BELOW_DATAPATH: &[&str] =
    &["ripstop-config", "ripstop-policy", "ripstop-dns", "ripstop-transport", "ripstop-kernel", "ripstop-telemetry"];
const ALL: &[&str] = &[
    "ripstop-config",
    "ripstop-policy",
    "ripstop-dns",
    "ripstop-transport",
    "ripstop-kernel",
    "ripstop-telemetry",
    "ripstop-datapath",
];

const LAYERS: &[Layer] = &[
    Layer { package: "ripstop-config", may_use: &[], because: "it is the vocabulary that all others share" },
    Layer {
        package: "ripstop-policy",
        may_use: &["ripstop-config"],
        because: "who may connect must not depend on how it is carried, or it cannot be explained offline",
    },
    Layer {
        package: "ripstop-dns",
        may_use: &["ripstop-config", "ripstop-policy"],
        because: "an answer follows from the policy alone, never from which connections happen to be up",
    },
    Layer {
        package: "ripstop-transport",
        may_use: &["ripstop-config"],
        because: "transport authenticates and policy authorises: one that did both could skip the other",
    },
    Layer {
        package: "ripstop-kernel",
        may_use: &["ripstop-config"],
        because: "what enters namespaces with CAP_SYS_ADMIN must be small enough to be read whole",
    },
    Layer {
        package: "ripstop-telemetry",
        may_use: &["ripstop-config", "ripstop-dns", "ripstop-transport"],
        because: "what is said of a session must not change what becomes of it",
    },
    Layer {
        package: "ripstop-datapath",
        may_use: BELOW_DATAPATH,
        because: "it carries sessions by what it is told: files, operators and the command line are the agent's",
    },
    Layer { package: "ripstop", may_use: ALL, because: "the agent puts the layers together" },
    Layer { package: "ripstop-pieces", may_use: ALL, because: "it measures all of them, and nothing uses it" },
];

/// A text that may not stand in the code of some files.
struct Ban {
    under: &'static [&'static str],
    text: &'static [&'static str],
    because: &'static str,
}

const BANS: &[Ban] = &[
    Ban {
        under: &["config/src", "policy/src"],
        text: &["std::fs", "fs::File", "fs::read"],
        because: "the same input must give the same policy on every host: callers hand text in",
    },
    Ban {
        under: &["config/src", "policy/src"],
        text: &["std::net::Tcp", "std::net::Udp", "net::TcpStream", "net::UdpSocket", "ToSocketAddrs"],
        because: "a decision never waits for a network",
    },
    Ban {
        under: &["config/src", "policy/src"],
        text: &["Instant::now", "SystemTime", "time::Instant", "OffsetDateTime::now"],
        because: "a decision that reads a clock cannot be repeated",
    },
    Ban {
        under: &["config/src", "policy/src"],
        text: &["std::thread", "thread::spawn", "std::process", "tokio::", "std::env"],
        because: "the pure crates start nothing and read nothing of the machine",
    },
    Ban {
        under: &["dns/src", "transport/src", "config/src", "policy/src"],
        text: &["anyhow::"],
        because: "a library's errors say in their type who caused them; anyhow is for the agent",
    },
];

/// The one file that may hold `unsafe`, the TUN door: ioctls on the device's descriptor.
const UNSAFE_DOOR: &str = "kernel/src/tun.rs";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The dependencies of every package of the workspace on others of it, from `cargo metadata`.
fn workspace_dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo metadata failed:\n{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let names: BTreeSet<_> = packages.iter().map(|package| package["name"].as_str().unwrap().to_owned()).collect();
    let of = |package: &serde_json::Value| {
        let all = package["dependencies"].as_array().unwrap().iter();
        all.filter(|one| one["kind"].is_null())
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .filter(|name| names.contains(name))
            .collect()
    };
    packages.iter().map(|package| (package["name"].as_str().unwrap().to_owned(), of(package))).collect()
}

fn rust_files(under: &Path, into: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(under) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

fn sources(under: &[&str]) -> Vec<(String, String)> {
    let mut files = Vec::new();
    for one in under {
        rust_files(&root().join(one), &mut files);
    }
    files.sort();
    let name = |path: &Path| path.strip_prefix(root()).unwrap().display().to_string();
    files.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

/// The lines of code with their numbers: no comments, and nothing from the first `#[cfg(test)]` item that is a module.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let tests = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
    let lines = text[..tests].lines().enumerate().map(|(number, line)| (number + 1, line));
    lines
        .map(|(number, line)| (number, line.split("//").next().unwrap_or("")))
        .filter(|(_, line)| !line.trim().is_empty())
}

fn is_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|part| part == word)
}

const CODE: &[&str] =
    &["src", "config/src", "policy/src", "dns/src", "transport/src", "kernel/src", "telemetry/src", "datapath/src"];

#[test]
fn crates_use_only_the_layers_below_them() {
    let found = workspace_dependencies();
    for layer in LAYERS {
        let uses = found.get(layer.package).unwrap_or_else(|| panic!("{} is not in the workspace", layer.package));
        let allowed: BTreeSet<String> = layer.may_use.iter().map(ToString::to_string).collect();
        let extra: Vec<_> = uses.difference(&allowed).collect();
        assert!(extra.is_empty(), "{} may not depend on {extra:?}: {}", layer.package, layer.because);
    }
    let known: BTreeSet<_> = LAYERS.iter().map(|layer| layer.package.to_owned()).collect();
    let unknown: Vec<_> = found.keys().filter(|name| !known.contains(*name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}: give a new crate its layer in tests/layering.rs");
}

#[test]
fn pure_code_stays_pure() {
    let mut broken = Vec::new();
    for ban in BANS {
        for (name, text) in sources(ban.under) {
            for (number, line) in code(&text) {
                for banned in ban.text.iter().filter(|banned| line.contains(**banned)) {
                    broken.push(format!("{name}:{number}: `{banned}`: {}", ban.because));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn unsafe_is_only_in_the_tun_door() {
    let mut broken = Vec::new();
    for (name, text) in sources(CODE).into_iter().filter(|(name, _)| name != UNSAFE_DOOR) {
        let lines = code(&text).filter(|(_, line)| is_word(line, "unsafe") || line.contains("allow(unsafe_code"));
        broken.extend(lines.map(|(number, line)| format!("{name}:{number}: {}", line.trim())));
    }
    assert!(
        broken.is_empty(),
        "`unsafe` belongs in {UNSAFE_DOOR}, where a reader can check all of it:\n{}",
        broken.join("\n")
    );
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    let text = fs::read_to_string(root().join(UNSAFE_DOOR)).unwrap();
    let lines: Vec<_> = text.lines().collect();
    for (number, line) in code(&text).filter(|(_, line)| line.contains("unsafe {") || line.contains("unsafe impl")) {
        let before = lines[number.saturating_sub(6)..number].join("\n");
        assert!(before.contains("SAFETY:"), "{UNSAFE_DOOR}:{number}: no `// SAFETY:` before `{}`", line.trim());
    }
}

#[test]
fn files_stay_readable() {
    let long: Vec<_> = sources(CODE)
        .into_iter()
        .map(|(name, text)| (name, text[..text.find("#[cfg(test)]\nmod ").unwrap_or(text.len())].lines().count()))
        .filter(|(_, lines)| *lines > FILE_LINES_MAX)
        .collect();
    assert!(long.is_empty(), "longer than {FILE_LINES_MAX} lines, so they do more than one thing: {long:?}");
}

#[test]
fn the_rules_see_what_they_forbid() {
    let text = "use std::fs;\n// std::fs\nlet x = unsafe { y };\n#[cfg(test)]\nmod tests { std::fs }\n";
    let lines: Vec<_> = code(text).collect();
    assert_eq!(lines.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 3]);
    assert!(is_word(lines[1].1, "unsafe") && !is_word("unsafe_code", "unsafe"));
    assert!(sources(CODE).len() > 10, "the sources were not found");
}
