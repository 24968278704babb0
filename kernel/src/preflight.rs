//! What the agent needs of the machine, checked before anything is changed.

use super::{door::Site, netns, nft};
use nix::sched::{CloneFlags, unshare};
use std::{
    fmt,
    fs::{self, File},
    io, thread,
};

/// Bit of CAP_NET_ADMIN in a capability set (capabilities(7)).
const CAP_NET_ADMIN: u32 = 12;
/// Bit of CAP_SYS_ADMIN.
const CAP_SYS_ADMIN: u32 = 21;

const TUN: &str = "/dev/net/tun";

/// One thing that is missing, and how to get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// What is missing.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.remedy)
    }
}

/// What is needed before the door is there.
const RIGHTS: [(&str, u32); 2] = [("CAP_NET_ADMIN", CAP_NET_ADMIN), ("CAP_SYS_ADMIN", CAP_SYS_ADMIN)];

/// What the agent needs, one by one; a `None` is there. What cannot be tried without the ones before is left out.
#[must_use]
pub fn probes() -> Vec<(&'static str, Option<Missing>)> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let lacking = missing_capabilities(&status, &RIGHTS);
    let may = lacking.is_empty();
    let mut probes: Vec<_> = lacking.into_iter().map(|one| ("rights", Some(one))).collect();
    if may {
        probes.push(("rights", None));
        probes.push(("namespaces", missing_namespaces()));
        probes.push(("nf_tables", missing_tables(nft::tables(&Site::Own).err().as_ref())));
    }
    probes.push(("tun", missing_tun(File::options().read(true).write(true).open(TUN).err().as_ref())));
    probes
}

fn missing_tables(refused: Option<&io::Error>) -> Option<Missing> {
    Some(Missing {
        what: format!("nf_tables does not answer ({})", refused?),
        remedy: "load it with `modprobe nf_tables`; the kernel needs CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET".into(),
    })
}

/// What is missing for attaching interfaces; empty when all is there.
#[must_use]
pub fn preflight() -> Vec<Missing> {
    let mut missing = missing_with(&RIGHTS);
    if missing.is_empty() {
        missing.extend(missing_namespaces());
    }
    missing
}

/// The same for who has a door already, and enters no namespace.
#[must_use]
pub fn preflight_with_door() -> Vec<Missing> {
    missing_with(&[("CAP_NET_ADMIN", CAP_NET_ADMIN)])
}

fn missing_with(wanted: &[(&str, u32)]) -> Vec<Missing> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let mut missing = missing_capabilities(&status, wanted);
    missing.extend(missing_tun(File::options().read(true).write(true).open(TUN).err().as_ref()));
    missing
}

fn missing_capabilities(status: &str, wanted: &[(&str, u32)]) -> Vec<Missing> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0);
    let lacks = |&&(_, bit): &&(&str, u32)| effective & (1 << bit) == 0;
    let lacking = wanted.iter().filter(lacks).map(|(name, _)| Missing {
        what: format!("the capability {name} is missing"),
        remedy: format!("run as root, or in a container with `--cap-add {}`", &name[4..]),
    });
    lacking.collect()
}

fn missing_tun(refused: Option<&io::Error>) -> Option<Missing> {
    let error = refused?;
    let (what, remedy) = match error.kind() {
        io::ErrorKind::NotFound => (
            format!("{TUN} is not there"),
            format!("load the driver with `modprobe tun`; in a container add `--device {TUN}`"),
        ),
        io::ErrorKind::PermissionDenied => (
            format!("{TUN} may not be opened"),
            format!("run as root; in a container add `--device {TUN}` rather than a bind mount"),
        ),
        _ => (
            format!("{TUN} cannot be opened ({error})"),
            "load the driver with `modprobe tun`; if that fails the kernel was built without CONFIG_TUN".to_owned(),
        ),
    };
    Some(Missing { what, remedy })
}

fn missing_namespaces() -> Option<Missing> {
    let tried = thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join();
    let refused = tried.map_or(Some(nix::Error::EIO), Result::err)?;
    Some(Missing {
        what: format!("network namespaces cannot be made ({refused})"),
        remedy: format!(
            "the kernel needs CONFIG_NET_NS and must show {}; in a container allow unshare(2) with \
             `--security-opt seccomp=unconfined`",
            netns::OWN
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_capability_is_named_with_its_remedy() {
        let wanted = RIGHTS;
        assert_eq!(missing_capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n", &wanted), []);
        let named: Vec<_> =
            missing_capabilities("CapEff:\t0000000000001000\n", &wanted).iter().map(Missing::to_string).collect();
        assert_eq!(
            named,
            ["the capability CAP_SYS_ADMIN is missing: run as root, or in a container with `--cap-add SYS_ADMIN`"]
        );
        assert_eq!(missing_capabilities("", &wanted).len(), 2);
    }

    #[test]
    fn a_missing_device_is_told_from_a_forbidden_one() {
        assert_eq!(missing_tun(None), None);
        let text = |kind: io::ErrorKind| missing_tun(Some(&kind.into())).map(|one| one.to_string()).unwrap();
        assert!(text(io::ErrorKind::NotFound).contains("modprobe tun"));
        assert!(text(io::ErrorKind::PermissionDenied).contains("may not be opened"));
    }
}
