//! Upgrades, clocks that leap, and days that are no day long, against judges that know nothing of the rules' own code.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::{DateTime, Datelike, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use dm_backup::keep::{Candidate, KeepReason, KeepRules, decide};
use dm_core::{BackupId, Period};
use proptest::prelude::*;

use crate::{full, history, kept, now_of, nows, rules, steps, zones};

/// A moment at which some zone changes its clocks, or a year ends, and hours around it.
fn around_a_change() -> impl Strategy<Value = DateTime<Utc>> {
    let changes = prop::sample::select(vec![
        (2026, 3, 29),  // Berlin, forward
        (2026, 10, 25), // Berlin, back
        (2026, 4, 4),   // Lord Howe, back by half an hour
        (2026, 10, 3),  // Lord Howe, forward
        (2011, 12, 29), // Apia leaves out a day
        (2018, 11, 4),  // Sao Paulo: a midnight that does not exist
        (2018, 2, 18),  // Sao Paulo: a midnight that comes twice
        (2026, 12, 31),
        (2027, 1, 3), // the last day of week 53
    ]);
    (changes, -72i64..72).prop_map(|((y, m, d), hours)| {
        Utc.with_ymd_and_hms(y, m, d, 0, 0, 0).unwrap() + TimeDelta::hours(hours)
    })
}

/// What a rule of calendar buckets should keep: the newest of each of the newest so many.
fn newest_of_each<K: Ord>(
    candidates: &[Candidate],
    number: u32,
    of: impl Fn(DateTime<Utc>) -> K,
) -> HashSet<BackupId> {
    let mut best: BTreeMap<K, &Candidate> = BTreeMap::new();
    for candidate in candidates {
        let slot = best.entry(of(candidate.at)).or_insert(candidate);
        if candidate.at > slot.at {
            *slot = candidate;
        }
    }
    best.into_values().rev().take(number as usize).map(|c| c.id).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever was kept the moment before an upgrade (or a new cluster) is kept behind it, for the configured time.
    #[test]
    fn an_upgrade_deletes_nothing_that_was_kept_before_it(
        mut steps in steps(), mut rules in rules(), zone in zones(), days in 2u32..60,
        after in prop::collection::vec(0i64..24, 1..20)
    ) {
        steps.iter_mut().for_each(|step| step.generation = false);
        let mut candidates = history(&steps);
        rules.superseded_within = Some(Period::days(days));
        let Some(upgraded) = candidates.iter().map(|c| c.at).max() else { return Ok(()) };
        let before = kept(&decide(&candidates, &rules, upgraded, zone, true));
        let mut at = upgraded;
        for hours in after {
            // A day has up to 25 hours: one less than the period is within it in any zone.
            at = (at + TimeDelta::hours(hours)).min(upgraded + TimeDelta::hours(23 * (i64::from(days) - 1)));
            candidates.push(Candidate { generation: "memory 99".into(), ..full(at) });
        }
        let behind = kept(&decide(&candidates, &rules, at, zone, true));
        let lost: Vec<_> = before.difference(&behind).collect();
        prop_assert!(lost.is_empty(), "{lost:?}");
    }

    /// A clock that leapt ahead for one backup and came back: that one stays, and takes nobody's place.
    #[test]
    fn one_backup_of_the_future_changes_nothing_else(
        steps in steps(), rules in rules(), zone in zones(), hours in nows(), ahead in 1i64..1_000_000
    ) {
        let mut candidates = history(&steps);
        let now = now_of(&candidates, hours);
        let before = kept(&decide(&candidates, &rules, now, zone, true));
        let leapt = full(now + TimeDelta::hours(ahead));
        let id = leapt.id;
        candidates.push(leapt);
        let mut behind = kept(&decide(&candidates, &rules, now, zone, true));
        prop_assert!(behind.remove(&id));
        prop_assert_eq!(behind, before);
    }

    /// Each calendar rule alone against a count by hand, around the moments at which clocks are changed.
    #[test]
    fn calendar_rules_count_as_a_person_would(
        start in around_a_change(), gaps in prop::collection::vec(1i64..2000, 1..80),
        zone in zones(), number in 1u32..9
    ) {
        let mut at = start;
        let candidates: Vec<_> = gaps.iter().map(|minutes| {
            at += TimeDelta::minutes(*minutes);
            full(at)
        }).collect();
        let local = |at: DateTime<Utc>| at.with_timezone(&zone).date_naive();
        let nothing = KeepRules::nothing;
        let cases = [
            (
                KeepRules { daily: number, ..nothing() },
                newest_of_each(&candidates, number, local),
            ),
            (
                KeepRules { weekly: number, ..nothing() },
                newest_of_each(&candidates, number, |at| (local(at).iso_week().year(), local(at).iso_week().week())),
            ),
            (
                KeepRules { monthly: number, ..nothing() },
                newest_of_each(&candidates, number, |at| (local(at).year(), local(at).month())),
            ),
            (
                KeepRules { yearly: number, ..nothing() },
                newest_of_each(&candidates, number, |at| local(at).year()),
            ),
        ];
        for (rules, expected) in cases {
            let by_rule: HashSet<BackupId> = decide(&candidates, &rules, at, zone, true)
                .into_iter()
                .filter(|v| v.kept_because.iter().any(|r| !matches!(r, KeepReason::Newest)))
                .map(|v| v.id)
                .collect();
            prop_assert_eq!(by_rule, expected, "{:?}", rules);
        }
    }
}

/// A clock that stands still, or at zero: every backup has one date, and the minimum of verified ones stays all the same.
#[test]
fn without_a_clock_the_minimum_stays() {
    for at in [Utc.timestamp_opt(0, 0).unwrap(), Utc.with_ymd_and_hms(2038, 1, 19, 3, 14, 8).unwrap()] {
        let candidates: Vec<_> = (0..9).map(|_| full(at)).collect();
        let rules = KeepRules { daily: 7, min_verified_full: 3, ..KeepRules::nothing() };
        let verdicts = decide(&candidates, &rules, at, Tz::UTC, true);
        assert_eq!(kept(&verdicts).len(), 3);
        // The same whichever way the list comes.
        let backwards: Vec<_> = candidates.iter().rev().cloned().collect();
        assert_eq!(kept(&decide(&backwards, &rules, at, Tz::UTC, true)), kept(&verdicts));
    }
}

/// The host's clock says 1970 at the moment of expiry: nothing is concluded from dates that are all in the future.
#[test]
fn a_clock_at_zero_at_the_moment_of_expiry_deletes_nothing() {
    let start = Utc.with_ymd_and_hms(2026, 1, 1, 1, 0, 0).unwrap();
    let candidates: Vec<_> = (0..40).map(|day| full(start + TimeDelta::days(day))).collect();
    let verdicts =
        decide(&candidates, &KeepRules::nothing(), Utc.timestamp_opt(0, 0).unwrap(), Tz::UTC, true);
    assert_eq!(kept(&verdicts).len(), 40);
    let why: BTreeSet<_> = verdicts.iter().flat_map(|v| &v.kept_because).map(ToString::to_string).collect();
    assert_eq!(why, BTreeSet::from(["dated in the future".to_owned()]));
}
