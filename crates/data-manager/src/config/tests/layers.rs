use std::time::Duration;

use chrono_tz::Tz;
use dm_core::{BackupKind, ErrorKind, Period, Secret};

use super::super::{Config, EngineConfig, VerifyAfter};
use super::{Bench, exposed, setting};

const ONE: &str = "[engines.main]\nurl = \"postgres://app@db/shop\"\n";

#[test]
fn the_smallest_file_is_one_url() {
    let bench = Bench::new().file(ONE);
    let config = bench.load();
    let (id, engine) = config.engine(None).unwrap();
    assert_eq!((id.as_str(), engine.url.expose()), ("main", "postgres://app@db/shop"));
    assert_eq!(engine.pool_max, 10);
    assert_eq!(engine.acquire_timeout, Some(Duration::from_secs(20)));
    assert_eq!(engine.connect_timeout, Some(Duration::from_secs(10)));
    assert_eq!(engine.query_timeout, Some(Duration::from_secs(60)));
    assert_eq!(engine.idle_timeout, Some(Duration::from_secs(600)));
    assert_eq!(config.repository.place.url, bench.path().join("dm-backups").display().to_string());
    assert_eq!(config.store.url.expose(), format!("{}/.dm/state.db", bench.path().display()));
    assert_eq!((config.repository.zstd_level, config.repository.threads, config.repository.jobs), (3, 4, 4));
    assert_eq!(config.repository.memory.0, 192 << 20);
    assert!(!config.repository.encryption);
    assert_eq!(config.backup.schedule.as_str(), "0 1 * * *");
    assert_eq!((config.backup.kind, config.backup.verify_after), (BackupKind::Full, VerifyAfter::Stored));
    assert_eq!(config.zone, Tz::UTC);
    assert_eq!(config.access.default_actor_roles, ["admin"]);
    assert_eq!(config.targets.len(), 1);
    assert!(config.findings().is_empty(), "{:?}", config.findings());
    assert_eq!(setting(&config, "engines.main.url"), ("postgres://app@db/shop".into(), "dm.toml:2".into()));
    assert_eq!(setting(&config, "repository.threads"), ("4 (auto)".into(), "default".into()));
}

#[test]
fn the_defaults_of_a_bare_engine_are_those_of_the_file() {
    let from_file = Bench::new().file(ONE).load();
    let (_, loaded) = from_file.engine(None).unwrap();
    let made = EngineConfig::for_url(Secret::new("postgres://app@db/shop"));
    assert_eq!(format!("{made:?}"), format!("{loaded:?}"));
}

#[test]
fn without_anything_there_is_no_engine_and_the_error_says_what_to_do() {
    let config = Bench::new().load();
    assert!(config.engines.is_empty() && config.targets.is_empty());
    let error = config.engine(None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.hint().unwrap().contains("DATABASE_URL"));
}

#[test]
fn each_layer_beats_the_one_before() {
    let file = format!("{ONE}pool_max = 7\n[profile.production.engines.main]\npool_max = 8\n");
    let pool = |bench: Bench| {
        let config = bench.load();
        (config.engine(None).unwrap().1.pool_max, setting(&config, "engines.main.pool_max").1)
    };
    assert_eq!(pool(Bench::new().file(ONE)), (10, "default".into()));
    assert_eq!(pool(Bench::new().file(ONE).profile("production")), (9, "profile production".into()));
    assert_eq!(pool(Bench::new().file(&file)), (7, "dm.toml:3".into()));
    assert_eq!(pool(Bench::new().file(&file).profile("production")), (8, "dm.toml:5".into()));
    let all = Bench::new().file(&file).profile("production").env("DB_POOL_MAX", "20");
    assert_eq!(pool(all), (20, "environment DB_POOL_MAX".into()));
}

#[test]
fn the_shipped_profiles_carry_the_guides_values() {
    let development = Bench::new().file(ONE).env("NODE_ENV", "development").load();
    assert_eq!(development.engine(None).unwrap().1.pool_max, 5);
    assert!(!development.backup.enabled && !development.monitoring.enabled);
    let staging = Bench::new().file(ONE).env("DM_PROFILE", "staging").load();
    assert_eq!(staging.engine(None).unwrap().1.pool_max, 10);
    assert!(staging.backup.enabled);
    assert_eq!(staging.repository.retention.within, Some(Period::days(3)));
    assert_eq!(staging.repository.retention.daily, 3);
    let production = Bench::new().file(ONE).profile("production").load();
    assert_eq!(production.engine(None).unwrap().1.pool_max, 9);
    assert!(production.backup.enabled && production.monitoring.enabled);
    assert_eq!(production.repository.retention.within, Some(Period::days(7)));
    assert_eq!(production.repository.retention.weekly, 4);
}

#[test]
fn the_command_line_chooses_the_profile_before_the_environment() {
    let file = format!("{ONE}[profile.qa.backup]\nkind = \"incremental\"\n");
    let bench = Bench::new().file(&file).env("NODE_ENV", "development").env("DM_PROFILE", "staging");
    assert_eq!(bench.load().profile.as_deref(), Some("staging"));
    let config = bench.profile("qa").load();
    assert_eq!((config.profile.as_deref(), config.backup.kind), (Some("qa"), BackupKind::Incremental));
    assert_eq!(config.targets.values().next().unwrap().backup.kind, BackupKind::Incremental);
}

#[test]
fn another_programs_word_for_its_profile_is_no_error() {
    let config = Bench::new().file(ONE).env("NODE_ENV", "test").load();
    assert_eq!(config.profile, None);
    assert!(config.findings()[0].message.contains("NODE_ENV is \"test\""));
    let near = Bench::new().file(ONE).env("NODE_ENV", "prodution").load();
    assert!(near.findings()[0].mend.as_ref().unwrap().contains("DM_PROFILE=production"));
}

#[test]
fn the_file_is_looked_for_in_three_places() {
    let xdg = Bench::new().other_file("home/.config/dm/dm.toml", "zone = \"Europe/Berlin\"").with_home();
    let config = xdg.load();
    assert_eq!(config.zone, Tz::Europe__Berlin);
    assert!(config.store.url.expose().ends_with("/home/.local/state/dm/state.db"));
    assert!(setting(&config, "zone").1.ends_with("/home/.config/dm/dm.toml:1"));

    let moved = xdg.env("XDG_CONFIG_HOME", "/nowhere").env("XDG_STATE_HOME", "/state");
    assert_eq!((moved.load().zone, moved.load().store.url.expose()), (Tz::UTC, "/state/dm/state.db"));

    let here = moved.file("zone = \"Asia/Tokyo\"").other_file("etc/own.toml", "zone = \"Asia/Seoul\"");
    assert_eq!(here.load().zone, Tz::Asia__Tokyo);
    let asked = here.load_from(Some("etc/own.toml")).unwrap();
    assert_eq!(asked.zone, Tz::Asia__Seoul);
    assert_eq!(asked.repository.place.url, here.path().join("etc/dm-backups").display().to_string());
    assert_eq!(asked.file, Some(here.path().join("etc/own.toml")));

    let missing = here.load_from(Some("etc/none.toml")).unwrap_err();
    assert_eq!((missing.kind(), missing.subject()), (ErrorKind::NotFound, Some("etc/none.toml")));
}

#[test]
fn relative_paths_are_reckoned_from_the_file() {
    let text = r#"
        [engines.a]
        url = "sqlite:./a.db"
        bin_dir = "~/bin"
        [engines.b]
        url = "data/b.db"
        [engines.c]
        url = "sqlite:///abs/c.db?mode=ro"
        [engines.d]
        url = "sqlite::memory:"
        [repository]
        url = "../backups"
        identity_files = ["keys/a.age", "/abs/b.age"]
    "#;
    let bench = Bench::new().other_file("etc/own.toml", text).with_home();
    let config = bench.load_from(Some("etc/own.toml")).unwrap();
    let dir = bench.path().display().to_string();
    let url = |name| config.engine(Some(name)).unwrap().1.url.expose().to_owned();
    assert_eq!(url("a"), format!("{dir}/etc/a.db"));
    assert_eq!(url("b"), format!("{dir}/etc/data/b.db"));
    assert_eq!(url("c"), "sqlite:///abs/c.db?mode=ro");
    assert_eq!(url("d"), "sqlite::memory:");
    assert_eq!(config.engine(Some("a")).unwrap().1.bin_dir, Some(bench.path().join("home/bin")));
    assert_eq!(config.repository.place.url, format!("{dir}/etc/../backups"));
    let files: Vec<String> =
        config.repository.identity_files.iter().map(|path| path.display().to_string()).collect();
    assert_eq!(files, [format!("{dir}/etc/keys/a.age"), "/abs/b.age".to_owned()]);
}

#[test]
fn a_folder_with_odd_letters_is_escaped_in_urls_only() {
    let text = "[engines.a]\nurl = \"sqlite:my%20a.db?mode=ro\"\n[engines.b]\nurl = \"what?.db\"\n";
    let bench = Bench::new().other_file("50% ?/own.toml", text);
    let config = bench.load_from(Some("50% ?/own.toml")).unwrap();
    let dir = bench.path().display().to_string();
    let url = |name| config.engine(Some(name)).unwrap().1.url.expose().to_owned();
    assert_eq!(url("a"), format!("sqlite:{dir}/50%25 %3F/my%20a.db?mode=ro"));
    assert_eq!(url("b"), format!("{dir}/50% ?/what?.db"));
    assert_eq!(config.store.url.expose(), format!("{dir}/50% ?/.dm/state.db"));
}

#[test]
fn targets_take_what_they_do_not_say_from_backup() {
    let text = r#"
        [engines.shop]
        url = "postgres://db/shop"
        [engines.blog]
        url = "postgres://db/blog"
        [backup]
        exclude_tables = ["sessions"]
        [backup.targets.shop-hourly]
        engine = "shop"
        schedule = "15 * * * *"
        kind = "incremental"
        verify_after = "quick"
    "#;
    let config = Bench::new().file(text).load();
    let names: Vec<&str> = config.targets.keys().map(dm_core::TargetName::as_str).collect();
    assert_eq!(names, ["blog", "shop-hourly"]);
    let hourly = config.targets.values().last().unwrap();
    assert_eq!(hourly.engine.as_str(), "shop");
    assert_eq!(hourly.backup.schedule.as_str(), "15 * * * *");
    assert_eq!(
        (hourly.backup.kind, hourly.backup.verify_after),
        (BackupKind::Incremental, VerifyAfter::Quick)
    );
    assert_eq!(hourly.backup.exclude_tables, ["sessions"]);
    assert!(config.engine(None).is_err());
    assert_eq!(config.engine(Some("shpo")).unwrap_err().hint(), Some("did you mean shop?"));
}

#[test]
fn roles_are_lists_of_words_or_tables() {
    let text = r#"
        [access]
        default_actor_roles = ["careful", "viewer"]
        [access.roles]
        careful = ["backup:*", { action = "backup:delete", resource = "prod-*", forbid = true }]
    "#;
    let config = Bench::new().file(text).load();
    let grants = &config.access.roles["careful"];
    assert_eq!((grants[0].action.as_str(), grants[0].resource.as_str()), ("backup:*", "*"));
    assert!(grants[1].forbid && !grants[1].read_only);
    assert_eq!(setting(&config, "access.roles.careful").0, "backup:*, not backup:delete on prod-*");
}

#[test]
fn prismas_parameters_count_for_more_than_a_profile_and_less_than_the_file() {
    let url = "postgres://app@db/shop?schema=store&connection_limit=12&pool_timeout=0&connect_timeout=3";
    let bench = Bench::new().env("DATABASE_URL", url).profile("development");
    let config = bench.load();
    let engine = config.engine(None).unwrap().1;
    assert_eq!(engine.url.expose(), url);
    assert_eq!((engine.pool_max, engine.schema.as_deref()), (12, Some("store")));
    assert_eq!((engine.acquire_timeout, engine.connect_timeout), (None, Some(Duration::from_secs(3))));
    assert_eq!(setting(&config, "engines.main.pool_max").1, "url parameter connection_limit");
    let config = bench.file("[engines.main]\npool_max = 4\n").env("DB_POOL_CONNECTION_TIMEOUT", "9").load();
    let engine = config.engine(None).unwrap().1;
    // What is overruled leaves the URL: an adapter would follow it.
    assert_eq!(engine.url.expose(), "postgres://app@db/shop?schema=store&connect_timeout=3");
    assert_eq!((engine.pool_max, engine.acquire_timeout), (4, Some(Duration::from_secs(9))));
}

#[test]
fn a_program_starts_from_the_defaults() {
    let dir = tempfile::TempDir::new().unwrap();
    let config = Config::builtin(dir.path()).unwrap();
    let config = config.with_engine("shop", EngineConfig::for_url(Secret::new("sqlite:shop.db"))).unwrap();
    assert_eq!(config.engine(None).unwrap().0.as_str(), "shop");
    assert_eq!(config.targets.len(), 1);
    let again = config.with_engine("shop", EngineConfig::for_url(Secret::new("x")));
    assert_eq!(again.unwrap_err().kind(), ErrorKind::AlreadyExists);
}

#[test]
fn a_store_has_its_keys_and_no_password_in_its_url() {
    let text = r#"
        [repository]
        url = "s3://bucket/prefix"
        endpoint = "http://127.0.0.1:9000"
        allow_http = true
        access_key = "AK"
        secret_key = "SK-secret"
        recipients = ["age1abc"]
        memory = "64 MiB"
        [repository.secondary.offsite]
        url = "gs://other"
        credentials_file = "account.json"
    "#;
    let config = Bench::new().file(text).load();
    let place = &config.repository.place;
    assert_eq!(
        (place.url.as_str(), exposed(place.secret_key.as_ref())),
        ("s3://bucket/prefix", Some("SK-secret"))
    );
    assert!(place.allow_http && config.repository.encryption);
    assert_eq!(config.repository.secondary["offsite"].url, "gs://other");
    assert!(config.findings().iter().any(|f| f.message.contains("repository.secret_key in plain text")));
    assert!(!format!("{config:?}").contains("SK-secret"));
}
