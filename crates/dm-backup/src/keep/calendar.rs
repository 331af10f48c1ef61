//! Days, weeks, months and years of a zone, and ages that no change of the clocks can break.
//!
//! An instant has exactly one local date in a zone, so buckets are always well defined: a day of 23 or 25 hours is
//! one day. The way back (a local time to an instant) is not: it may fall into a gap or occur twice.

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use chrono_tz::Tz;
use dm_core::Period;

/// A kind of calendar bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bucket {
    Day,
    Week,
    Month,
    Year,
}

impl Bucket {
    /// The bucket of an instant, in words that name it in a plan and tell it from every other.
    pub(super) fn of(self, at: DateTime<Utc>, zone: Tz) -> String {
        let local = at.with_timezone(&zone).date_naive();
        match self {
            Self::Day => format!("{:04}-{:02}-{:02}", local.year(), local.month(), local.day()),
            Self::Week => {
                let week = local.iso_week();
                format!("{:04}-W{:02}", week.year(), week.week())
            }
            Self::Month => format!("{:04}-{:02}", local.year(), local.month()),
            Self::Year => format!("{:04}", local.year()),
        }
    }
}

/// The oldest instant that is at most `period` before `anchor`.
///
/// Where the local time of that instant does not exist or exists twice, an earlier one is taken: in doubt more is
/// kept. (25 hours cover the day that Samoa left out in December 2011.) Before the calendar's beginning, everything is
/// young enough.
pub(crate) fn cutoff(anchor: DateTime<Utc>, period: Period, zone: Tz) -> DateTime<Utc> {
    (0..=25)
        .filter_map(|hours| anchor.checked_sub_signed(TimeDelta::hours(hours)))
        .find_map(|at| period.before(at.with_timezone(&zone)))
        .map_or(DateTime::<Utc>::MIN_UTC, |at| at.with_timezone(&Utc))
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;
    use chrono_tz::{Europe::Berlin, Pacific::Apia};

    use super::*;

    #[test]
    fn a_gap_or_a_repeated_hour_is_no_obstacle() {
        // 2026-03-29 02:30 does not exist in Berlin, 2026-10-25 02:30 exists twice.
        for (y, m, d) in [(2026, 3, 30), (2026, 10, 26)] {
            let anchor = Berlin.with_ymd_and_hms(y, m, d, 2, 30, 0).unwrap().with_timezone(&Utc);
            let cut = cutoff(anchor, Period::days(1), Berlin);
            let age = anchor - cut;
            assert!(age >= TimeDelta::hours(23) && age <= TimeDelta::hours(27), "{age}");
        }
        let after = Apia.with_ymd_and_hms(2011, 12, 31, 12, 0, 0).unwrap().with_timezone(&Utc);
        assert!(cutoff(after, Period::days(1), Apia) < after);
        assert_eq!(cutoff(after, Period::months(12 * 400_000), Apia), DateTime::<Utc>::MIN_UTC);
    }

    #[test]
    fn buckets_follow_the_zone_and_iso_weeks() {
        let late = Utc.with_ymd_and_hms(2026, 12, 31, 23, 30, 0).unwrap();
        assert_eq!(Bucket::Day.of(late, Berlin), "2027-01-01");
        assert_eq!(Bucket::Day.of(late, Tz::UTC), "2026-12-31");
        assert_eq!(Bucket::Week.of(late, Berlin), "2026-W53");
        assert_eq!(Bucket::Year.of(late, Berlin), "2027");
    }
}
