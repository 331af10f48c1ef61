//! The decision: every rule over the whole target, and over each generation that an upgrade superseded not long ago.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use dm_core::{BackupId, BackupKind};

use super::calendar::{Bucket, cutoff};
use super::{Candidate, KeepReason, KeepRules, Soundness, Verdict};

/// Decides on every candidate of one target. Verdicts come in order, newest first.
///
/// `list_is_complete` is false when some backup of the target could not be read: then nobody knows what it references,
/// and everything stays.
#[must_use]
pub fn decide(
    candidates: &[Candidate],
    rules: &KeepRules,
    now: DateTime<Utc>,
    zone: Tz,
    list_is_complete: bool,
) -> Vec<Verdict> {
    let newest_first = newest_first(candidates);
    let mut reasons: HashMap<BackupId, Vec<KeepReason>> = HashMap::new();
    let mut keep = |id: BackupId, reason: KeepReason| {
        let of = reasons.entry(id).or_default();
        if !of.contains(&reason) {
            of.push(reason);
        }
    };

    let (judged, future): (Vec<&Candidate>, Vec<&Candidate>) =
        newest_first.iter().copied().partition(|c| c.at <= now);
    for candidate in future {
        keep(candidate.id, KeepReason::FutureDated);
    }
    for candidate in &newest_first {
        if candidate.pinned {
            keep(candidate.id, KeepReason::Pinned);
        }
        if let Some(reason) = &candidate.held {
            keep(candidate.id, KeepReason::Held { reason: reason.clone() });
        }
        if !list_is_complete {
            keep(candidate.id, KeepReason::ListIncomplete);
        }
    }

    apply_rules(&judged, rules, zone, &mut keep);
    let mut generations: BTreeMap<&str, Vec<&Candidate>> = BTreeMap::new();
    for candidate in &judged {
        generations.entry(&candidate.generation).or_default().push(candidate);
    }
    if let (Some(period), Some(newest)) = (rules.superseded_within, newest_instant(&judged)) {
        let alive_since = cutoff(newest, period, zone);
        for generation in generations.values() {
            if generations.len() > 1 && newest_instant(generation).is_some_and(|at| at >= alive_since) {
                apply_rules(generation, rules, zone, &mut keep);
            }
        }
    }

    close_references(&newest_first, &mut reasons);
    newest_first
        .iter()
        .map(|c| {
            let mut verdict = Verdict {
                id: c.id,
                kept_because: reasons.remove(&c.id).unwrap_or_default(),
                pinned_bytes: 0,
            };
            if verdict.is_kept_by_reference_only() {
                verdict.pinned_bytes = c.stored_bytes;
            }
            verdict
        })
        .collect()
}

/// The candidates, newest first: by the moment that they show, but a backup is always newer than what it
/// references (which stays with it, so that the order outlives every deletion), and an id decides between equals.
fn newest_first(candidates: &[Candidate]) -> Vec<&Candidate> {
    let by_id: HashMap<BackupId, &Candidate> = candidates.iter().map(|c| (c.id, c)).collect();
    let mut ranks: HashMap<BackupId, (DateTime<Utc>, usize)> = HashMap::new();
    for candidate in candidates {
        rank(candidate, &by_id, &mut ranks, &mut BTreeSet::new());
    }
    let mut order: Vec<&Candidate> = by_id.values().copied().collect();
    order.sort_by_key(|c| std::cmp::Reverse((ranks.get(&c.id).copied(), c.id)));
    order
}

/// Moment and depth by which a candidate is ordered: at least those of what it references. A cycle, which no
/// honest repository has, ends at the second visit.
fn rank(
    candidate: &Candidate,
    by_id: &HashMap<BackupId, &Candidate>,
    ranks: &mut HashMap<BackupId, (DateTime<Utc>, usize)>,
    visiting: &mut BTreeSet<BackupId>,
) -> (DateTime<Utc>, usize) {
    if let Some(known) = ranks.get(&candidate.id) {
        return *known;
    }
    let mut best = (candidate.at, 0);
    if visiting.insert(candidate.id) {
        for reference in candidate.references.iter().filter_map(|id| by_id.get(id)) {
            let (at, depth) = rank(reference, by_id, ranks, visiting);
            best = best.max((at, depth + 1));
        }
    }
    ranks.insert(candidate.id, best);
    best
}

fn newest_instant(candidates: &[&Candidate]) -> Option<DateTime<Utc>> {
    candidates.iter().map(|c| c.at).max()
}

/// Every rule, over candidates that are newest first and not dated in the future.
fn apply_rules(
    candidates: &[&Candidate],
    rules: &KeepRules,
    zone: Tz,
    keep: &mut impl FnMut(BackupId, KeepReason),
) {
    // Ages count from the newest backup: it is never later than now, and always kept, so nothing expires
    // merely because time (or a clock) went on.
    let Some(anchor) = newest_instant(candidates) else { return };
    // Newest by descent and newest by date are the same unless a clock was set back meanwhile.
    for newest in candidates.iter().take(1).chain(candidates.iter().filter(|c| c.at == anchor).take(1)) {
        keep(newest.id, KeepReason::Newest);
    }
    if let Some(sound) = candidates.iter().find(|c| c.soundness != Soundness::Damaged) {
        keep(sound.id, KeepReason::Newest);
    }

    let full: Vec<&Candidate> = candidates.iter().copied().filter(|c| c.kind == BackupKind::Full).collect();
    minimum(&full, rules.min_verified_full, keep);
    last(&full, rules.last, keep);
    buckets(&full, rules.daily, Bucket::Day, zone, |day| KeepReason::Daily { day }, keep);
    buckets(&full, rules.weekly, Bucket::Week, zone, |week| KeepReason::Weekly { week }, keep);
    buckets(&full, rules.monthly, Bucket::Month, zone, |month| KeepReason::Monthly { month }, keep);
    buckets(&full, rules.yearly, Bucket::Year, zone, |year| KeepReason::Yearly { year }, keep);

    for candidate in candidates {
        let rule = if candidate.kind == BackupKind::Full { rules.within } else { rules.incremental_within };
        if let Some(period) = rule
            && candidate.at >= cutoff(anchor, period, zone)
        {
            keep(candidate.id, KeepReason::Within { period });
        }
    }
}

/// The newest verified full ones; the newest unverified ones make up for those that are missing.
fn minimum(full: &[&Candidate], least: u32, keep: &mut impl FnMut(BackupId, KeepReason)) {
    let least = least as usize;
    let of = |soundness| full.iter().filter(move |c| c.soundness == soundness);
    let verified = of(Soundness::Verified).count().min(least);
    let unverified = of(Soundness::Unverified).count().min(least - verified);
    let damaged = least - verified - unverified;
    for (soundness, number) in [
        (Soundness::Verified, verified),
        (Soundness::Unverified, unverified),
        // Better a damaged backup than none: parts of it may be all that is left.
        (Soundness::Damaged, damaged),
    ] {
        for candidate in of(soundness).take(number) {
            keep(candidate.id, KeepReason::Minimum);
        }
    }
}

/// The newest ones. A damaged one among them stays but takes nobody's place.
fn last(full: &[&Candidate], number: u32, keep: &mut impl FnMut(BackupId, KeepReason)) {
    let mut rank = 0;
    for candidate in full {
        if rank == number {
            break;
        }
        if candidate.soundness == Soundness::Damaged {
            keep(candidate.id, KeepReason::Last { rank: rank + 1 });
        } else {
            rank += 1;
            keep(candidate.id, KeepReason::Last { rank });
        }
    }
}

/// The newest undamaged one of each of the newest `number` buckets that have one. Where a bucket has only damaged ones, its
/// newest stays without counting.
fn buckets(
    full: &[&Candidate],
    number: u32,
    bucket: Bucket,
    zone: Tz,
    reason: impl Fn(String) -> KeepReason,
    keep: &mut impl FnMut(BackupId, KeepReason),
) {
    // Names of buckets sort as the calendar does, while candidates may stand out of its order (a clock that
    // was set back between a backup and its child).
    let mut best: BTreeMap<String, &Candidate> = BTreeMap::new();
    for candidate in full {
        best.entry(bucket.of(candidate.at, zone))
            .and_modify(|chosen| {
                if chosen.soundness == Soundness::Damaged && candidate.soundness != Soundness::Damaged {
                    *chosen = candidate;
                }
            })
            .or_insert(candidate);
    }
    let mut counted = 0;
    for (name, candidate) in best.into_iter().rev() {
        if counted == number {
            break;
        }
        if candidate.soundness != Soundness::Damaged {
            counted += 1;
        }
        keep(candidate.id, reason(name));
    }
}

/// Keeps what a kept one references, to the end. Newest first is a good order: a backup stands before everything that it
/// references, so one pass would do; the outer loop makes it true for any input.
fn close_references(newest_first: &[&Candidate], reasons: &mut HashMap<BackupId, Vec<KeepReason>>) {
    loop {
        let mut grew = false;
        for candidate in newest_first {
            if !reasons.contains_key(&candidate.id) {
                continue;
            }
            for reference in candidate.references.iter().filter(|id| **id != candidate.id) {
                let of = reasons.entry(*reference).or_default();
                if !of.iter().any(|r| matches!(r, KeepReason::ReferencedBy { .. })) {
                    grew |= of.is_empty();
                    of.push(KeepReason::ReferencedBy { backup: candidate.id });
                }
            }
        }
        if !grew {
            return;
        }
    }
}
