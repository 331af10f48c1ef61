use std::time::Duration;

use dm_core::Period;

use super::super::keys;
use super::super::variables::{ENVIRONMENT, Strength};
use super::{Bench, exposed, setting};

const URL: &str =
    "postgresql://user:pa55word@host:5432/dbname?schema=public&connection_limit=10&pool_timeout=20";

/// The guide's whole environment.
fn guide() -> Bench {
    let mut bench = Bench::new();
    for (name, value) in [
        ("DATABASE_URL", URL),
        ("SHADOW_DATABASE_URL", "postgresql://user:pa55word@host:5432/shadow?schema=public"),
        ("DB_POOL_MAX", "20"),
        ("DB_POOL_CONNECTION_TIMEOUT", "21"),
        ("DB_CONNECT_TIMEOUT", "11"),
        ("DB_QUERY_TIMEOUT", "60500"),
        ("DB_IDLE_TIMEOUT", "600000"),
        ("BACKUP_ENABLED", "true"),
        ("BACKUP_SCHEDULE", "0 2 * * *"),
        ("BACKUP_RETENTION_DAYS", "9"),
        ("BACKUP_S3_BUCKET", "your-backup-bucket"),
        ("BACKUP_S3_REGION", "us-east-1"),
        ("BACKUP_ENCRYPTION_ENABLED", "true"),
        ("BACKUP_ENCRYPTION_KEY", "your-encryption-key"),
        ("SOFT_DELETE_GRACE_PERIOD_DAYS", "31"),
        ("PERMANENT_DELETE_SCHEDULE", "0 3 * * *"),
        ("DB_MONITORING_ENABLED", "true"),
        ("DB_CONNECTION_TIME_THRESHOLD", "5001"),
        ("DB_QUERY_TIME_THRESHOLD", "10001"),
        ("DB_CONNECTION_COUNT_THRESHOLD", "16"),
    ] {
        bench = bench.env(name, value);
    }
    bench
}

#[test]
fn the_guides_names_work_in_their_own_units() {
    let config = guide().load();
    let engine = config.engine(None).unwrap().1;
    assert_eq!(engine.url.expose(), "postgresql://user:pa55word@host:5432/dbname?schema=public");
    assert!(exposed(engine.shadow_url.as_ref()).unwrap().contains("/shadow"));
    assert_eq!(engine.pool_max, 20);
    assert_eq!(engine.acquire_timeout, Some(Duration::from_secs(21)));
    assert_eq!(engine.connect_timeout, Some(Duration::from_secs(11)));
    assert_eq!(engine.query_timeout, Some(Duration::from_millis(60_500)));
    assert_eq!(engine.idle_timeout, Some(Duration::from_secs(600)));
    assert!(config.backup.enabled);
    assert_eq!(config.backup.schedule.as_str(), "0 2 * * *");
    assert_eq!(config.repository.retention.within, Some(Period::days(9)));
    assert_eq!(config.repository.place.url, "s3://your-backup-bucket");
    assert_eq!(config.repository.place.region.as_deref(), Some("us-east-1"));
    assert!(config.repository.encryption);
    assert_eq!(exposed(config.repository.passphrase.as_ref()), Some("your-encryption-key"));
    assert_eq!(config.retention.soft_delete_grace_days, 31);
    assert_eq!(config.retention.purge_schedule.as_str(), "0 3 * * *");
    assert!(config.monitoring.enabled);
    assert_eq!(config.monitoring.connection_time_threshold_ms, 5001);
    assert_eq!(config.monitoring.query_time_threshold_ms, 10_001);
    assert_eq!(config.monitoring.connection_count_threshold, 16);
    assert_eq!(
        setting(&config, "engines.main.query_timeout"),
        ("1m500ms".into(), "environment DB_QUERY_TIMEOUT".into())
    );
}

#[test]
fn no_secret_shows() {
    let config =
        guide().env("AWS_ACCESS_KEY_ID", "AKIA123").env("AWS_SECRET_ACCESS_KEY", "aws-s3cret").load();
    let text = format!("{config:?} {}", serde_json::to_string(&config.settings()).unwrap());
    for secret in ["pa55word", "your-encryption-key", "AKIA123", "aws-s3cret"] {
        assert!(!text.contains(secret), "{secret} shows in {text}");
    }
    assert_eq!(
        setting(&config, "repository.secret_key"),
        ("[redacted]".into(), "environment AWS_SECRET_ACCESS_KEY".into())
    );
    assert!(setting(&config, "engines.main.url").0.starts_with("postgresql://user:***@host:5432/dbname?"));
}

#[test]
fn a_folder_is_primary_and_the_bucket_beside_it_secondary() {
    let bench = guide().env("BACKUP_DIR", "./backups");
    let config = bench.load();
    assert_eq!(config.repository.place.url, bench.path().join("backups").display().to_string());
    assert_eq!(config.repository.place.region, None);
    let s3 = &config.repository.secondary["s3"];
    assert_eq!((s3.url.as_str(), s3.region.as_deref()), ("s3://your-backup-bucket", Some("us-east-1")));

    let second = |f: &&dm_core::Finding| f.message.contains("repository.secondary.s3.url");
    assert!(!config.findings().iter().any(|f| second(&f)), "it is used");

    let folder = guide().file("[repository]\nurl = \"/srv/backups\"\n").load();
    assert_eq!(folder.repository.place.url, "/srv/backups");
    assert_eq!(folder.repository.secondary["s3"].url, "s3://your-backup-bucket");

    let bucket = guide().file("[repository]\nurl = \"s3://file-bucket\"\n").load();
    assert_eq!(bucket.repository.place.url, "s3://your-backup-bucket");
    assert!(bucket.repository.secondary.is_empty());
}

#[test]
fn a_name_that_other_programs_share_only_fills_in() {
    let s3 = "[repository]\nurl = \"s3://bucket\"\n";
    let bench = |text: &str| {
        Bench::new()
            .file(text)
            .env("AWS_ACCESS_KEY_ID", "id")
            .env("AWS_SECRET_ACCESS_KEY", "key")
            .env("AWS_SESSION_TOKEN", "token")
            .env("AWS_REGION", "eu-west-1")
            .env("AWS_DEFAULT_REGION", "eu-west-2")
            .env("AWS_ENDPOINT_URL", "https://s3.example.com")
    };
    let place = bench(s3).load().repository.place;
    assert_eq!(exposed(place.access_key.as_ref()), Some("id"));
    assert_eq!(exposed(place.session_token.as_ref()), Some("token"));
    assert_eq!(
        (place.region.as_deref(), place.endpoint.as_deref()),
        (Some("eu-west-1"), Some("https://s3.example.com"))
    );

    let own = format!("{s3}access_key = \"${{MINE}}\"\nsecret_key = \"${{MINE}}\"\nregion = \"garage\"\n");
    let place = bench(&own).env("MINE", "mine").load().repository.place;
    assert_eq!(exposed(place.secret_key.as_ref()), Some("mine"));
    assert_eq!((exposed(place.session_token.as_ref()), place.region.as_deref()), (None, Some("garage")));

    let folder = bench("[repository]\nurl = \"/srv\"\n").load().repository.place;
    assert!(folder.access_key.is_none() && folder.region.is_none());
}

#[test]
fn the_database_names_mean_main_or_the_only_engine() {
    let shop = "[engines.shop]\nurl = \"postgres://db/shop\"\n";
    let one = Bench::new().file(shop).env("DB_POOL_MAX", "3").load();
    assert_eq!(one.engine(None).unwrap().1.pool_max, 3);

    let two = format!("{shop}[engines.blog]\nurl = \"postgres://db/blog\"\n");
    let unclear = Bench::new().file(&two).env("DB_POOL_MAX", "3").load();
    assert_eq!(unclear.engine(Some("shop")).unwrap().1.pool_max, 10);
    assert!(unclear.findings()[0].message.contains("DB_POOL_MAX"), "{:?}", unclear.findings());

    let main = format!("{two}[engines.main]\nurl = \"postgres://db/main\"\n");
    let main = Bench::new().file(&main).env("DB_POOL_MAX", "3").load();
    assert_eq!(
        (main.engine(None).unwrap().1.pool_max, main.engine(Some("shop")).unwrap().1.pool_max),
        (3, 10)
    );

    assert!(Bench::new().env("DB_POOL_MAX", "3").load().engines.is_empty());
}

#[test]
fn database_url_never_takes_over_an_engine_of_another_name() {
    let shop = "[engines.shop]\nurl = \"postgres://db/shop\"\n";
    let config = Bench::new().file(shop).env("DATABASE_URL", URL).load();
    assert_eq!(config.engine(None).unwrap().1.url.expose(), "postgres://db/shop");
    assert!(config.findings()[0].message.starts_with("DATABASE_URL is set but not used"));

    let used = "[engines.shop]\nurl = \"${DATABASE_URL}\"\n";
    let config = Bench::new().file(used).env("DATABASE_URL", URL).load();
    assert_eq!(config.engine(None).unwrap().1.url.expose(), URL);
    assert!(config.findings().is_empty(), "{:?}", config.findings());
    assert_eq!(setting(&config, "engines.shop.url").1, "dm.toml:2 (DATABASE_URL)");

    let main = "[engines.main]\nurl = \"postgres://db/other\"\n";
    let config = Bench::new().file(main).env("DATABASE_URL", URL).load();
    assert_eq!(config.engine(None).unwrap().1.url.expose(), URL);
    assert!(config.findings()[0].message.contains("overrides the url of the engine main at dm.toml:2"));

    let empty = "[engines.main]\nbin_dir = \"/opt/bin\"\n";
    assert_eq!(
        Bench::new().file(empty).env("DATABASE_URL", URL).load().engine(None).unwrap().1.url.expose(),
        URL
    );
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let config = Bench::new().env("DATABASE_URL", "").env("BACKUP_S3_BUCKET", " ").env("NODE_ENV", "").load();
    assert!(config.engines.is_empty() && config.findings().is_empty());
    assert!(config.repository.place.url.ends_with("/dm-backups"));
}

#[test]
fn a_number_with_a_unit_says_it_itself() {
    let config = guide().env("DB_QUERY_TIMEOUT", "2m").env("DB_IDLE_TIMEOUT", "0").load();
    let engine = config.engine(None).unwrap().1;
    assert_eq!((engine.query_timeout, engine.idle_timeout), (Some(Duration::from_secs(120)), None));
    let config = guide().env("BACKUP_RETENTION_DAYS", "2 weeks").load();
    assert_eq!(config.repository.retention.within, Some(Period::days(14)));
}

#[test]
fn every_variable_leads_to_a_setting() {
    for env in ENVIRONMENT.iter().filter(|env| env.strength != Strength::Chooses) {
        let pattern = env.key.replace("engines.main.", "engines.*.");
        assert!(keys::all().any(|key| key.path == pattern), "{} leads to {}", env.name, env.key);
    }
}
