//! `admin:` of `agent.yaml`: who besides root may ask the agent.

use crate::{
    agent::{Admin, Principal},
    yaml::{Node, Report, Shape},
};

const ADMIN: Shape = Shape { what: "`admin`", keys: &["read", "change"], later: &[] };

/// Users and groups of each list at most; more are a group.
const PRINCIPALS_MAX: usize = 64;

pub(super) fn admin(node: &Node, report: &mut Report<'_>) -> Option<Admin> {
    let fields = ADMIN.read(node, node.mark, report)?;
    let read = fields.optional("read", |node| principals(node, report))?;
    let change = fields.optional("change", |node| principals(node, report))?;
    Some(Admin { read: read.unwrap_or_default(), change: change.unwrap_or_default() })
}

fn principals(node: &Node, report: &mut Report<'_>) -> Option<Vec<Principal>> {
    let items = node.items("a list of users and groups", report);
    if items.len() > PRINCIPALS_MAX {
        let message = format!("{} users and groups, at most {PRINCIPALS_MAX} can be named", items.len());
        report.hinted(node.mark, message, "make them a group, and name that as `\"%GROUP\"`");
        return None;
    }
    items.into_iter().map(|item| principal(item, report)).collect()
}

fn principal(node: &Node, report: &mut Report<'_>) -> Option<Principal> {
    let text = node.text("a user, or a group as `\"%GROUP\"`", report)?;
    let principal = Principal::parse(text);
    if principal.is_none() {
        let hint = "write a user's name or number, or `\"%GROUP\"` with a group's";
        report.hinted(node.mark, format!("`{text}` is neither a user nor a group"), hint);
    }
    principal
}
