//! Cron expressions of five fields, as everybody's crontab knows them.
//!
//! The `cron` package wants seconds, counts Sunday as 1 and asks day *and* weekday to match; crontab(5) has no seconds, counts
//! Sunday as 0 or 7 and is content when *either* matches, where both are given. This translates.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use cron::Schedule;
use dm_core::{Error, Result};
use serde::Serialize;

/// A schedule: minute, hour, day of the month, month, weekday (`0 1 * * *`), or `@hourly`, `@daily`, `@weekly`, `@monthly`,
/// `@yearly`.
#[derive(Clone)]
pub struct CronSchedule {
    text: String,
    /// Two where day of the month and weekday are both restricted: the schedule is their union.
    parts: Vec<Schedule>,
}

const DAYS: [&str; 8] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl CronSchedule {
    /// The text as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The first time after `after` (exclusive), reckoned in `zone`; `None` when there is none before the year 2100.
    ///
    /// A time of day that a zone skips in spring does not come that day.
    #[must_use]
    pub fn next_after(&self, after: DateTime<Utc>, zone: Tz) -> Option<DateTime<Utc>> {
        let after = after.with_timezone(&zone);
        self.parts.iter().filter_map(|part| part.after(&after).next()).min().map(|at| at.with_timezone(&Utc))
    }
}

impl FromStr for CronSchedule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        let bad = |why: &str| Error::invalid(format!("\"{text}\" is not a schedule: {why}"));
        let plain = match text {
            "@hourly" => "0 * * * *",
            "@daily" | "@midnight" => "0 0 * * *",
            "@weekly" => "0 0 * * 0",
            "@monthly" => "0 0 1 * *",
            "@yearly" | "@annually" => "0 0 1 1 *",
            other => other,
        };
        let fields: Vec<&str> = plain.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(bad(
                "it takes five fields, minute hour day month weekday (\"0 1 * * *\" is 01:00 daily)",
            ));
        };
        let weekdays = weekdays(weekday).ok_or_else(|| {
            bad("the weekday takes 0 to 7 (0 and 7 are Sunday), sun to sat, lists, ranges and steps")
        })?;
        let part = |day: &str, weekday: &str| {
            Schedule::from_str(&format!("0 {minute} {hour} {day} {month} {weekday}")).map_err(|e| {
                bad("a field is out of its range or not a number, list, range or step").with_source(e)
            })
        };
        let parts = if day.starts_with('*') || weekday.starts_with('*') {
            vec![part(day, &weekdays)?]
        } else {
            vec![part(day, "*")?, part("*", &weekdays)?]
        };
        let schedule = Self { text: text.to_owned(), parts };
        let probe = NaiveDate::from_ymd_opt(2024, 1, 1).and_then(|d| d.and_hms_opt(0, 0, 0));
        if probe.is_some_and(|at| schedule.next_after(at.and_utc(), Tz::UTC).is_none()) {
            return Err(bad("no such day ever comes"));
        }
        Ok(schedule)
    }
}

/// The weekday field in the package's numbers.
fn weekdays(field: &str) -> Option<String> {
    let number = |word: &str| -> Option<usize> {
        let lower = word.to_ascii_lowercase();
        match lower.parse::<usize>() {
            Ok(n) if n <= 7 => Some(n),
            Ok(_) => None,
            Err(_) => DAYS.iter().position(|day| *day == lower),
        }
    };
    let mut wanted = [false; 7];
    for element in field.split(',') {
        let (base, step) = match element.split_once('/') {
            Some((base, step)) => (base, Some(step.parse::<usize>().ok().filter(|s| (1..=7).contains(s))?)),
            None => (element, None),
        };
        let (first, last) = match base.split_once('-') {
            // `sat-sun`: Sunday ends a week as well as it begins one.
            Some((from, to)) => {
                let (from, to) = (number(from)?, number(to)?);
                (from, if to == 0 && from > 0 { 7 } else { to })
            }
            None if base == "*" => (0, 6),
            None => (number(base)?, if step.is_some() { 6 } else { number(base)? }),
        };
        if first > last {
            return None;
        }
        for day in (first..=last).step_by(step.unwrap_or(1)) {
            wanted[day % 7] = true;
        }
    }
    if wanted == [true; 7] {
        return Some("*".to_owned());
    }
    let numbers: Vec<String> = (0..7).filter(|day| wanted[*day]).map(|day| (day + 1).to_string()).collect();
    Some(numbers.join(","))
}

impl PartialEq for CronSchedule {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for CronSchedule {}

impl fmt::Display for CronSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for CronSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.text)
    }
}

impl Serialize for CronSchedule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}
