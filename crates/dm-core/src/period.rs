//! Calendar-aware periods: `30d`, `18 months`, `7 years`.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Days, Months, TimeDelta, TimeZone};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A span of calendar time. Months and years follow the calendar (the end of a month clamps), days follow the zone
/// of the date they are taken from, shorter parts are exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Period {
    months: u32,
    days: u32,
    seconds: u64,
}

impl Period {
    /// So many days.
    #[must_use]
    pub const fn days(days: u32) -> Self {
        Self { months: 0, days, seconds: 0 }
    }

    /// So many months.
    #[must_use]
    pub const fn months(months: u32) -> Self {
        Self { months, days: 0, seconds: 0 }
    }

    /// So many hours.
    #[must_use]
    pub const fn hours(hours: u32) -> Self {
        Self { months: 0, days: 0, seconds: hours as u64 * 3600 }
    }

    /// The instant that lies this period before `at`; `None` when the calendar ends before it.
    #[must_use]
    pub fn before<Z: TimeZone>(&self, at: DateTime<Z>) -> Option<DateTime<Z>> {
        at.checked_sub_months(Months::new(self.months))?
            .checked_sub_days(Days::new(self.days.into()))?
            .checked_sub_signed(TimeDelta::try_seconds(i64::try_from(self.seconds).ok()?)?)
    }

    /// The instant that lies this period after `at`; `None` when the calendar ends before it.
    #[must_use]
    pub fn after<Z: TimeZone>(&self, at: DateTime<Z>) -> Option<DateTime<Z>> {
        at.checked_add_months(Months::new(self.months))?
            .checked_add_days(Days::new(self.days.into()))?
            .checked_add_signed(TimeDelta::try_seconds(i64::try_from(self.seconds).ok()?)?)
    }
}

impl FromStr for Period {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::invalid(format!(
                "\"{text}\" is not a period: write 30d, 12h, 6 weeks, 18 months or \"1 year 6 months\""
            ))
        };
        let mut period = Self::default();
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(bad());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
            let number: u32 = rest[..digits].parse().map_err(|_| bad())?;
            rest = rest[digits..].trim_start();
            let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
            let unit = rest[..letters].to_ascii_lowercase();
            rest = rest[letters..].trim_start_matches([' ', ',']);
            let add = |to: u32, factor: u32| {
                number.checked_mul(factor).and_then(|n| to.checked_add(n)).ok_or_else(bad)
            };
            let add_seconds = |to: u64, factor: u64| {
                u64::from(number).checked_mul(factor).and_then(|n| to.checked_add(n)).ok_or_else(bad)
            };
            match unit.as_str() {
                "s" | "sec" | "secs" | "second" | "seconds" => {
                    period.seconds = add_seconds(period.seconds, 1)?;
                }
                "m" | "min" | "mins" | "minute" | "minutes" => {
                    period.seconds = add_seconds(period.seconds, 60)?;
                }
                "h" | "hour" | "hours" => period.seconds = add_seconds(period.seconds, 3600)?,
                "d" | "day" | "days" => period.days = add(period.days, 1)?,
                "w" | "week" | "weeks" => period.days = add(period.days, 7)?,
                "mo" | "mon" | "mons" | "month" | "months" => period.months = add(period.months, 1)?,
                "y" | "year" | "years" => period.months = add(period.months, 12)?,
                _ => return Err(bad()),
            }
        }
        Ok(period)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        let mut part = |n: u64, unit: &str| {
            if n > 0 {
                parts.push(format!("{n} {unit}{}", if n == 1 { "" } else { "s" }));
            }
        };
        part((self.months / 12).into(), "year");
        part((self.months % 12).into(), "month");
        part(self.days.into(), "day");
        part(self.seconds / 3600, "hour");
        part(self.seconds / 60 % 60, "minute");
        part(self.seconds % 60, "second");
        f.pad(&if parts.is_empty() { "0 seconds".to_owned() } else { parts.join(" ") })
    }
}

impl Serialize for Period {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::Utc;
    use proptest::prelude::*;

    #[test]
    fn months_follow_the_calendar() {
        let end_of_march = Utc.with_ymd_and_hms(2026, 3, 31, 12, 0, 0).unwrap();
        assert_eq!(Period::months(1).before(end_of_march).unwrap().to_rfc3339(), "2026-02-28T12:00:00+00:00");
        assert_eq!("1 year 6 months".parse::<Period>().unwrap(), Period::months(18));
        for bad in ["", "d", "5", "5 fortnights", "-1d", "1.5h"] {
            assert!(bad.parse::<Period>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_it_prints_it_parses(months in 0u32..5000, days in 0u32..50000, seconds in 0u64..1_000_000) {
            let period = Period { months, days, seconds };
            prop_assert_eq!(period.to_string().parse::<Period>().unwrap(), period);
        }
    }
}
