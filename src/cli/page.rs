//! `ripstop page`: a link by which a browser sees the page.

use super::{Exit, args, output::Output, socket};

/// Asks the agent for one.
pub(super) fn run(page: &args::Page, output: &Output) -> anyhow::Result<Exit> {
    let link = socket::one(&page.socket)?.page()?;
    output.show(&link, || format!("{}\n", link.url))?;
    Ok(Exit::Ok)
}
