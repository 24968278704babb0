//! Capabilities (capabilities(7)).

use anyhow::Context as _;
use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;

/// Keeps only these of the capabilities that the calling thread has, and lets it gain none by running a program.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn keep(wanted: impl IntoIterator<Item = Capability>) -> anyhow::Result<()> {
    let held = caps::read(None, CapSet::Permitted).context("failed to read the agent's capabilities")?;
    let kept: CapsHashSet = wanted.into_iter().filter(|one| held.contains(one)).collect();
    drop_all_but(&kept).context("failed to drop capabilities")
}

fn drop_all_but(kept: &CapsHashSet) -> anyhow::Result<()> {
    prctl::set_no_new_privs()?;
    // Without CAP_SETPCAP, as a service manager may have it, the bounding set cannot be changed. Nothing comes of what is in
    // it: with no_new_privs no program that is run brings it back.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
        for surplus in caps::read(None, CapSet::Bounding)?.difference(kept) {
            caps::drop(None, CapSet::Bounding, *surplus)?;
        }
    }
    caps::clear(None, CapSet::Ambient)?;
    let none = CapsHashSet::new();
    for (set, wanted) in [(CapSet::Inheritable, &none), (CapSet::Effective, kept), (CapSet::Permitted, kept)] {
        // A service manager that has given no more may have forbidden the call as well.
        if caps::read(None, set)? != *wanted {
            caps::set(None, set, wanted)?;
        }
    }
    Ok(())
}
