//! Files into one project: `include`, several files on top of each other, `extends`.

use super::Open;
use crate::{
    Location,
    import::{
        ImportError, Manifest,
        report::Report,
        tree::{self, Branch, Tree, Word},
    },
};
use std::{collections::BTreeMap, rc::Rc};

/// Files of one project.
const FILES_MAX: usize = 256;
/// Services that extend each other in a row, and files that include each other.
const CHAIN_MAX: usize = 16;
/// Nodes that services take over from others: a service that many extend is copied as often.
const COPIED_MAX: usize = 1_000_000;

/// Keys of a service that say something of the network.
const TAKEN: [&str; 20] = [
    "cap_add",
    "container_name",
    "depends_on",
    "deploy",
    "dns",
    "dns_search",
    "environment",
    "expose",
    "external_links",
    "extra_hosts",
    "healthcheck",
    "image",
    "links",
    "mac_address",
    "network_mode",
    "networks",
    "ports",
    "privileged",
    "profiles",
    "scale",
];

/// Keys of a service that say only how its container is run.
const PLAIN: &str = " annotations attach blkio_config build cap_drop cgroup cgroup_parent command configs cpu_count cpu_percent \
    cpu_period cpu_quota cpu_rt_period cpu_rt_runtime cpu_shares cpus cpuset credential_spec develop device_cgroup_rules \
    devices dns_opt domainname entrypoint env_file extends gpus group_add hostname init ipc isolation label_file labels \
    logging mem_limit mem_reservation mem_swappiness memswap_limit models oom_kill_disable oom_score_adj pid pids_limit \
    platform post_start pre_stop provider pull_policy pull_refresh_after read_only restart runtime secrets security_opt \
    shm_size stdin_open stop_grace_period stop_signal storage_opt sysctls tmpfs tty ulimits use_api_socket user userns_mode \
    uts volume_driver volumes volumes_from working_dir ";

/// Everything that the files say together.
#[derive(Debug, Default)]
pub(super) struct Project {
    pub(super) name: Option<String>,
    pub(super) services: BTreeMap<String, (Word, Tree)>,
    pub(super) networks: BTreeMap<String, Tree>,
}

/// The services of one file, as they stand there.
type Services = Rc<BTreeMap<String, (Word, Tree)>>;

pub(super) struct Loader<'l> {
    open: &'l Open<'l>,
    report: &'l mut Report,
    files: usize,
    copied: usize,
    /// Files that services extend from, by name.
    extended: BTreeMap<String, Services>,
}

impl<'l> Loader<'l> {
    pub(super) fn new(open: &'l Open<'l>, report: &'l mut Report) -> Self {
        Self { open, report, files: 0, copied: 0, extended: BTreeMap::new() }
    }

    /// Reads files of which each goes on top of those before.
    pub(super) fn load(&mut self, files: &[Manifest]) -> Result<Project, ImportError> {
        let mut project = Project::default();
        for file in files {
            self.file(file, 0, &mut project)?;
        }
        Ok(project)
    }

    fn file(&mut self, file: &Manifest, depth: usize, into: &mut Project) -> Result<(), ImportError> {
        for root in self.documents(file)? {
            for included in root.get("include").map(Tree::items).unwrap_or_default() {
                self.include(file, included, depth, into)?;
            }
            if let Some(name) = root.text_at(&["name"]) {
                into.name = Some(name.to_owned());
            }
            for (key, network) in root.get("networks").map(Tree::entries).unwrap_or_default() {
                let below = into.networks.remove(&key.text);
                into.networks.insert(key.text.clone(), over(below, network.clone()));
            }
            let services = Rc::new(self.services(&root));
            for (key, (word, _)) in services.iter() {
                let service = self.whole(&file.name, &services, key, &word.at, 0)?;
                let (word, below) =
                    into.services.remove(key).map_or((word.clone(), None), |(word, tree)| (word, Some(tree)));
                into.services.insert(key.clone(), (word, over(below, service)));
            }
        }
        Ok(())
    }

    fn documents(&mut self, file: &Manifest) -> Result<Vec<Tree>, ImportError> {
        self.files += 1;
        if self.files > FILES_MAX {
            let at = Location { file: file.name.as_str().into(), line: 1, column: 1 };
            return Err(refused(&at, format!("the project has more than {FILES_MAX} files")));
        }
        tree::read(&file.name, &file.text)
    }

    /// A project within the project: its services must be others.
    fn include(&mut self, from: &Manifest, what: &Tree, depth: usize, into: &mut Project) -> Result<(), ImportError> {
        if depth >= CHAIN_MAX {
            return Err(refused(&what.at, "files include each other without end"));
        }
        let paths = match what.get("path") {
            Some(path) if path.text().is_some() => vec![path],
            Some(path) => path.items().iter().collect(),
            None => vec![what],
        };
        let mut included = Project::default();
        for path in paths {
            let Some(text) = path.text() else { return Err(refused(&path.at, "`include` names files")) };
            let file = (self.open)(&from.name, text).map_err(|error| refused(&path.at, error))?;
            self.file(&file, depth + 1, &mut included)?;
            self.report.used(&path.at, format!("include {text}"));
        }
        for (key, service) in included.services {
            if into.services.contains_key(&key) {
                return Err(refused(&service.0.at, format!("`{key}` is already a service of the project")));
            }
            into.services.insert(key, service);
        }
        included.networks.into_iter().for_each(|(key, network)| {
            into.networks.entry(key).or_insert(network);
        });
        Ok(())
    }

    /// The services of a document, with what says nothing of the network left out.
    fn services(&mut self, root: &Tree) -> BTreeMap<String, (Word, Tree)> {
        let entries = root.get("services").map(Tree::entries).unwrap_or_default();
        let one = |(word, tree): &(Word, Tree)| (word.text.clone(), (word.clone(), self.taken(tree)));
        entries.iter().map(one).collect()
    }

    fn taken(&mut self, service: &Tree) -> Tree {
        let mut taken = Vec::new();
        for (word, tree) in service.entries() {
            let key = word.text.as_str();
            if TAKEN.contains(&key) || key == "extends" {
                taken.push((word.clone(), tree.clone()));
            } else if !key.starts_with("x-") && !PLAIN.contains(&format!(" {key} ")) {
                self.report.not_carried(&word.at, format!("`{key}`: a key that is not known here"));
            }
        }
        Tree { at: service.at.clone(), value: Branch::Map(taken) }
    }

    /// A service on top of what it extends.
    fn whole(
        &mut self,
        file: &str,
        services: &Services,
        key: &str,
        at: &Location,
        depth: usize,
    ) -> Result<Tree, ImportError> {
        let Some((_, own)) = services.get(key) else {
            return Err(refused(at, format!("`extends`: there is no service `{key}` in {file}")));
        };
        let Some(extends) = own.get("extends") else { return self.copy(own) };
        if depth >= CHAIN_MAX {
            return Err(refused(&extends.at, "services extend each other without end"));
        }
        let base = extends.text().or_else(|| extends.text_at(&["service"]));
        let Some(base) = base else { return Err(refused(&extends.at, "`extends` names a service")) };
        let below = match extends.text_at(&["file"]) {
            None => self.whole(file, services, base, &extends.at, depth + 1)?,
            Some(path) => {
                let opened = (self.open)(file, path).map_err(|error| refused(&extends.at, error))?;
                let others = self.others(&opened)?;
                self.whole(&opened.name, &others, base, &extends.at, depth + 1)?
            }
        };
        self.report.used(&extends.at, format!("{key} extends {base}"));
        Ok(over(Some(below), self.copy(own)?))
    }

    fn copy(&mut self, tree: &Tree) -> Result<Tree, ImportError> {
        self.copied += tree.size();
        if self.copied > COPIED_MAX {
            return Err(refused(&tree.at, "the services extend each other to more than is read"));
        }
        Ok(tree.clone())
    }

    fn others(&mut self, file: &Manifest) -> Result<Services, ImportError> {
        if let Some(known) = self.extended.get(&file.name) {
            return Ok(Rc::clone(known));
        }
        let mut all = BTreeMap::new();
        for root in self.documents(file)? {
            all.extend(self.services(&root));
        }
        let all = Rc::new(all);
        self.extended.insert(file.name.clone(), Rc::clone(&all));
        Ok(all)
    }
}

fn refused(at: &Location, what: impl Into<String>) -> ImportError {
    ImportError::Refused { at: at.clone(), what: what.into() }
}

/// One on top of another (Compose specification, "Merge"): mappings by their keys, lists one behind the other, the rest in
/// place of it.
fn over(below: Option<Tree>, above: Tree) -> Tree {
    let Some(below) = below else { return above };
    let value = match (below.value, above.value) {
        (Branch::Map(below), Branch::Map(above)) => Branch::Map(keys_over(below, above)),
        (Branch::List(mut below), Branch::List(above)) => {
            below.extend(above);
            Branch::List(below)
        }
        // `[a, b]` and `{ a: …, b: … }` are two ways to say whom one depends on, or which networks one is in.
        (Branch::List(below), Branch::Map(above)) => Branch::Map(keys_over(as_keys(below), above)),
        (Branch::Map(below), Branch::List(above)) => Branch::Map(keys_over(below, as_keys(above))),
        (below, Branch::Nothing) => below,
        (_, above) => above,
    };
    Tree { at: above.at, value }
}

fn keys_over(mut below: Vec<(Word, Tree)>, above: Vec<(Word, Tree)>) -> Vec<(Word, Tree)> {
    let places: BTreeMap<String, usize> =
        below.iter().enumerate().map(|(at, (word, _))| (word.text.clone(), at)).collect();
    for (word, tree) in above {
        match places.get(&word.text) {
            Some(at) => {
                let (_, earlier) = &mut below[*at];
                let was = std::mem::replace(earlier, Tree { at: tree.at.clone(), value: Branch::Nothing });
                *earlier = over(Some(was), tree);
            }
            None => below.push((word, tree)),
        }
    }
    below
}

/// Items without a text of their own say nothing here.
fn as_keys(items: Vec<Tree>) -> Vec<(Word, Tree)> {
    let key = |item: Tree| match item.value {
        Branch::Text(text) => Some((Word { at: item.at.clone(), text }, Tree { at: item.at, value: Branch::Nothing })),
        Branch::Nothing | Branch::List(_) | Branch::Map(_) => None,
    };
    let mut seen = std::collections::BTreeSet::new();
    items.into_iter().filter_map(key).filter(|(word, _)| seen.insert(word.text.clone())).collect()
}
