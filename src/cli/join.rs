//! `ripstop join`: this host becomes one of a fabric.

use super::{
    Exit,
    args::enrol::Join,
    init::common,
    output::Output,
    place::{self, Files, Made},
    start,
};
use crate::{
    authority::client::{self, JoinedHost, Joining},
    bundles::{Store, Trust},
};
use anyhow::{Context, anyhow, bail};
use ripstop_config::{Operators, agent::DEFAULT_PORT};
use ripstop_transport::{Identity, enrol::Token, pem};
use serde::Serialize;
use std::{
    fs,
    net::{SocketAddr, ToSocketAddrs},
};
use zeroize::Zeroizing;

#[derive(Serialize)]
struct Outcome {
    fabric: String,
    host: String,
    authority: String,
    policy: Option<String>,
    missing: Option<String>,
    agent: String,
}

/// Joins, writes what came of it, and starts the agent.
pub(super) fn run(join: &Join, output: &Output) -> anyhow::Result<Exit> {
    if join.once && place::is_host(&join.place) {
        output.show(&serde_json::json!({ "joined": false }), || "This host is one of a fabric already.\n".into())?;
        return Ok(Exit::Ok);
    }
    let token = token(join)?;
    let authority = resolve(&join.authority)?;
    let address = join.address.map(|ip| place::own_address(Some(ip))).transpose()?;
    let hostname = match (&join.host, place::hostname()) {
        (Some(host), _) => host.clone(),
        (None, hostname) => hostname?,
    };
    // Before the token is spent.
    let files = Files::prepare(&join.place)?;
    let joining = Joining { host: join.host.clone(), hostname, address, port: DEFAULT_PORT };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("failed to start")?;
    let joined = runtime.block_on(client::join(authority, &token, joining))?;
    let mut made = Made::default();
    let policy = write(&joined, authority, &files, &mut made)
        .context("the token is spent, but what it gave cannot be used; make another token for the next attempt")?;
    made.keep();
    let started = start::start(&files.settings, &files.state, join.place.start)?;
    let welcome = &joined.welcome;
    let outcome = Outcome {
        fabric: welcome.fabric.to_string(),
        host: welcome.host.to_string(),
        authority: joined.authority.to_string(),
        policy,
        missing: welcome.missing.clone(),
        agent: started.to_string(),
    };
    output.show(&outcome, || text(&outcome))?;
    Ok(Exit::Ok)
}

fn token(join: &Join) -> anyhow::Result<Token> {
    let text = match (&join.token, &join.token_file) {
        (Some(token), _) => Zeroizing::new(token.clone()),
        (None, Some(file)) => Zeroizing::new(
            fs::read_to_string(file).with_context(|| format!("cannot read the token in {}", file.display()))?,
        ),
        (None, None) => bail!("there is no token: give one with --token or --token-file"),
    };
    Ok(text.trim().parse()?)
}

fn text(outcome: &Outcome) -> String {
    let missing = outcome.missing.as_ref().map(|missing| format!("Still missing: {missing}\n")).unwrap_or_default();
    format!("This host is {} of the fabric {}. {}\n{missing}", outcome.host, outcome.fabric, outcome.agent)
}

fn resolve(text: &str) -> anyhow::Result<SocketAddr> {
    let with_port = if text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        text.to_owned()
    } else {
        format!("{text}:{DEFAULT_PORT}")
    };
    let mut found =
        with_port.to_socket_addrs().with_context(|| format!("`{text}` is not where an authority can be"))?;
    found.next().ok_or_else(|| anyhow!("`{text}` has no address"))
}

/// Checks what the authority gave, and writes it; returns the version of the policy that came with it.
fn write(joined: &JoinedHost, authority: SocketAddr, files: &Files, made: &mut Made) -> anyhow::Result<Option<String>> {
    let welcome = &joined.welcome;
    let identity = pem::joined(&welcome.certificate, &joined.request.key_pem);
    made.file(&files.identity, &identity, 0o600)?;
    made.file(&files.ca, &welcome.ca, 0o644)?;
    let loaded = Identity::load(&files.identity, &files.identity, &files.ca)?;
    if (loaded.host(), loaded.fabric()) != (&welcome.host, &welcome.fabric) {
        bail!("the certificate is of `{}` of `{}`", loaded.host(), loaded.fabric());
    }
    let operators = Operators::parse("operators.yaml", &welcome.operators);
    let operators = operators.map_err(|mistakes| anyhow!("the file of operators is no good: {mistakes}"))?;
    made.file(&files.operators, &welcome.operators, 0o644)?;
    made.and(&files.state.join("policy"));
    let trust = Trust { fabric: welcome.fabric.clone(), operators };
    let mut version = None;
    if !welcome.bundle.is_empty() {
        let bundle = trust.open(&welcome.bundle).context("the policy is no good")?;
        Store::open(&files.state, &trust)?.store.keep(&bundle)?;
        version = Some(bundle.version().to_string());
    }
    let renew = format!(
        "renew: {{ host: {}, address: \"{authority}\" }}   # where the certificate is renewed\n",
        joined.authority
    );
    made.file(&files.settings, &(common(&welcome.host, files)? + &renew), 0o644)?;
    Ok(version)
}
