//! What a file's name says: version, description, direction.

use chrono::NaiveDateTime;
use dm_core::Direction;

/// How a version is written in the names of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// `20260102030405_name.sql`, as sqlx writes it.
    Timestamp,
    /// `20260102_030405_name.sql`.
    SplitTimestamp,
    /// `7_name.sql`, `0007_name.sql`; the number of digits.
    Number(usize),
    /// `V7__name.sql`, as refinery writes it.
    Refinery,
}

/// A file's name, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileName {
    /// The version.
    pub version: i64,
    /// The description, with blanks for the underscores.
    pub description: String,
    /// Which script of the migration it is.
    pub direction: Direction,
    /// How the version is written.
    pub style: Style,
}

/// Reads a file's name. `Ok(None)` for a file that is none of ours (another extension, no version and no underscore).
///
/// # Errors
/// Why it cannot be one, in words.
pub fn parse_name(name: &str, extension: &str) -> Result<Option<FileName>, String> {
    let Some(stem) = name.strip_suffix(extension).and_then(|s| s.strip_suffix('.')) else { return Ok(None) };
    if name.starts_with('.') {
        return Ok(None);
    }
    let (stem, direction) = match (stem.strip_suffix(".up"), stem.strip_suffix(".down")) {
        (Some(stem), _) => (stem, Direction::Up),
        (_, Some(stem)) => (stem, Direction::Down),
        _ => (stem, Direction::Up),
    };
    if let Some(rest) = stem.strip_prefix(['V', 'U'])
        && let Some((digits, description)) = rest.split_once("__")
    {
        let version = number(digits).ok_or_else(|| format!("\"{digits}\" is not a whole number from 1"))?;
        return Ok(Some(FileName {
            version,
            description: words(description),
            direction,
            style: Style::Refinery,
        }));
    }
    // sqlx passes over a file without an underscore: a schema.sql that lies beside the migrations.
    let Some((digits, rest)) = stem.split_once('_') else { return Ok(None) };
    let version = number(digits)
        .ok_or_else(|| format!("it begins with \"{digits}\", and a version is a whole number from 1"))?;
    if digits.len() == 8
        && let Some((time, description)) = rest.split_once('_')
        && time.len() == 6
        && is_instant(&format!("{digits}{time}"))
        && let Some(version) = number(&format!("{digits}{time}"))
    {
        let description = words(description);
        return Ok(Some(FileName { version, description, direction, style: Style::SplitTimestamp }));
    }
    let style = if is_instant(digits) { Style::Timestamp } else { Style::Number(digits.len()) };
    Ok(Some(FileName { version, description: words(rest), direction, style }))
}

fn number(digits: &str) -> Option<i64> {
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|n| plain && *n > 0)
}

fn is_instant(digits: &str) -> bool {
    digits.len() == 14 && NaiveDateTime::parse_from_str(digits, "%Y%m%d%H%M%S").is_ok()
}

fn words(text: &str) -> String {
    text.replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str) -> FileName {
        parse_name(name, "sql").unwrap().unwrap()
    }

    #[test]
    fn every_form_that_teams_have() {
        let cases = [
            (
                "20260102030405_add_users.sql",
                20_260_102_030_405,
                "add users",
                Direction::Up,
                Style::Timestamp,
            ),
            (
                "20260102_030405_add_users.sql",
                20_260_102_030_405,
                "add users",
                Direction::Up,
                Style::SplitTimestamp,
            ),
            ("0007_a.up.sql", 7, "a", Direction::Up, Style::Number(4)),
            ("7_a_b.down.sql", 7, "a b", Direction::Down, Style::Number(1)),
            ("V12__first_tables.sql", 12, "first tables", Direction::Up, Style::Refinery),
            ("U3__x.sql", 3, "x", Direction::Up, Style::Refinery),
            // Eight digits and six that are no time of day: sqlx's reading.
            ("20260102_996099_x.sql", 20_260_102, "996099 x", Direction::Up, Style::Number(8)),
        ];
        for (name, version, description, direction, style) in cases {
            let description = description.to_owned();
            assert_eq!(parse(name), FileName { version, description, direction, style }, "{name}");
        }
    }

    #[test]
    fn what_is_none_of_ours_and_what_is_wrong() {
        for other in ["README.md", "schema.sql", "1_a.sql.bak", ".1_a.sql", "sql"] {
            assert_eq!(parse_name(other, "sql"), Ok(None), "{other}");
        }
        for wrong in [
            "add_users.sql",
            "0_zero.sql",
            "-1_a.sql",
            "+1_a.sql",
            "V1.2__a.sql",
            "99999999999999999999_a.sql",
        ] {
            assert!(parse_name(wrong, "sql").is_err(), "{wrong}");
        }
    }
}
