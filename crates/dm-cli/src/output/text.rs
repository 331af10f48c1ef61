//! Numbers, times and names as people read them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use data_manager::ByteSize;

/// Text that came from outside, with every control character made visible.
pub(crate) fn printable(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    text.chars()
        .flat_map(|c| {
            let shown: Box<dyn Iterator<Item = char>> =
                if c.is_control() { Box::new(c.escape_default()) } else { Box::new(std::iter::once(c)) };
            shown
        })
        .collect()
}

/// `2026-11-20 14:03:09 UTC`
pub(crate) fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// `14 ms`, `3.2 s`, `4 min 10 s`, `2 h 5 min`, `3 d 4 h`
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..10 => {
            let text = format!("{:.1}", duration.as_secs_f64());
            format!("{} s", text.strip_suffix(".0").unwrap_or(&text))
        }
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// How long ago: `4 min ago`, `in the future` for a clock that disagrees.
pub(crate) fn ago(now: DateTime<Utc>, at: DateTime<Utc>) -> String {
    match (now - at).to_std() {
        Ok(past) => {
            let seconds = past.as_secs();
            let (n, unit) = match seconds {
                0..60 => return "just now".to_owned(),
                60..3600 => (seconds / 60, "minute"),
                3600..172_800 => (seconds / 3600, "hour"),
                _ => (seconds / 86_400, "day"),
            };
            format!("{} ago", count(n, unit))
        }
        Err(_) => "in the future".to_owned(),
    }
}

/// `1 table`, `12,345 tables`
pub(crate) fn count(n: u64, one: &str) -> String {
    format!("{} {one}{}", grouped(n), if n == 1 { "" } else { "s" })
}

/// `1,234,567`
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `12.5 MiB`
pub(crate) fn bytes(n: u64) -> String {
    ByteSize(n).to_string()
}

/// `31 %` of a whole; empty when there is no whole.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return String::new();
    }
    let percent = part as f64 * 100.0 / whole as f64;
    if percent > 0.0 && percent < 10.0 { format!("{percent:.1} %") } else { format!("{percent:.0} %") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_like_a_person_wrote_it() {
        assert_eq!(duration(Duration::from_millis(14)), "14 ms");
        assert_eq!(duration(Duration::from_millis(3210)), "3.2 s");
        assert_eq!(duration(Duration::from_secs(250)), "4 min 10 s");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(count(1, "row"), "1 row");
        assert_eq!(percent(12, 1000), "1.2 %");
        assert_eq!(printable("a\u{7}b"), "a\\u{7}b");
        let now = DateTime::from_timestamp(1_000_000, 0).unwrap();
        assert_eq!(ago(now, now - chrono::TimeDelta::minutes(4)), "4 minutes ago");
        assert_eq!(ago(now, now + chrono::TimeDelta::minutes(4)), "in the future");
    }
}
