//! What a Compose service says of its network.

use super::{interpolate::expand, ports};
use crate::{
    Location, Port,
    import::{
        ImportError,
        report::Report,
        tree::{Branch, Tree, Word},
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// The network of a service that names none (Compose specification, "networks").
const DEFAULT_NETWORK: &str = "default";
/// Hosts are fewer than this.
const REPLICAS_MAX: u32 = 100_000;

/// A service as it was read.
#[derive(Debug)]
pub(super) struct Service {
    /// Its key.
    pub(super) key: String,
    pub(super) at: Location,
    /// Its containers' name, where it is given.
    pub(super) container: Option<String>,
    pub(super) ports: BTreeSet<Port>,
    /// Its image is a database's or the like, which is called more than it calls.
    pub(super) is_known_server: bool,
    /// The networks that it is in; the other names it has there.
    pub(super) networks: BTreeMap<String, Vec<(String, Location)>>,
    pub(super) needs: Vec<Need>,
    /// `None` for one on each host.
    pub(super) replicas: Option<usize>,
    /// Names and values of variables.
    pub(super) environment: Vec<(String, String, Location)>,
}

/// The port of web servers.
const WEB: u16 = 80;

/// Another service that it says it needs.
#[derive(Debug)]
pub(super) struct Need {
    pub(super) key: String,
    /// The name by which it calls it.
    pub(super) alias: Option<String>,
    pub(super) why: &'static str,
    pub(super) at: Location,
}

/// Reads services; what is wrong with a part of one is reported, and the rest is read.
pub(super) struct Reader<'r> {
    pub(super) variables: &'r BTreeMap<String, String>,
    pub(super) profiles: &'r BTreeSet<String>,
    pub(super) report: &'r mut Report,
}

/// A web server calls what is behind it.
fn is_known_server(tree: &Tree) -> bool {
    let port = tree.get("image").and_then(Tree::text).and_then(ports::of_image);
    port.is_some_and(|port| port.number != WEB)
}

impl Reader<'_> {
    /// `None` for a service that is not run, or has no network of its own.
    pub(super) fn service(&mut self, word: &Word, tree: &Tree) -> Result<Option<Service>, ImportError> {
        let key = word.text.as_str();
        if !self.is_active(key, tree)? || !self.has_network(key, tree)? {
            return Ok(None);
        }
        self.say_what_is_not_carried(key, tree);
        let container = match tree.get("container_name") {
            Some(name) => self.text(name)?,
            None => None,
        };
        Ok(Some(Service {
            key: key.to_owned(),
            at: word.at.clone(),
            container,
            ports: self.ports(key, tree)?,
            is_known_server: is_known_server(tree),
            networks: self.networks(tree)?,
            needs: self.needs(key, tree)?,
            replicas: self.replicas(key, tree)?,
            environment: self.environment(tree)?,
        }))
    }

    /// A scalar with its variables put in.
    fn text(&mut self, tree: &Tree) -> Result<Option<String>, ImportError> {
        let Some(text) = tree.text() else { return Ok(None) };
        let refused = |what| ImportError::Refused { at: tree.at.clone(), what };
        let expanded = expand(text, self.variables).map_err(refused)?;
        for name in expanded.unset {
            self.report.inferred(&tree.at, format!("variable {name} is not set, and empty: give --env {name}=VALUE"));
        }
        Ok(Some(expanded.text))
    }

    fn is_active(&mut self, key: &str, tree: &Tree) -> Result<bool, ImportError> {
        let Some(profiles) = tree.get("profiles").filter(|profiles| !profiles.items().is_empty()) else {
            return Ok(true);
        };
        let mut named = Vec::new();
        for profile in profiles.items() {
            named.extend(self.text(profile)?);
        }
        let active = named.iter().any(|name| self.profiles.contains(name)) || self.profiles.contains("*");
        let named = named.join(", ");
        match active {
            true => self.report.used(&profiles.at, format!("service {key}: profile {named}")),
            false => {
                let what = format!("service {key}: only in profile {named}, which --profile did not choose");
                self.report.not_carried(&profiles.at, what);
            }
        }
        Ok(active)
    }

    fn has_network(&mut self, key: &str, tree: &Tree) -> Result<bool, ImportError> {
        let Some(node) = tree.get("network_mode") else { return Ok(true) };
        let Some(mode) = self.text(node)? else { return Ok(true) };
        let why = match mode.as_str() {
            "bridge" | "default" => return Ok(true),
            "none" => "it is to have no network, and gets none here".into(),
            "host" => "it has the host's network: give it a user, and write `run: { user: NAME }`".into(),
            other => format!("`{other}`: it has another's network, so that the kernel cannot tell them apart"),
        };
        self.report.not_carried(&node.at, format!("service {key}: network_mode {why}"));
        Ok(false)
    }

    fn say_what_is_not_carried(&mut self, key: &str, tree: &Tree) {
        for (name, why) in [
            ("external_links", "what is outside the project is not known here: give it a workload and an edge"),
            ("extra_hosts", "an address past the fabric; it stays with the container"),
            ("dns", "the container needs the fabric's resolver: 198.18.0.1 unless `ranges` say otherwise"),
            ("dns_search", "the container needs the suffix TENANT.FABRIC to find short names"),
            ("mac_address", "the fabric has no Ethernet"),
            ("privileged", "it may take the guard of its own namespace away"),
        ] {
            let said = tree.get(name).filter(|tree| !matches!(tree.text(), Some("false")));
            said.iter().for_each(|tree| self.report.not_carried(&tree.at, format!("service {key}: {name}: {why}")));
        }
        if let Some(check) = tree.get("healthcheck") {
            let what =
                format!("service {key}: healthcheck runs in the container; the agent's own is `health: {{ tcp: 2s }}`");
            self.report.suggested(&check.at, what);
        }
        for right in tree.get("cap_add").map(Tree::items).unwrap_or_default() {
            if matches!(right.text().map(|text| text.trim_start_matches("CAP_")), Some("NET_ADMIN" | "NET_RAW" | "ALL"))
            {
                let what = format!("service {key}: cap_add: with it the container may get past its guard");
                self.report.not_carried(&right.at, what);
            }
        }
    }

    /// `ports` and `expose`; without either, what the image is known for.
    fn ports(&mut self, key: &str, tree: &Tree) -> Result<BTreeSet<Port>, ImportError> {
        let mut all = BTreeSet::new();
        for node in tree.get("expose").map(Tree::items).unwrap_or_default() {
            let text = self.text(node)?.unwrap_or_default();
            let ports = ports::short(&text).map(|(ports, _)| ports);
            all.extend(self.listed(key, "expose", node, ports));
        }
        for node in tree.get("ports").map(Tree::items).unwrap_or_default() {
            let ports = match &node.value {
                Branch::Map(_) => self.long_port(key, node)?,
                Branch::Text(_) | Branch::Nothing | Branch::List(_) => self.short_port(key, node)?,
            };
            all.extend(self.listed(key, "ports", node, ports));
        }
        if let (true, Some(image)) = (all.is_empty(), tree.get("image"))
            && let Some(port) = self.text(image)?.and_then(|text| ports::of_image(&text))
        {
            self.report.inferred(&image.at, format!("service {key}: {port}, where its image listens"));
            all.insert(port);
        }
        Ok(all)
    }

    fn listed(&mut self, key: &str, what: &str, node: &Tree, ports: Result<Vec<Port>, String>) -> Vec<Port> {
        match ports {
            Err(error) => {
                self.report.not_carried(&node.at, format!("service {key}: {what}: {error}"));
                Vec::new()
            }
            Ok(ports) => {
                let shown: Vec<String> = ports.iter().map(ToString::to_string).collect();
                self.report.used(&node.at, format!("service {key}: {what} {}", shown.join(" ")));
                ports
            }
        }
    }

    fn short_port(&mut self, key: &str, node: &Tree) -> Result<Result<Vec<Port>, String>, ImportError> {
        let text = self.text(node)?.unwrap_or_default();
        Ok(ports::short(&text).map(|(ports, published)| {
            self.published(key, node, published);
            ports
        }))
    }

    fn long_port(&mut self, key: &str, node: &Tree) -> Result<Result<Vec<Port>, String>, ImportError> {
        let mut part = |name: &str| node.get(name).map_or(Ok(None), |node| self.text(node));
        let (target, protocol) = (part("target")?.unwrap_or_default(), part("protocol")?.unwrap_or_default());
        let ports = ports::range(&target, &protocol);
        self.published(key, node, node.get("published").is_some());
        Ok(ports)
    }

    fn published(&mut self, key: &str, node: &Tree, published: bool) {
        if published {
            let what =
                format!("service {key}: its port on the host is outside the fabric, and stays with the container");
            self.report.not_carried(&node.at, what);
        }
    }

    fn networks(&mut self, tree: &Tree) -> Result<BTreeMap<String, Vec<(String, Location)>>, ImportError> {
        let mut all = BTreeMap::new();
        let node = tree.get("networks");
        for item in node.map(Tree::items).unwrap_or_default() {
            all.extend(self.text(item)?.map(|name| (name, Vec::new())));
        }
        for (word, network) in node.map(Tree::entries).unwrap_or_default() {
            let mut aliases = Vec::new();
            for alias in network.get("aliases").map(Tree::items).unwrap_or_default() {
                aliases.extend(self.text(alias)?.map(|name| (name, alias.at.clone())));
            }
            for address in ["ipv4_address", "ipv6_address"].iter().filter_map(|key| network.get(key)) {
                self.report.not_carried(&address.at, "an address of its own: the fabric gives addresses by name");
            }
            all.insert(word.text.clone(), aliases);
        }
        if all.is_empty() {
            all.insert(DEFAULT_NETWORK.to_owned(), Vec::new());
        }
        Ok(all)
    }

    fn needs(&mut self, key: &str, tree: &Tree) -> Result<Vec<Need>, ImportError> {
        let mut all = Vec::new();
        let node = tree.get("depends_on");
        for item in node.map(Tree::items).unwrap_or_default() {
            all.extend(self.text(item)?.map(|key| need(key, None, "depends_on", item)));
        }
        for (word, how) in node.map(Tree::entries).unwrap_or_default() {
            if how.text_at(&["condition"]) == Some("service_completed_successfully") {
                let what =
                    format!("service {key}: depends_on {}: it waits for its end, and does not call it", word.text);
                self.report.not_carried(&word.at, what);
                continue;
            }
            all.push(Need { key: word.text.clone(), alias: None, why: "depends_on", at: word.at.clone() });
        }
        for item in tree.get("links").map(Tree::items).unwrap_or_default() {
            let Some(text) = self.text(item)? else { continue };
            let (key, alias) = text.split_once(':').map_or((text.as_str(), None), |(key, alias)| (key, Some(alias)));
            all.push(need(key.to_owned(), alias.map(str::to_owned), "links", item));
        }
        Ok(all)
    }

    /// `deploy.replicas`, `scale`, or one; `deploy.mode: global` is one on each host.
    fn replicas(&mut self, key: &str, tree: &Tree) -> Result<Option<usize>, ImportError> {
        let mode = tree.path(&["deploy", "mode"]);
        if let Some(node) = mode
            && self.text(node)?.is_some_and(|mode| mode.starts_with("global"))
        {
            self.report.used(&node.at, format!("service {key}: one on each host"));
            return Ok(None);
        }
        let Some(node) = tree.path(&["deploy", "replicas"]).or_else(|| tree.get("scale")) else { return Ok(Some(1)) };
        let text = self.text(node)?.unwrap_or_default();
        match text.parse::<u32>().ok().filter(|count| *count <= REPLICAS_MAX) {
            Some(count) => {
                self.report.used(&node.at, format!("service {key}: replicas: {count}"));
                Ok(Some(usize::try_from(count).unwrap_or(usize::MAX).max(1)))
            }
            None => {
                self.report
                    .not_carried(&node.at, format!("service {key}: `{text}` is no number of replicas; one is taken"));
                Ok(Some(1))
            }
        }
    }

    fn environment(&mut self, tree: &Tree) -> Result<Vec<(String, String, Location)>, ImportError> {
        let mut all = Vec::new();
        let Some(node) = tree.get("environment") else { return Ok(all) };
        // What cannot be read in a value that is nobody's business here is no reason to stop.
        let value = |text: &str| expand(text, self.variables).map(|out| out.text).unwrap_or_default();
        // Without a value it has that of the project's own variable (Compose specification, "environment").
        let own = |name: &str| self.variables.get(name).cloned();
        for item in node.items() {
            let Some(text) = item.text() else { continue };
            let (name, value) = match text.split_once('=') {
                Some((name, text)) => (name, Some(value(text))),
                None => (text, own(text)),
            };
            all.extend(value.map(|value| (name.to_owned(), value, item.at.clone())));
        }
        for (word, item) in node.entries() {
            let value = item.text().map_or_else(|| own(&word.text), |text| Some(value(text)));
            all.extend(value.map(|value| (word.text.clone(), value, item.at.clone())));
        }
        Ok(all)
    }
}

fn need(key: String, alias: Option<String>, why: &'static str, item: &Tree) -> Need {
    Need { key, alias, why, at: item.at.clone() }
}
