//! `ripstop init`: a fabric, and its first host.

use super::{
    Exit,
    args::enrol::Init,
    output::Output,
    place::{self, Files, Made},
    start,
};
use crate::{
    admin::NewToken,
    authority::{Authority, CA_CERTIFICATE, CA_KEY, HostPattern},
    bundles::{self, Store, Trust},
};
use anyhow::Context;
use ripstop_config::{HostName, Operators, PolicyVersion, agent::CERTIFICATES};
use ripstop_policy::Content;
use ripstop_transport::{
    pem,
    pki::{self, Request},
    signing::SigningKey,
};
use serde::Serialize;
use std::{net::SocketAddr, time::Duration};

/// The name of the operator whose key is made.
const OPERATOR: &str = "operator";
/// How long the first token is good.
const FIRST_TOKEN: Duration = Duration::from_secs(60 * 60);
/// The name by which messages speak of a graph that is no file yet.
pub(super) const GRAPH: &str = "graph.yaml";

#[derive(Serialize)]
struct Outcome {
    fabric: String,
    host: HostName,
    address: SocketAddr,
    join: String,
    agent: String,
}

/// Makes everything, or nothing.
pub(super) fn run(init: &Init, output: &Output) -> anyhow::Result<Exit> {
    let host = init.host.clone().map_or_else(place::hostname, Ok)?;
    let address = place::own_address(init.address)?;
    let files = Files::prepare(&init.place)?;
    let mut made = Made::default();
    let token = make(init, &host, address, &files, &mut made)?;
    made.keep();
    // As it was wanted here, it will be there.
    let join = token.command() + if init.place.start { " --start" } else { "" };
    let started = start::start(&files.settings, &files.state, init.place.start)?;
    let outcome = Outcome { fabric: init.fabric.to_string(), host, address, join, agent: started.to_string() };
    output.show(&outcome, || text(&outcome, &files))?;
    Ok(Exit::Ok)
}

fn text(outcome: &Outcome, files: &Files) -> String {
    let Outcome { fabric, host, address, join, agent } = outcome;
    format!(
        "The fabric {fabric} is made, and this host is its first: {host} at {}. {agent}\n\
         Keep a copy of its authority, {}, and of its operator's key, {}, in a safe place.\n\n\
         For one more host, run there within an hour:\n  {join}\n",
        address.ip(),
        files.authority.display(),
        files.operator.display()
    )
}

fn make(init: &Init, host: &HostName, address: SocketAddr, files: &Files, made: &mut Made) -> anyhow::Result<NewToken> {
    let authority = authority(init, files, made)?;
    let request = Request::new(host)?;
    let granted = authority.issue_own(host, &request.der)?;
    let identity = pem::joined(&granted.certificate_pem, &request.key_pem);
    made.file(&files.identity, &identity, 0o600)?;
    made.file(&files.ca, authority.ca().certificate_pem(), 0o644)?;
    let (key, pem) = SigningKey::generate()?;
    made.file(&files.operator, &pem, 0o600)?;
    let operators = Operators::of(1, [(OPERATOR.parse()?, key.public())].into());
    made.file(&files.operators, &operators.to_string(), 0o644)?;
    made.and(&files.state.join("policy"));
    let trust = Trust { fabric: init.fabric.clone(), operators };
    first_policy(init, host, address, files, &trust, &key)?;
    made.file(&files.settings, &settings(init, host, files)?, 0o644)?;
    let token = authority.create_token("*".parse::<HostPattern>()?, FIRST_TOKEN)?;
    Ok(NewToken { id: token.id, token: token.reveal(), authority: address.to_string() })
}

fn authority(init: &Init, files: &Files, made: &mut Made) -> anyhow::Result<Authority> {
    let ca = pki::Authority::create(&init.fabric).context("failed to make the authority")?.to_pem();
    made.directory(&files.authority)?;
    made.file(&files.authority.join(CA_KEY), &ca.key_pem, 0o600)?;
    made.file(&files.authority.join(CA_CERTIFICATE), &ca.certificate_pem, 0o644)?;
    Ok(Authority::open(&files.authority, init.certificates.duration())?)
}

/// A graph of this host alone, signed: it allows nothing.
fn first_policy(
    init: &Init,
    host: &HostName,
    address: SocketAddr,
    files: &Files,
    trust: &Trust,
    key: &SigningKey,
) -> anyhow::Result<()> {
    let address = match address {
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("'{}'", v6.ip()),
    };
    let graph = format!(
        "# Who may connect to what in {fabric}. Everything else is refused.\nfabric: {fabric}\nhosts:\n  {host}: {{ address: {address} }}\ntenants:\n",
        fabric = init.fabric,
    );
    let content =
        Content { file: GRAPH.into(), graph, note: format!("{host} is the first host"), ..Content::default() };
    let version = PolicyVersion::UNSIGNED.next().context("there is no first version")?;
    let envelope = bundles::seal(&init.fabric, version, None, content, std::slice::from_ref(key))?;
    let bundle = trust.open(&envelope.encode())?;
    Store::open(&files.state, trust)?.store.keep(&bundle)?;
    Ok(())
}

fn settings(init: &Init, host: &HostName, files: &Files) -> anyhow::Result<String> {
    let certificates = match init.certificates.duration() == CERTIFICATES {
        true => String::new(),
        false => format!(", certificates: {}", init.certificates),
    };
    let authority = place::quoted(&files.authority)?;
    Ok(format!(
        "{}# Hosts join and renew their certificates here, and those that join are put into the graph with this key.\nauthority: {{ directory: {authority}, operator: operator.key{certificates} }}\n",
        common(host, files)?
    ))
}

/// The settings that every host of a fabric with signed policies has.
pub(super) fn common(host: &HostName, files: &Files) -> anyhow::Result<String> {
    let identity = place::quoted(&files.identity)?;
    Ok(format!(
        "# The agent of this host; what else can be said is in packaging/agent.yaml.\nhost: {host}\ntrust: operators.yaml   # whose signature makes a policy\nstate: {}\nidentity: {{ certificate: {identity}, key: {identity}, ca: ca.pem }}\n",
        place::quoted(&files.state)?
    ))
}
