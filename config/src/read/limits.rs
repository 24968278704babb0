//! `limit:` of an edge, a service, a workload or a tenant.

use crate::{
    ByteRate, OpenRate,
    graph::Limits,
    yaml::{Fields, Node, Report, Shape},
};

const LIMIT: Shape = Shape { what: "`limit`", keys: &["session", "rate", "sessions", "open"], later: &[] };

/// The limits of an entry, none when it has no `limit`; `None` when they are wrong.
pub(super) fn read(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<Limits> {
    let Some(node) = fields.get("limit") else { return Some(Limits::default()) };
    let fields = LIMIT.read(node, node.mark, report)?;
    let session = fields.optional("session", |node| node.parse::<ByteRate>("a rate", report));
    let rate = fields.optional("rate", |node| node.parse::<ByteRate>("a rate", report));
    let sessions = fields.optional("sessions", |node| count(node, report));
    let open = fields.optional("open", |node| node.parse::<OpenRate>("a rate", report));
    Some(Limits { session: session?, rate: rate?, sessions: sessions?, open: open? })
}

fn count(node: &Node, report: &mut Report<'_>) -> Option<u32> {
    let text = node.text("a number", report)?;
    let count = text.parse::<u32>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    if count == Some(0) {
        let hint = "leave the edge out to allow nothing, or the limit for no limit";
        report.hinted(node.mark, "a limit of 0 allows nothing", hint);
        return None;
    }
    if count.is_none() {
        report.error(node.mark, format!("`{text}` is not a number from 1 to {}", u32::MAX));
    }
    count
}
