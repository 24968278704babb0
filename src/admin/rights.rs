//! Who may ask the agent, and for what: to read and to change are two rights.
//!
//! The kernel says which user is at the other end of the socket (`SO_PEERCRED`, unix(7)). Root and the agent's own user have
//! both rights, others those that `admin:` of the settings gives to them or to a group of theirs. Reading is what `GET` does;
//! everything else changes something, but for a link to the page.
//!
//! Whom nothing is given cannot reach the socket at all as long as nobody is named: it has mode 0600 then.

use super::server::refuse;
use axum::{
    Extension, Router,
    extract::{Request, State},
    http::{Method, StatusCode},
    middleware::{self, Next},
    response::Response,
};
use ripstop_config::agent::{Admin, Principal};
use ripstop_transport::Sparing;
use std::{fs, path::PathBuf, sync::Arc, time::Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Users and groups; read directly, as a static binary cannot load the C library's name services.
const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
/// Connections at once of users who may not change anything, less than the server's limit: they cannot keep out those who may.
const OTHERS_MAX: usize = 32;

/// A link to look at the page with is for who may look. It is no `GET`, as it is good once.
const PAGE: &str = "/v1/page";

/// What a user may do. Each includes those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Right {
    Nothing,
    Read,
    Change,
}

/// The user who makes a request, as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asker(pub(super) u32);

/// Who has which right.
#[derive(Debug, Clone)]
pub struct Rights {
    admin: Admin,
    own: u32,
    passwd: PathBuf,
    group: PathBuf,
    others: Arc<Semaphore>,
    /// For the log, which any user of the host could fill. What those who read are refused is not drowned by those who may nothing.
    turned_away: Arc<Sparing>,
    refused: Arc<Sparing>,
}

impl Rights {
    /// Those of the settings, besides root and the user of this number.
    #[must_use]
    pub fn new(admin: Admin, own: u32) -> Self {
        let others = Arc::new(Semaphore::new(OTHERS_MAX));
        Self {
            admin,
            own,
            passwd: PASSWD.into(),
            group: GROUP.into(),
            others,
            turned_away: Arc::default(),
            refused: Arc::default(),
        }
    }

    /// The socket's mode, and that of its directory, in which nothing else can be opened by others.
    pub(super) fn modes(&self) -> (u32, u32) {
        if self.admin == Admin::default() { (0o600, 0o700) } else { (0o666, 0o711) }
    }

    /// What a user may do.
    pub(super) fn of(&self, uid: u32) -> Right {
        let is_one_of = |named: &[Principal]| !named.is_empty() && Names::of(self, uid).is_one_of(named);
        if uid == 0 || uid == self.own || is_one_of(&self.admin.change) {
            Right::Change
        } else if is_one_of(&self.admin.read) {
            Right::Read
        } else {
            Right::Nothing
        }
    }

    /// The requests of `whole` that a user may make, and a place among those who may not change anything, for who is one;
    /// none when there are too many of them.
    pub(super) fn admit(&self, whole: &Router, uid: u32) -> Option<(Router, Option<OwnedSemaphorePermit>)> {
        let place = || Arc::clone(&self.others).try_acquire_owned().ok().map(Some);
        match self.of(uid) {
            Right::Change => Some((whole.clone().layer(Extension(Asker(uid))), None)),
            Right::Read => Some((self.readable(whole, uid), place()?)),
            Right::Nothing => {
                if let Some(left_out) = self.turned_away.due(Instant::now()) {
                    tracing::warn!(uid, left_out, "a user who may not ask this agent was turned away");
                }
                let denied = format!(
                    "user {uid} may not ask this agent: neither `admin.read` nor `admin.change` of its settings names them"
                );
                let answer = move || std::future::ready(refuse(StatusCode::FORBIDDEN, &denied));
                Some((Router::new().fallback(answer), place()?))
            }
        }
    }

    fn readable(&self, whole: &Router, uid: u32) -> Router {
        whole.clone().layer(middleware::from_fn_with_state((uid, Arc::clone(&self.refused)), only_read))
    }
}

type Reader = (u32, Arc<Sparing>);

async fn only_read(State((uid, refused)): State<Reader>, request: Request, next: Next) -> Response {
    let reads = request.method() == Method::GET || request.uri().path() == PAGE;
    if reads {
        return next.run(request).await;
    }
    if let Some(left_out) = refused.due(Instant::now()) {
        let (method, path) = (request.method(), request.uri().path());
        tracing::warn!(uid, %method, path, left_out, "a user who may only read was refused");
    }
    let denied = format!(
        "user {uid} may ask this agent, but not have it change anything: `admin.change` of its settings does not name them"
    );
    refuse(StatusCode::FORBIDDEN, &denied)
}

/// What passwd(5) and group(5) say of a user.
struct Names {
    uid: u32,
    names: Vec<String>,
    groups: Vec<(String, u32)>,
}

impl Names {
    fn of(rights: &Rights, uid: u32) -> Self {
        let passwd = fs::read_to_string(&rights.passwd).unwrap_or_default();
        let own = passwd.lines().filter_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            let [name, _, id, group, ..] = fields[..] else { return None };
            (id.parse() == Ok(uid)).then_some((name.to_owned(), group.parse::<u32>().ok()))
        });
        let (names, primary): (Vec<_>, Vec<_>) = own.unzip();
        let group = fs::read_to_string(&rights.group).unwrap_or_default();
        let groups = group.lines().filter_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            let [name, _, id, members] = fields[..] else { return None };
            let id = id.parse().ok()?;
            let is_member = members.split(',').any(|member| names.iter().any(|name| name == member));
            (is_member || primary.contains(&Some(id))).then_some((name.to_owned(), id))
        });
        let groups = groups.collect();
        Self { uid, names, groups }
    }

    fn is_one_of(&self, named: &[Principal]) -> bool {
        named.iter().any(|principal| match principal {
            Principal::Uid(uid) => *uid == self.uid,
            Principal::User(name) => self.names.contains(name),
            Principal::Gid(id) => self.groups.iter().any(|(_, own)| own == id),
            Principal::Group(name) => self.groups.iter().any(|(own, _)| own == name),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(read: &[&str], change: &[&str]) -> (tempfile::TempDir, Rights) {
        let directory = tempfile::tempdir().unwrap();
        let principals = |all: &[&str]| all.iter().map(|one| Principal::parse(one).unwrap()).collect();
        let admin = Admin { read: principals(read), change: principals(change) };
        let rights = Rights {
            passwd: directory.path().join("passwd"),
            group: directory.path().join("group"),
            ..Rights::new(admin, 500)
        };
        let passwd = "root:x:0:0::/:/bin/sh\nalice:x:1001:27::/:/bin/sh\nbob:x:1002:1002::/:/bin/sh\nnot a line\n";
        fs::write(&rights.passwd, passwd).unwrap();
        fs::write(&rights.group, "root:x:0:\nsudo:x:27:\nadm:x:4:syslog,bob\nempty:x:9:\n").unwrap();
        (directory, rights)
    }

    #[test]
    fn root_and_the_agent_s_own_user_may_all_and_nobody_else_anything() {
        let (_directory, rights) = rights(&[], &[]);
        assert_eq!([0, 500].map(|uid| rights.of(uid)), [Right::Change; 2]);
        assert_eq!([1001, 1002, 65_534, u32::MAX].map(|uid| rights.of(uid)), [Right::Nothing; 4]);
        assert_eq!(rights.modes(), (0o600, 0o700));
    }

    #[test]
    fn who_is_named_has_that_right_by_name_number_or_either_kind_of_membership() {
        for (alice, bob) in [("alice", "bob"), ("1001", "1002"), ("%sudo", "%adm"), ("%27", "%4")] {
            let (_directory, rights) = rights(&[bob], &[alice]);
            assert_eq!([1001, 1002, 1003].map(|uid| rights.of(uid)), [Right::Change, Right::Read, Right::Nothing]);
            assert_eq!(rights.modes(), (0o666, 0o711));
        }
        let (_directory, nobody) = rights(&["carol", "%empty", "%nosuch", "%9"], &["%1"]);
        assert_eq!([1001, 1002].map(|uid| nobody.of(uid)), [Right::Nothing; 2]);
    }

    #[tokio::test]
    async fn those_who_may_change_nothing_cannot_take_all_places() {
        let (_directory, rights) = rights(&["bob"], &[]);
        let whole = Router::new();
        let held: Vec<_> = (0..OTHERS_MAX).map(|n| rights.admit(&whole, if n % 2 == 0 { 1002 } else { 9 })).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(rights.admit(&whole, 1002).is_none() && rights.admit(&whole, 9).is_none());
        assert!(rights.admit(&whole, 0).is_some());
    }
}
