//! `ripstop ca`: the authority's files and those of a host.

use super::{
    Exit, args,
    files::{self, NewFile},
    output,
};
use crate::authority::{CA_CERTIFICATE, CA_KEY, read_secret};
use anyhow::Context;
use ripstop_transport::pki::Authority;
use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Makes an authority.
pub(super) fn init(init: &args::CaInit) -> anyhow::Result<Exit> {
    let authority = Authority::create(&init.fabric).context("failed to make the authority")?;
    let pem = authority.to_pem();
    make_directory(&init.dir)?;
    let (certificate, key) = (init.dir.join(CA_CERTIFICATE), init.dir.join(CA_KEY));
    files::write_new(&[
        NewFile { path: &key, bytes: pem.key_pem.as_bytes(), mode: 0o600 },
        NewFile { path: &certificate, bytes: pem.certificate_pem.as_bytes(), mode: 0o644 },
    ])?;
    output::print(&format!(
        "The authority of the fabric {} is in {}. Whoever has {} can be any host: keep it off the hosts.\n\
         Next, for each host: ripstop ca issue host NAME --dir {}\n",
        init.fabric,
        init.dir.display(),
        key.display(),
        init.dir.display()
    ))?;
    Ok(Exit::Ok)
}

/// Issues a host's certificate.
pub(super) fn issue_host(host: &args::IssueHost) -> anyhow::Result<Exit> {
    let (ca, authority) = open(&host.dir)?;
    let issued = authority.issue_host(&host.name, DAY * host.days).context("failed to issue the certificate")?;
    let out = host.out.clone().unwrap_or_else(|| PathBuf::from(host.name.as_str()));
    make_directory(&out)?;
    let [certificate, key, authority] = ["host.pem", "host.key", CA_CERTIFICATE].map(|name| out.join(name));
    files::write_new(&[
        NewFile { path: &key, bytes: issued.key_pem.as_bytes(), mode: 0o600 },
        NewFile { path: &certificate, bytes: issued.certificate_pem.as_bytes(), mode: 0o644 },
        NewFile { path: &authority, bytes: ca.as_bytes(), mode: 0o644 },
    ])?;
    output::print(&format!(
        "The host {} has its identity in {}: host.pem (good for {} days), host.key and ca.pem.\n\
         Put the three beside agent.yaml on that host, in /etc/ripstop.\n",
        host.name,
        out.display(),
        host.days
    ))?;
    Ok(Exit::Ok)
}

/// The authority's certificate as PEM, and the authority.
fn open(directory: &Path) -> anyhow::Result<(String, Authority)> {
    let hint = || {
        format!(
            "{} holds no authority; make one with `ripstop ca init`, or name another with --dir",
            directory.display()
        )
    };
    let certificate = crate::files::read(&directory.join(CA_CERTIFICATE)).with_context(hint)?;
    let key = read_secret(&directory.join(CA_KEY)).with_context(hint)?;
    let authority = Authority::from_pem(&certificate, &key)
        .with_context(|| format!("{CA_CERTIFICATE} and {CA_KEY} in {} are not an authority", directory.display()))?;
    Ok((certificate, authority))
}

fn make_directory(path: &Path) -> anyhow::Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("cannot make the directory {}", path.display()))
}
