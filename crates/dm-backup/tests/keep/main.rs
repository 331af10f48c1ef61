//! The promises of the keep-rules, held against random histories.

#![allow(clippy::unwrap_used)] // the lint knows tests, not what they share

mod clocks;

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use dm_backup::keep::{Candidate, KeepReason, KeepRules, Soundness, Verdict, decide};
use dm_core::{BackupId, BackupKind, Period};
use proptest::prelude::*;

/// One backup of a random history: hours since the one before (negative: a clock was set back), and so on.
#[derive(Clone, Debug)]
struct Step {
    hours: i64,
    kind: u8,
    soundness: u8,
    pinned: bool,
    generation: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let hours = prop_oneof![8 => 0i64..60, 2 => 0i64..2000, 1 => -3000i64..3000, 1 => 20_000i64..90_000];
    let step = (hours, 0u8..4, 0u8..6, prop::bool::weighted(0.1), prop::bool::weighted(0.1)).prop_map(
        |(hours, kind, soundness, pinned, generation)| Step { hours, kind, soundness, pinned, generation },
    );
    prop::collection::vec(step, 0..60)
}

fn history(steps: &[Step]) -> Vec<Candidate> {
    let mut at = Utc.with_ymd_and_hms(2026, 3, 20, 0, 30, 0).unwrap();
    let mut candidates: Vec<Candidate> = Vec::new();
    let mut generation = 15;
    for step in steps {
        at += TimeDelta::hours(step.hours);
        generation += u32::from(step.generation);
        let name = format!("memory {generation}");
        let same = |c: &&Candidate| c.generation == name;
        let base = match step.kind {
            0 | 1 => None,
            2 => candidates.iter().rev().filter(same).find(|c| c.kind == BackupKind::Full),
            _ => candidates.iter().rev().find(same),
        };
        let (kind, references) = match (step.kind, base) {
            (2, Some(base)) => (BackupKind::Differential, vec![base.id]),
            (3, Some(base)) => (BackupKind::Incremental, [base.references.clone(), vec![base.id]].concat()),
            _ => (BackupKind::Full, Vec::new()),
        };
        candidates.push(Candidate {
            id: BackupId::generate(),
            kind,
            at,
            references,
            generation: name,
            soundness: match step.soundness {
                0 => Soundness::Damaged,
                1..=3 => Soundness::Verified,
                _ => Soundness::Unverified,
            },
            pinned: step.pinned,
            held: (step.hours.rem_euclid(11) == 3).then(|| "case: a reason".to_owned()),
            stored_bytes: 1000,
        });
    }
    candidates
}

fn rules() -> impl Strategy<Value = KeepRules> {
    let period = || prop::option::of((0u32..60).prop_map(Period::days));
    ((0u32..4, 0u32..9, 0u32..6, 0u32..6), (0u32..4, period(), 0u32..4, period(), period())).prop_map(
        |((last, daily, weekly, monthly), (yearly, within, min, incremental, superseded))| KeepRules {
            last,
            daily,
            weekly,
            monthly,
            yearly,
            within,
            min_verified_full: min,
            incremental_within: incremental,
            log_within: None,
            superseded_within: superseded,
        },
    )
}

fn zones() -> impl Strategy<Value = Tz> {
    prop::sample::select(vec![
        Tz::UTC,
        chrono_tz::Europe::Berlin,
        chrono_tz::America::Sao_Paulo,
        chrono_tz::Australia::Lord_Howe,
        chrono_tz::Pacific::Apia,
        chrono_tz::Pacific::Kiritimati,
    ])
}

/// Now, from long before the last backup (a clock at zero) to long after.
fn now_of(candidates: &[Candidate], hours: i64) -> DateTime<Utc> {
    candidates.last().map_or_else(Utc::now, |c| c.at) + TimeDelta::hours(hours)
}

fn nows() -> impl Strategy<Value = i64> {
    prop_oneof![4 => 0i64..48, 1 => -5000i64..0, 1 => 0i64..100_000]
}

fn kept(verdicts: &[Verdict]) -> HashSet<BackupId> {
    verdicts.iter().filter(|v| v.is_kept()).map(|v| v.id).collect()
}

fn survivors(candidates: &[Candidate], kept: &HashSet<BackupId>) -> Vec<Candidate> {
    candidates.iter().filter(|c| kept.contains(&c.id)).cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn what_must_stay_stays(steps in steps(), rules in rules(), zone in zones(), hours in nows()) {
        let candidates = history(&steps);
        let now = now_of(&candidates, hours);
        let verdicts = decide(&candidates, &rules, now, zone, true);
        let kept = kept(&verdicts);
        prop_assert_eq!(verdicts.len(), candidates.len());

        for candidate in &candidates {
            if candidate.pinned || candidate.held.is_some() || candidate.at > now {
                prop_assert!(kept.contains(&candidate.id), "pinned, held or dated in the future: {candidate:?}");
            }
            if kept.contains(&candidate.id) {
                for reference in &candidate.references {
                    prop_assert!(kept.contains(reference), "{candidate:?} lost what it needs");
                }
            }
        }
        if let Some(newest) = candidates.iter().max_by_key(|c| c.at) {
            prop_assert!(kept.contains(&newest.id), "the newest is gone");
        }
        let count = |of: &dyn Fn(&Candidate) -> bool| candidates.iter().filter(|c| of(c)).count();
        let full = |c: &Candidate| c.kind == BackupKind::Full;
        let verified = |c: &Candidate| full(c) && c.soundness == Soundness::Verified;
        let least = rules.min_verified_full as usize;
        prop_assert!(count(&|c| full(c) && kept.contains(&c.id)) >= least.min(count(&full)));
        prop_assert!(count(&|c| verified(c) && kept.contains(&c.id)) >= least.min(count(&verified)));
    }

    #[test]
    fn deciding_again_deletes_nothing_more(steps in steps(), rules in rules(), zone in zones(), hours in nows()) {
        let candidates = history(&steps);
        let now = now_of(&candidates, hours);
        let first = kept(&decide(&candidates, &rules, now, zone, true));
        let left = survivors(&candidates, &first);
        prop_assert_eq!(kept(&decide(&left, &rules, now, zone, true)), first);
    }

    #[test]
    fn a_wider_rule_never_deletes_more(
        steps in steps(), a in rules(), b in rules(), zone in zones(), hours in nows()
    ) {
        let candidates = history(&steps);
        let now = now_of(&candidates, hours);
        // Periods of `rules()` are whole days, so that the larger count of days is the longer one.
        let days = |p: Option<Period>| p.map(|p| now - p.before(now).unwrap());
        let wider = |x: Option<Period>, y: Option<Period>| if days(x) > days(y) { x } else { y };
        let both = KeepRules {
            last: a.last.max(b.last),
            daily: a.daily.max(b.daily),
            weekly: a.weekly.max(b.weekly),
            monthly: a.monthly.max(b.monthly),
            yearly: a.yearly.max(b.yearly),
            within: wider(a.within, b.within),
            min_verified_full: a.min_verified_full.max(b.min_verified_full),
            incremental_within: wider(a.incremental_within, b.incremental_within),
            log_within: None,
            superseded_within: wider(a.superseded_within, b.superseded_within),
        };
        let wide = kept(&decide(&candidates, &both, now, zone, true));
        for narrow in [a, b] {
            prop_assert!(kept(&decide(&candidates, &narrow, now, zone, true)).is_subset(&wide));
        }
    }

    #[test]
    fn the_order_of_the_list_does_not_matter(steps in steps(), rules in rules(), seed in any::<u64>()) {
        let mut candidates = history(&steps);
        let now = now_of(&candidates, 1);
        let ordered = decide(&candidates, &rules, now, Tz::UTC, true);
        let mut random: rand::rngs::StdRng = rand::SeedableRng::seed_from_u64(seed);
        rand::seq::SliceRandom::shuffle(candidates.as_mut_slice(), &mut random);
        prop_assert_eq!(decide(&candidates, &rules, now, Tz::UTC, true), ordered);
    }

    #[test]
    fn an_incomplete_list_deletes_nothing(steps in steps(), rules in rules(), hours in nows()) {
        let candidates = history(&steps);
        let verdicts = decide(&candidates, &rules, now_of(&candidates, hours), Tz::UTC, false);
        prop_assert_eq!(kept(&verdicts).len(), candidates.len());
    }

    #[test]
    fn time_alone_expires_nothing(steps in steps(), rules in rules(), zone in zones(), later in 0i64..500_000) {
        let candidates = history(&steps);
        let newest = candidates.iter().map(|c| c.at).max().unwrap_or_else(Utc::now);
        prop_assert_eq!(
            decide(&candidates, &rules, newest, zone, true),
            decide(&candidates, &rules, newest + TimeDelta::hours(later), zone, true)
        );
    }
}

fn full(at: DateTime<Utc>) -> Candidate {
    Candidate {
        id: BackupId::generate(),
        kind: BackupKind::Full,
        at,
        references: Vec::new(),
        generation: "memory 1".into(),
        soundness: Soundness::Verified,
        pinned: false,
        held: None,
        stored_bytes: 10,
    }
}

#[test]
fn every_local_day_across_both_changes_of_the_clocks_has_its_backup() {
    // A backup every six hours from March to November in Berlin; 23- and 25-hour days are days like any other.
    let zone = chrono_tz::Europe::Berlin;
    let start = Utc.with_ymd_and_hms(2026, 3, 1, 0, 0, 0).unwrap();
    let candidates: Vec<_> = (0..1080).map(|i| full(start + TimeDelta::hours(6 * i))).collect();
    let now = candidates.last().unwrap().at;
    let rules = KeepRules { daily: 260, ..KeepRules::nothing() };
    let days: Vec<String> = decide(&candidates, &rules, now, zone, true)
        .into_iter()
        .flat_map(|v| v.kept_because)
        .filter_map(|r| match r {
            KeepReason::Daily { day } => Some(day),
            _ => None,
        })
        .collect();
    assert_eq!(days.len(), 260);
    assert_eq!(days.iter().collect::<HashSet<_>>().len(), 260);
    assert!(days.contains(&"2026-10-25".to_owned()) && days.contains(&"2026-03-29".to_owned()));
}

#[test]
fn an_upgrade_makes_nothing_vanish_at_once() {
    let start = Utc.with_ymd_and_hms(2026, 1, 1, 1, 0, 0).unwrap();
    let mut candidates: Vec<_> = (0..7).map(|i| full(start + TimeDelta::days(i))).collect();
    let old: Vec<_> = candidates.iter().map(|c| c.id).collect();
    let upgraded = |day| Candidate { generation: "memory 2".into(), ..full(start + TimeDelta::days(day)) };
    let rules = KeepRules {
        daily: 7,
        min_verified_full: 2,
        superseded_within: Some(Period::days(90)),
        ..KeepRules::nothing()
    };
    candidates.extend((7..21).map(upgraded));
    let now = candidates.last().unwrap().at;
    let kept_soon = kept(&decide(&candidates, &rules, now, Tz::UTC, true));
    assert!(old.iter().all(|id| kept_soon.contains(id)));
    candidates.extend((100..121).map(upgraded));
    let now = candidates.last().unwrap().at;
    let kept_late = kept(&decide(&candidates, &rules, now, Tz::UTC, true));
    assert!(!old.iter().any(|id| kept_late.contains(id)));
    assert_eq!(kept_late.len(), 7);
}

#[test]
fn backups_of_rows_and_of_files_under_one_name_do_not_take_each_others_place() {
    // The mode is part of the generation. A daily one of files beside a rare one of rows.
    let start = Utc.with_ymd_and_hms(2026, 1, 1, 1, 0, 0).unwrap();
    let of = |mode: &str, day| Candidate {
        generation: format!("memory 1 {mode}"),
        ..full(start + TimeDelta::days(day))
    };
    let rows: Vec<_> = [0, 20, 40].map(|day| of("logical", day)).into();
    let files = (0..60).map(|day| of("physical", day));
    let candidates: Vec<_> = rows.iter().cloned().chain(files).collect();
    let now = candidates.last().unwrap().at;
    let rules = KeepRules { daily: 7, min_verified_full: 2, ..KeepRules::default() };
    let kept = kept(&decide(&candidates, &rules, now, Tz::UTC, true));
    assert!(rows.iter().all(|b| kept.contains(&b.id)), "seven days of rows, of which there are three");
}

#[test]
fn a_base_stays_for_its_kept_child_and_says_so() {
    let start = Utc.with_ymd_and_hms(2026, 1, 1, 1, 0, 0).unwrap();
    let base = full(start);
    let child = Candidate {
        kind: BackupKind::Incremental,
        references: vec![base.id],
        pinned: true,
        held: None,
        ..full(start + TimeDelta::days(1))
    };
    let newer = full(start + TimeDelta::days(9));
    let verdicts =
        decide(&[base.clone(), child.clone(), newer.clone()], &KeepRules::nothing(), newer.at, Tz::UTC, true);
    let of = |id| verdicts.iter().find(|v| v.id == id).unwrap();
    assert_eq!(of(base.id).kept_because, [KeepReason::ReferencedBy { backup: child.id }]);
    assert_eq!(of(base.id).pinned_bytes, 10);
    assert_eq!(of(child.id).kept_because, [KeepReason::Pinned]);
    assert_eq!(of(child.id).pinned_bytes, 0);
}

#[test]
fn a_damaged_backup_takes_nobodys_place() {
    let start = Utc.with_ymd_and_hms(2026, 1, 1, 1, 0, 0).unwrap();
    let sound = full(start);
    let damaged = Candidate { soundness: Soundness::Damaged, ..full(start + TimeDelta::hours(5)) };
    let rules = KeepRules { daily: 1, last: 1, min_verified_full: 1, ..KeepRules::nothing() };
    let verdicts = decide(&[sound.clone(), damaged.clone()], &rules, damaged.at, Tz::UTC, true);
    assert!(verdicts.iter().find(|v| v.id == sound.id).unwrap().kept_because.len() >= 3);
}

#[test]
fn rules_read_and_write_as_configuration() {
    let rules: KeepRules =
        serde_json::from_str(r#"{"daily": 3, "within": "30 days", "incremental_within": "2 days"}"#).unwrap();
    assert_eq!(rules.daily, 3);
    assert_eq!(rules.weekly, 4);
    assert_eq!(rules.within, Some(Period::days(30)));
    assert!(serde_json::from_str::<KeepRules>(r#"{"dayly": 3}"#).is_err());
    let defaults = KeepRules::default();
    assert_eq!(
        serde_json::from_str::<KeepRules>(&serde_json::to_string(&defaults).unwrap()).unwrap(),
        defaults
    );
}

/// The worked example of docs/retention-of-backups.md is decided anew.
#[test]
fn the_worked_example_of_the_documentation_holds() {
    let zone = chrono_tz::Europe::Berlin;
    let local = |text: &str| {
        let naive = chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M").unwrap();
        zone.from_local_datetime(&naive).unwrap().with_timezone(&Utc)
    };
    let page = include_str!("../../../../docs/retention-of-backups.md");
    let table = page.split("| backup | shows").nth(1).unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert_eq!(rows.len(), 12);

    let mut candidates: Vec<(&str, Candidate)> = Vec::new();
    for row in rows.iter().rev() {
        let id_of = |name: &str| candidates.iter().find(|(n, _)| *n == name).unwrap().1.id;
        let candidate = Candidate {
            kind: if row[2] == "full" { BackupKind::Full } else { BackupKind::Incremental },
            references: row[3].split_whitespace().map(id_of).collect(),
            soundness: match row[4] {
                "verified" => Soundness::Verified,
                "damaged" => Soundness::Damaged,
                _ => Soundness::Unverified,
            },
            pinned: row[4] == "pinned",
            held: None,
            ..full(local(row[1]))
        };
        candidates.push((row[0], candidate));
    }
    let rules = KeepRules {
        daily: 3,
        weekly: 2,
        monthly: 2,
        yearly: 1,
        min_verified_full: 2,
        incremental_within: Some(Period::days(2)),
        ..KeepRules::nothing()
    };
    let all: Vec<Candidate> = candidates.iter().map(|(_, c)| c.clone()).collect();
    let verdicts = decide(&all, &rules, local("2026-03-31 12:00"), zone, true);
    for (row, verdict) in rows.iter().zip(&verdicts) {
        let reasons: Vec<String> = verdict.kept_because.iter().map(ToString::to_string).collect();
        let mut said = if reasons.is_empty() { "deleted".to_owned() } else { reasons.join(", ") };
        for (name, candidate) in &candidates {
            said = said.replace(&candidate.id.to_string(), name);
        }
        assert_eq!(said, row[5], "{}", row[0]);
    }

    // The table of defaults says what the defaults are.
    let defaults = KeepRules::default();
    for (rule, default) in [
        ("last", defaults.last.to_string()),
        ("daily", defaults.daily.to_string()),
        ("weekly", defaults.weekly.to_string()),
        ("monthly", defaults.monthly.to_string()),
        ("yearly", defaults.yearly.to_string()),
        ("within", defaults.within.map_or("off".to_owned(), |p| p.to_string())),
        ("min_verified_full", defaults.min_verified_full.to_string()),
        ("incremental_within", defaults.incremental_within.unwrap().to_string()),
        ("superseded_within", defaults.superseded_within.unwrap().to_string()),
    ] {
        let line = page.lines().find(|l| l.starts_with(&format!("| `{rule}` |"))).unwrap();
        assert!(line.ends_with(&format!("| {default} |")), "{line}");
    }
}
