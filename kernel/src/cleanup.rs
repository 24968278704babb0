//! Undoing: from the journal, and by the protocol number that everything of ours carries.
//!
//! 1. Each namespace of the journal is found again by its identity; one that is gone took everything with it.
//! 2. In it: our rules, our interfaces (only TUN devices, only by the journal's names), our routes, the guards.
//! 3. The `resolv.conf` files that were made, and the directories made for them, if nothing else is in them.
//! 4. What was undone is struck out of the journal; what failed stays in it.

use super::{
    Error,
    attach::table_of,
    door::{Doorway, Site},
    guard,
    journal::{Attachment, Journal},
    netlink, resolv,
    route::{self, MAIN},
    sockets,
};
use rtnetlink::{Handle, packet_route::link::InfoKind};
use std::{collections::HashSet, fmt, path::Path};

/// What was undone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Interfaces deleted; one whose process is gone went with it and is not counted.
    pub links: usize,
    /// Rules deleted.
    pub rules: usize,
    /// Routes deleted.
    pub routes: usize,
    /// Guards removed: nf_tables tables of ours.
    pub guards: usize,
    /// Files deleted or put back.
    pub files: usize,
    /// Attachments whose namespace was gone.
    pub gone: usize,
    /// Sockets of the fabric that were ended, so that no program waits for a connection that nobody carries.
    pub sockets: usize,
}

impl Report {
    /// Whether there was anything to undo.
    #[must_use]
    pub fn is_anything(&self) -> bool {
        *self != Self::default()
    }

    fn add(&mut self, other: Self) {
        self.links += other.links;
        self.rules += other.rules;
        self.routes += other.routes;
        self.guards += other.guards;
        self.files += other.files;
        self.gone += other.gone;
        self.sockets += other.sockets;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { links, rules, routes, guards, files, gone, sockets } = self;
        write!(
            f,
            "removed {links} interfaces, {rules} rules, {routes} routes, {guards} guards, {files} files; \
             {gone} namespaces were gone; ended {sockets} sockets"
        )
    }
}

/// Undoes what an agent that was killed left behind in this namespace and those of its workloads. Programs that wait for
/// something of its sessions are told that they are over.
///
/// # Errors
/// [`Error::Locked`] while an agent uses the directory; [`Error::CorruptJournal`] as [`Kernel::open`]; otherwise the
/// first thing the kernel refused, the rest being undone all the same.
///
/// [`Kernel::open`]: super::Kernel::open
pub fn cleanup(run_dir: &Path) -> Result<Report, Error> {
    cleanup_through(run_dir, &Doorway::Here)
}

/// The same, other namespaces being entered by a doorway.
///
/// # Errors
/// As [`cleanup`].
pub fn cleanup_through(run_dir: &Path, doorway: &Doorway) -> Result<Report, Error> {
    let mut journal = Journal::open(run_dir)?;
    let sockets = reset_sockets(doorway, journal.entries());
    let replayed = replay(doorway, &mut journal);
    let files = doorway.restore_host_resolver()?;
    replayed.map(|report| Report { sockets, files: report.files + files, ..report })
}

/// Ends the sockets of the sessions of an agent that was killed, and nothing else: what it left goes on keeping traffic in.
///
/// # Errors
/// [`Error::Locked`] while an agent uses the directory; [`Error::CorruptJournal`] when it is not known where to look.
pub fn reset_sessions(run_dir: &Path, doorway: &Doorway) -> Result<Report, Error> {
    let journal = Journal::open(run_dir)?;
    journal.check()?;
    Ok(Report { sockets: reset_sockets(doorway, journal.entries()), ..Report::default() })
}

/// Ends the sockets of the sessions of these interfaces; says how many. What is not possible is logged: it costs waiting,
/// not safety.
pub(super) fn reset_sockets(doorway: &Doorway, attachments: &[Attachment]) -> usize {
    let mut seen = HashSet::new();
    let namespaces = attachments.iter().filter(|one| !one.fabric.is_empty() && seen.insert(one.id));
    let reset = |attachment: &Attachment| {
        let failed = match Site::find(doorway, attachment.id, attachment.namespace.as_deref()) {
            Ok(None) => return 0,
            Ok(Some(site)) => match sockets::reset(&site, &attachment.fabric) {
                Ok(ended) => return ended,
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        tracing::warn!(link = attachment.link, "programs that wait for a dead session's end wait on: {failed}");
        0
    };
    namespaces.map(reset).sum()
}

/// Undoes all of a journal.
pub(super) fn replay(doorway: &Doorway, journal: &mut Journal) -> Result<Report, Error> {
    let mut report = Report::default();
    let mut failed = purge_corrupt(journal).err();
    for attachment in journal.entries().to_vec() {
        let undone = undo_attachment(doorway, &attachment, true);
        let struck_out = undone.and_then(|one| {
            report.add(one);
            journal.remove(&attachment.link)
        });
        // The first is reported; the batch is finished all the same.
        failed = failed.or(struck_out.err());
    }
    failed.map_or(Ok(report), Err)
}

/// A journal that cannot be read is set aside, and this namespace cleaned of what carries our marks.
///
/// # Errors
/// [`Error::CorruptJournal`] if it was so, or what the kernel refused then.
pub(super) fn purge_corrupt(journal: &mut Journal) -> Result<(), Error> {
    let Some(corrupt) = journal.set_aside() else { return Ok(()) };
    let purged = netlink::run(async |handle: Handle| purge(&handle, &|_| true).await);
    let undone = purged.and_then(|_| guard::remove_all());
    Err(undone.err().unwrap_or(corrupt))
}

/// Undoes one attachment; `standing` says whether to take this host's standing routes too, as with its last `user`
/// interface.
pub(super) fn undo_attachment(doorway: &Doorway, attachment: &Attachment, standing: bool) -> Result<Report, Error> {
    let mut report = Report::default();
    match Site::find(doorway, attachment.id, attachment.namespace.as_deref())? {
        None => report.gone += 1,
        Some(site) => report.add(undo_at(&site, attachment, standing)?),
    }
    report.files += resolv::remove(doorway, attachment)?;
    Ok(report)
}

fn undo_at(site: &Site<'_>, attachment: &Attachment, standing: bool) -> Result<Report, Error> {
    let which = |table: u32| match attachment.slot {
        Some(slot) => table == table_of(slot) || (standing && table == MAIN),
        None => true,
    };
    let mut report = netlink::run_at(site, async |handle: Handle| {
        let links = super::link::delete_link(&handle, &attachment.link, Some(InfoKind::Tun)).await?;
        let mut report = purge(&handle, &which).await?;
        report.links += usize::from(links);
        Ok(report)
    })?;
    // Last of all: it holds while the rest goes.
    if attachment.guarded {
        report.guards += usize::from(guard::remove(site, &attachment.link)?);
    }
    Ok(report)
}

/// Deletes our rules and routes of some tables.
async fn purge(handle: &Handle, which: &(dyn Fn(u32) -> bool + Sync)) -> Result<Report, Error> {
    let rules = route::delete_rules(handle, which).await?;
    let routes = route::delete_routes(handle, which).await?;
    Ok(Report { rules, routes, ..Report::default() })
}
