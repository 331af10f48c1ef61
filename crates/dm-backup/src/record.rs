//! What the repository's records of a backup mean to the rest of this crate.

use dm_core::{BackupId, Level, TargetName};
use dm_repository::{BackupHeader, Listing};

use crate::keep::{Candidate, Soundness};

/// What the verifications say. Only having read every stored byte, at once or in samples, proves anything good; any of them
/// may prove something bad.
pub(crate) fn soundness(listing: &Listing, id: BackupId) -> Soundness {
    match listing.verified.get(&id) {
        Some(v) if !v.ok => Soundness::Damaged,
        Some(v) if v.proven_at().is_some() => Soundness::Verified,
        _ => Soundness::Unverified,
    }
}

/// Whether it is marked for deletion: no longer a backup, only objects that wait for a sweep.
pub(crate) fn is_marked(listing: &Listing, header: &BackupHeader) -> bool {
    listing.tombstoned.contains(&header.id)
}

/// Whether somebody pinned it.
pub(crate) fn pinned(listing: &Listing, id: BackupId) -> bool {
    listing.pins.get(&id).is_some_and(|p| p.pinned)
}

/// Why it is held, in words.
pub(crate) fn held(listing: &Listing, id: BackupId) -> Option<String> {
    let holds: Vec<String> =
        listing.holds.get(&id)?.iter().map(|hold| format!("{}: {}", hold.name, hold.reason)).collect();
    (!holds.is_empty()).then(|| holds.join("; "))
}

/// What an upgrade or a new cluster changes: backups of one generation are of one database.
pub(crate) fn generation(header: &BackupHeader) -> String {
    format!(
        "{} {} {} {}",
        header.engine,
        header.engine_version.major,
        header.mode,
        header.system_identifier.as_deref().unwrap_or("-")
    )
}

/// The complete backups of a target as the keep-rules see them.
pub(crate) fn candidates(listing: &Listing, target: &TargetName) -> Vec<Candidate> {
    of_target(listing, target)
        .map(|header| Candidate {
            id: header.id,
            kind: header.judged_kind(),
            at: header.consistency.at,
            references: header.references.clone(),
            generation: generation(header),
            soundness: soundness(listing, header.id),
            pinned: pinned(listing, header.id),
            held: held(listing, header.id),
            stored_bytes: header.sizes.stored,
        })
        .collect()
}

/// The complete backups of a target, oldest first, without those that are being deleted.
pub(crate) fn of_target<'a>(
    listing: &'a Listing,
    target: &'a TargetName,
) -> impl DoubleEndedIterator<Item = &'a BackupHeader> {
    listing.backups.iter().filter(move |h| h.target == *target && !is_marked(listing, h))
}

/// Whether the listing is known to be whole. What could not be read may reference anything.
pub(crate) fn is_complete(listing: &Listing) -> bool {
    listing.problems.iter().all(|p| p.level < Level::Error)
}
