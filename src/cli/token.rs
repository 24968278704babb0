//! `ripstop token`: what lets hosts join.

use super::{
    Exit,
    args::enrol::{TokenCreate, TokenList, TokenRevoke},
    output::{self, Output},
    socket,
};
use crate::admin::TokenStatus;
use anyhow::{Context as _, bail};
use comfy_table::Cell;
use ripstop_transport::enrol::TokenId;

/// Makes a token and shows it, this once.
pub(super) fn create(create: &TokenCreate, output: &Output) -> anyhow::Result<Exit> {
    let made = socket::one(&create.socket)?.create_token(&create.hosts, create.expires.duration())?;
    output.show(&made, || {
        format!(
            "One host, {}, can join within {}, with this command there:\n  {}\n",
            named(create.hosts.to_string()),
            create.expires,
            made.command()
        )
    })?;
    Ok(Exit::Ok)
}

/// Lists the tokens.
pub(super) fn list(list: &TokenList, output: &Output) -> anyhow::Result<Exit> {
    let tokens = socket::one(&list.socket)?.tokens()?;
    output.show_list("tokens", &tokens, || table(&tokens, output))?;
    Ok(Exit::Ok)
}

/// Makes a token good for nothing.
pub(super) fn revoke(revoke: &TokenRevoke, output: &Output) -> anyhow::Result<Exit> {
    // What is no name may be a token itself, and is not repeated.
    let id: TokenId =
        revoke.id.parse().context("that is no token's name; `ripstop token list` shows those there are")?;
    if !socket::one(&revoke.socket)?.revoke_token(id)? {
        bail!("there is no token {id}; `ripstop token list` shows those there are");
    }
    output.show(&serde_json::json!({ "revoked": id }), || format!("The token {id} is good for nothing now.\n"))?;
    Ok(Exit::Ok)
}

fn named(hosts: String) -> String {
    if hosts == "*" { "whatever it is called".into() } else { hosts }
}

fn table(tokens: &[TokenStatus], output: &Output) -> String {
    if tokens.is_empty() {
        return "no tokens\n".into();
    }
    let mut table = output.table(&["TOKEN", "FOR", "STATE", "EXPIRES"]);
    for token in tokens {
        table.add_row(vec![
            Cell::new(token.id),
            Cell::new(&token.hosts),
            Cell::new(&token.state),
            Cell::new(&token.expires),
        ]);
    }
    output::lines(&table)
}
