//! Golden texts of what people get wrong.

use super::Bench;

/// Compares with `snapshots/<name>.snap`.
fn golden(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

fn refused(file: &str) -> String {
    Bench::new().file(file).error()
}

#[test]
fn misspelt_keys() {
    let cases = [
        "[engines.main]\nurl = \"x.db\"\npool_maks = 5\n",
        "[engine.main]\nurl = \"x.db\"\n",
        "[repository]\ncompression = 5\n",
        "pool_max = 5\n",
        "[profile.production.backup]\nshedule = \"0 2 * * *\"\n",
        "[backup.targets.\"My Shop\"]\nengine = \"main\"\n",
    ];
    golden("misspelt_keys", &cases.map(refused).join("\n"));
}

#[test]
fn wrong_forms() {
    let cases = [
        "engines = \"postgres://h/d\"\n",
        "[engines.main]\nurl = 5\n",
        "[engines.main]\nurl = \"x.db\"\nacquire_timeout = 20\n",
        "[engines.main]\nurl = \"x.db\"\nacquire_timeout = \"20 fortnights\"\n",
        "[engines.main]\nurl = \"x.db\"\npool_max = \"5\"\n",
        "[engines.main]\nurl = \"x.db\"\npool_max = 0\n",
        "[engines.main]\nurl = [\"x.db\"]\n",
        "[repository]\nzstd_level = 30\n",
        "[repository]\nmemory = \"lots\"\n",
        "[repository]\nurl = \"s3://key:s3cret@bucket\"\n",
        "[repository]\nencryption = \"yes\"\n",
        "[repository]\nrecipients = \"age1abc\"\n",
        "[repository.retention]\nwithin = 7\n",
        "[backup]\nschedule = \"0 2 * *\"\n",
        "[backup]\nschedule = \"61 2 * * *\"\n",
        "[backup]\nschedule = \"0 0 31 2 *\"\n",
        "[backup]\nkind = \"inkremental\"\n",
        "zone = \"Europe/Berln\"\n",
        "zone = 2026-01-01\n",
        "profile = \"production\"\n",
        "[access.roles]\nx = [\"backup\"]\n",
        "[access.roles]\nx = [{ action = \"backup:*\", recource = \"a\" }]\n",
    ];
    golden("wrong_forms", &cases.map(refused).join("\n"));
}

#[test]
fn things_that_do_not_exist() {
    let cases = [
        "[engines.main]\npool_max = 5\n",
        "[engines.shop]\nurl = \"x.db\"\n[backup.targets.nightly]\nengine = \"shpo\"\n",
        "[engines.shop]\nurl = \"x.db\"\n[backup.targets.nightly]\n",
        "[access]\ndefault_actor_roles = [\"amdin\"]\n",
        "[repository.secondary.offsite]\nregion = \"x\"\n",
        "[engines.main]\nurl = \"${NOT_SET}\"\n",
        "[engines.main]\nurl = \"file:/none/there\"\n",
        "[engines.main]\nurl = \"${HALF\"\n",
        "[engines.main]\nurl = \"postgres://u:s3cret@h/d?connection_limit=many\"\n",
    ];
    golden("things_that_do_not_exist", &cases.map(refused).join("\n"));
}

#[test]
fn every_problem_is_named_at_once() {
    let file = "[engines.main]\nurl = \"x.db\"\npool_maks = 5\n\n[repository]\nzstd_level = 30\n[backup]\nenabeld = true\n";
    golden("every_problem_is_named_at_once", &refused(file));
}

#[test]
fn not_toml() {
    let secret = refused("[engines.main]\nurl = \"postgres://u:s3cret@h/d\n");
    assert!(!secret.contains("s3cret"), "{secret}");
    let cases = ["[engines.main\n", "a = 1\na = 2\n", "[engines.main]\nurl = postgres://h/d\n"];
    golden("not_toml", &cases.map(refused).join("\n"));
}

#[test]
fn wrong_variables() {
    let with = |name: &str, value: &str| Bench::new().env("DATABASE_URL", "x.db").env(name, value).error();
    let cases = [
        with("DB_POOL_MAX", "many"),
        with("DB_POOL_MAX", "0"),
        with("DB_QUERY_TIMEOUT", "1.5"),
        with("DB_POOL_CONNECTION_TIMEOUT", "soon"),
        with("BACKUP_ENABLED", "maybe"),
        with("BACKUP_SCHEDULE", "daily"),
        with("BACKUP_RETENTION_DAYS", "-1"),
    ];
    golden("wrong_variables", &cases.join("\n"));
}

#[test]
fn misspelt_profiles() {
    let cases = [
        Bench::new().profile("prodution").error(),
        Bench::new().env("DM_PROFILE", "live").error(),
        Bench::new().file("[profile.live]\n").profile("lief").error(),
    ];
    golden("misspelt_profiles", &cases.join("\n"));
    let config = Bench::new().file("[profile.prodution]\n").load();
    assert!(config.findings()[0].mend.as_ref().unwrap().contains("[profile.production]"));
}

#[test]
fn a_database_is_not_a_secret_file() {
    let bench = Bench::new()
        .other_file("app.db", "SQLite format 3\0and more")
        .file("[engines.main]\nurl = \"file:app.db\"\n");
    assert!(bench.error().contains("a SQLite database is written sqlite:<dir>/app.db"), "{}", bench.error());
}
