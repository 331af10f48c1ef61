//! What is written about the configuration agrees with it: the template of `dm init` and docs/configuration.md.

use std::path::Path;

use super::super::keys;
use super::super::{Config, environment_table, profiles_table, settings_table};
use super::Bench;

#[test]
fn the_template_parses_back_and_changes_nothing() {
    let text = Config::template("${DATABASE_URL}");
    let config = Bench::new().file(&text).env("DATABASE_URL", "postgres://a:pw@h/d").load();
    let bare = Bench::new().env("DATABASE_URL", "postgres://a:pw@h/d").load();
    const FOLDERS: [&str; 4] = ["repository.url", "store.url", "migrate.folder", "migrate.seeds"];
    let values = |config: &Config| -> Vec<(String, String)> {
        let settings = config.settings().into_iter();
        // The folders differ, as the two temporary ones do.
        settings.filter(|s| !FOLDERS.contains(&s.key.as_str())).map(|s| (s.key, s.value)).collect()
    };
    assert_eq!(values(&config), values(&bare));
}

#[test]
fn every_line_of_the_template_can_be_uncommented() {
    let template = Config::template("sqlite:app.db");
    let is_setting = |line: &str| {
        let rest = line.trim_start_matches("# ");
        rest.starts_with('[') || rest.split_once(" = ").is_some_and(|(name, _)| !name.contains(' '))
    };
    let text: Vec<&str> = template
        .lines()
        .map(|line| if is_setting(line) { line.trim_start_matches("# ") } else { line })
        .collect();
    let mut text = text.join("\n");
    for path in ["secrets/s3_secret_key", "secrets/dm_passphrase"] {
        text = text.replace(&format!("/run/{path}"), path);
    }
    let bench = Bench::new()
        .other_file("secrets/s3_secret_key", "x")
        .other_file("secrets/dm_passphrase", "x")
        .env("S3_ACCESS_KEY", "x")
        .env("S3_SECRET_KEY", "x")
        .env("S3_SESSION_TOKEN", "x")
        .env("SHADOW_DATABASE_URL", "x")
        .file(&text);
    let config = bench.load();
    let set: Vec<String> = config.settings().into_iter().map(|s| s.key).collect();
    for key in keys::all() {
        let name = key.path.replace("engines.*", "engines.main").replace("secondary.*", "secondary.offsite");
        let name = name.replace("targets.*", "targets.nightly").replace("roles.*", "roles.backup-operator");
        let name =
            name.replace("check.*", "check.no-negative-totals").replace("hook.*", "hook.tell-the-chat");
        assert!(set.contains(&name), "{name} is not in the template");
    }
}

#[test]
fn the_template_never_holds_a_password() {
    for url in ["postgres://a:s3cret@h/d", "postgres://h/d?password=s3cret", "host=h password=s3cret user=x"]
    {
        let text = Config::template(url);
        assert!(!text.contains("s3cret") && text.contains("\"${DATABASE_URL}\""), "{url}");
    }
    assert!(Config::template("postgres://app@h/d").contains("url = \"postgres://app@h/d\""));
    let odd = Config::template("sqlite:C:\\my \"shop\".db");
    assert!(Bench::new().file(&odd).load_from(None).is_ok(), "{odd}");
}

/// Set UPDATE_DOCS=1 to write the tables anew.
#[test]
fn the_document_has_the_tables_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let mut text = std::fs::read_to_string(&path).unwrap();
    for (name, table) in
        [("settings", settings_table()), ("environment", environment_table()), ("profiles", profiles_table())]
    {
        let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
        let from = text.find(&begin).unwrap_or_else(|| panic!("no {begin}")) + begin.len();
        let to = text.find(&end).unwrap_or_else(|| panic!("no {end}"));
        if std::env::var_os("UPDATE_DOCS").is_some() {
            text.replace_range(from..to, &table);
            std::fs::write(&path, &text).unwrap();
            continue;
        }
        assert_eq!(
            text[from..to],
            table,
            "docs/configuration.md is behind; run the tests with UPDATE_DOCS=1"
        );
    }
}
