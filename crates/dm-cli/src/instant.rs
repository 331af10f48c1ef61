//! Instants as people write them: `2026-11-20 14:03:00+01`, `2026-11-20 14:03` in the configured zone, RFC 3339.
//!
//! An instant decides which rows a recovery loses, so nothing is guessed: a wall-clock time that a zone has twice, or not at
//! all, is refused with what to write instead.

use std::fmt::Display;

use chrono::{DateTime, FixedOffset, LocalResult, NaiveDateTime, SecondsFormat, TimeZone, Utc};
use data_manager::{Error, Result};

use crate::output::text;

/// Reads an instant. One that names no zone is in `zone`; one after `now` is refused.
///
/// # Errors
/// `Invalid`, with what to write.
pub(crate) fn parse<Z: TimeZone>(written: &str, zone: &Z, now: DateTime<Utc>) -> Result<DateTime<Utc>>
where
    Z::Offset: Display,
{
    let trimmed = written.trim();
    let at = match with_zone(trimmed) {
        Some(at) => at,
        None => in_zone(trimmed, zone)?,
    };
    if at > now {
        return Err(Error::invalid(format!(
            "{} is in the future: it is {} now",
            both(at, zone),
            text::time(now)
        ))
        .with_hint("give an instant that has passed, or --at end for the end of the log"));
    }
    Ok(at)
}

/// Reads an instant that is still to come. A date alone means its first moment in `zone`.
///
/// # Errors
/// `Invalid`, with what to write.
pub(crate) fn to_come<Z: TimeZone>(written: &str, zone: &Z, now: DateTime<Utc>) -> Result<DateTime<Utc>>
where
    Z::Offset: Display,
{
    let trimmed = written.trim();
    let whole = if trimmed.len() == 10 { format!("{trimmed} 00:00") } else { trimmed.to_owned() };
    let at = match with_zone(&whole) {
        Some(at) => at,
        None => in_zone(&whole, zone)?,
    };
    if at <= now {
        return Err(Error::invalid(format!("{} has passed: it is {} now", both(at, zone), text::time(now)))
            .with_hint("give an instant that is still to come"));
    }
    Ok(at)
}

/// The instant in UTC, and in the zone where that is another one.
pub(crate) fn both<Z: TimeZone>(at: DateTime<Utc>, zone: &Z) -> String
where
    Z::Offset: Display,
{
    let fraction = if at.timestamp_subsec_nanos() == 0 { "" } else { "%.f" };
    let utc = at.format(&format!("%Y-%m-%d %H:%M:%S{fraction} UTC")).to_string();
    let there = at.with_timezone(zone).format(&format!("%Y-%m-%d %H:%M:%S{fraction} %Z")).to_string();
    if there == utc { utc } else { format!("{utc} ({there})") }
}

fn with_zone(text: &str) -> Option<DateTime<Utc>> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Some(at.with_timezone(&Utc));
    }
    let (wall, zone) = match text.strip_suffix("UTC").or_else(|| text.strip_suffix(['Z', 'z'])) {
        Some(wall) => (wall, "+00:00".to_owned()),
        None => {
            // A sign after the date's own dashes begins the offset: `+01`, `-0530`, `+05:30`.
            let sign = text.get(10..)?.rfind(['+', '-'])? + 10;
            let digits: String = text[sign + 1..].chars().filter(|c| *c != ':').collect();
            let offset = match digits.len() {
                2 => format!("{digits}:00"),
                4 => format!("{}:{}", &digits[..2], &digits[2..]),
                _ => return None,
            };
            (&text[..sign], format!("{}{offset}", &text[sign..=sign]))
        }
    };
    let offset: FixedOffset = zone.parse().ok()?;
    offset.from_local_datetime(&wall_clock(wall.trim_end())?).single().map(|at| at.with_timezone(&Utc))
}

fn in_zone<Z: TimeZone>(text: &str, zone: &Z) -> Result<DateTime<Utc>>
where
    Z::Offset: Display,
{
    let Some(wall) = wall_clock(text) else {
        return Err(Error::invalid(format!("\"{text}\" is not an instant"))
            .with_hint("write \"2026-11-20 14:03:00+01\", or without the offset for the configured zone"));
    };
    match zone.from_local_datetime(&wall) {
        LocalResult::Single(at) => Ok(at.with_timezone(&Utc)),
        LocalResult::Ambiguous(first, second) => {
            let shown = |at: DateTime<Z>| at.fixed_offset().to_rfc3339_opts(SecondsFormat::AutoSi, true);
            Err(Error::invalid(format!(
                "{wall} comes twice in the configured zone: the clocks were set back"
            ))
            .with_hint(format!("write which one: {} or {}", shown(first), shown(second))))
        }
        LocalResult::None => Err(Error::invalid(format!(
            "{wall} does not exist in the configured zone: the clocks were set forward"
        ))
        .with_hint("write the instant with its offset: \"2026-11-20 14:03:00+01\"")),
    }
}

fn wall_clock(text: &str) -> Option<NaiveDateTime> {
    ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"]
        .iter()
        .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::parse_from_rfc3339("2026-11-21T00:00:00Z").unwrap().to_utc()
    }

    /// A zone two hours ahead, so that what names no zone differs from UTC.
    fn zone() -> FixedOffset {
        FixedOffset::east_opt(7200).unwrap()
    }

    fn read(text: &str) -> String {
        parse(text, &zone(), now())
            .map_or_else(|e| e.to_string(), |at| at.to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }

    #[test]
    fn an_instant_is_read_in_every_form_that_people_write() {
        for (text, instant) in [
            ("2026-11-20T13:03:00Z", "2026-11-20T13:03:00Z"),
            ("2026-11-20T14:03:00+01:00", "2026-11-20T13:03:00Z"),
            ("2026-11-20 14:03:00+01", "2026-11-20T13:03:00Z"),
            ("2026-11-20 14:03:00 +0100", "2026-11-20T13:03:00Z"),
            ("2026-11-20 07:33:00-05:30", "2026-11-20T13:03:00Z"),
            ("2026-11-20 13:03 UTC", "2026-11-20T13:03:00Z"),
            ("2026-11-20 13:03:00.25Z", "2026-11-20T13:03:00.250Z"),
            (" 2026-11-20 15:03 ", "2026-11-20T13:03:00Z"),
            ("2026-11-20T15:03:00.123456", "2026-11-20T13:03:00.123456Z"),
        ] {
            assert_eq!(read(text), instant, "{text}");
        }
    }

    #[test]
    fn what_is_no_instant_is_refused() {
        for text in [
            "",
            "yesterday",
            "2026-11-20",
            "14:03",
            "2026-13-01 00:00",
            "2026-11-20 25:00",
            "2026-11-20 14:03+1",
            "11/20/2026 14:03",
        ] {
            assert!(read(text).contains("is not an instant"), "{text}: {}", read(text));
        }
    }

    #[test]
    fn the_future_is_refused_and_both_clocks_are_named() {
        let error = parse("2026-11-21 03:00", &zone(), now()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "2026-11-21 01:00:00 UTC (2026-11-21 03:00:00 +02:00) is in the future: it is 2026-11-21 00:00:00 UTC now"
        );
    }
}
