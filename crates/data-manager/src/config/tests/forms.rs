use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::super::cron::CronSchedule;
use super::super::keys;
use super::super::profiles::PROFILES;
use super::super::{duration, nearest};

#[test]
fn durations_say_their_unit() {
    for (text, millis) in [
        ("500ms", 500),
        ("20s", 20_000),
        ("10m", 600_000),
        ("1h30m", 5_400_000),
        ("1d", 86_400_000),
        ("2 s", 2000),
    ] {
        assert_eq!(duration::parse(text), Some(Duration::from_millis(millis)), "{text}");
    }
    for text in ["500ms", "20s", "10m", "1h30m", "1d", "0s", "1m500ms"] {
        assert_eq!(duration::format(duration::parse(text).unwrap()), text);
    }
    for bad in ["", "20", "s", "1.5s", "-1s", "5x", "20 S", "99999999999999999d"] {
        assert_eq!(duration::parse(bad), None, "{bad}");
    }
}

fn next(cron: &str, after: &str, zone: Tz) -> String {
    let after: DateTime<Utc> = after.parse().unwrap();
    let next = cron.parse::<CronSchedule>().unwrap().next_after(after, zone).unwrap();
    next.with_timezone(&zone).format("%a %F %H:%M").to_string()
}

#[test]
fn cron_is_the_crontabs() {
    // 2026-01-01 is a Thursday.
    let at = |cron| next(cron, "2026-01-01T00:00:00Z", Tz::UTC);
    assert_eq!(at("0 1 * * *"), "Thu 2026-01-01 01:00");
    assert_eq!(at("*/15 * * * *"), "Thu 2026-01-01 00:15");
    assert_eq!(at("0 2 * * 0"), "Sun 2026-01-04 02:00");
    assert_eq!(at("0 2 * * 7"), "Sun 2026-01-04 02:00");
    assert_eq!(at("0 2 * * 1"), "Mon 2026-01-05 02:00");
    assert_eq!(at("0 2 * * MON-fri"), "Thu 2026-01-01 02:00");
    assert_eq!(at("0 2 * * 6-7"), "Sat 2026-01-03 02:00");
    assert_eq!(at("0 2 * * sat-sun"), "Sat 2026-01-03 02:00");
    assert_eq!(at("0 2 * * 1-5/2"), "Fri 2026-01-02 02:00");
    assert_eq!(at("0 2 1 * *"), "Thu 2026-01-01 02:00");
    assert_eq!(at("0 2 1 feb *"), "Sun 2026-02-01 02:00");
    // Day and weekday: either is enough.
    assert_eq!(at("0 2 15 * mon"), "Mon 2026-01-05 02:00");
    assert_eq!(at("0 2 2 * mon"), "Fri 2026-01-02 02:00");
    assert_eq!(at("@weekly"), "Sun 2026-01-04 00:00");
    assert_eq!(at("@monthly"), "Sun 2026-02-01 00:00");
    assert_eq!(next("0 1 * * *", "2026-07-01T00:00:00Z", Tz::Europe__Berlin), "Thu 2026-07-02 01:00");
    for bad in [
        "",
        "* * * *",
        "0 0 1 * * *",
        "@reboot",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 8",
        "* * * * fri-mon",
        "*/0 * * * *",
        "* * * * */0",
        "x * * * *",
        "0 0 30 2 *",
    ] {
        assert!(bad.parse::<CronSchedule>().is_err(), "{bad}");
    }
}

#[test]
fn the_nearest_word() {
    let near = |word| nearest::nearest(word, ["pool_max", "schema", "url", "query_timeout"]);
    assert_eq!(near("pool_maks"), Some("pool_max"));
    assert_eq!(near("URL"), Some("url"));
    assert_eq!(near("querytimeout"), Some("query_timeout"));
    assert_eq!(near("banana"), None);
    assert_eq!(near("xyz"), None);
}

#[test]
fn every_default_and_example_has_its_form() {
    for key in keys::all() {
        if let Some(default) = key.default {
            assert!(key.kind.read_text(default).is_ok(), "the default of {}", key.path);
        } else if key.path != "access.roles.*" {
            assert!(key.kind.read_text(key.example).is_ok(), "the example of {}", key.path);
        }
    }
    for (name, settings) in PROFILES {
        for (pattern, text) in *settings {
            let key = keys::all().find(|key| key.path == *pattern);
            assert!(key.is_some_and(|key| key.kind.read_text(text).is_ok()), "{pattern} in {name}");
        }
    }
}

#[test]
fn a_path_with_an_at_sign_holds_no_password() {
    use super::super::kind::carries_password;
    for plain in ["/srv/a@b.db", "./x.db", "sqlite:a@b.db", "postgres://app@h/d"] {
        assert!(!carries_password(plain), "{plain}");
    }
    for secret in
        ["postgres://a:b@h/d", "postgres://a:b@[/d", "host=h password=x", "postgres://h/d?sslpassword=x"]
    {
        assert!(carries_password(secret), "{secret}");
    }
}
