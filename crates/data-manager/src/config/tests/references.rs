use super::super::references::expand;
use super::{Bench, exposed, setting};

#[test]
fn variables_are_put_in() {
    let env = [("A", "1"), ("EMPTY", "")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let text = |text: &str| expand(text, &env).map(|e| e.text);
    assert_eq!(text("plain $ and $A").unwrap(), "plain $ and $A");
    assert_eq!(text("x${A}y${A}").unwrap(), "x1y1");
    assert_eq!(text("${B:-b}${EMPTY:-e}${EMPTY}").unwrap(), "be");
    assert_eq!(text("${B:-}").unwrap(), "");
    assert_eq!(text("${B:-postgres://h/d?a=b}").unwrap(), "postgres://h/d?a=b");
    assert_eq!(text("$${A}").unwrap(), "${A}");
    assert!(text("${B}").unwrap_err().contains("B, which is not set"));
    for bad in ["${A", "${}", "${1A}", "${A B}", "${A-b}"] {
        assert!(text(bad).is_err(), "{bad}");
    }
    assert_eq!(expand("${A}${A}", &env).unwrap().via, ["A"]);
}

#[test]
fn a_secret_may_stand_in_a_file() {
    let text = r#"
        [engines.main]
        url = "file:secrets/url"
        [repository]
        passphrase = "file:${KEYS}/pass"
    "#;
    let bench = Bench::new()
        .other_file("secrets/url", "postgres://a:pw@h/d\n")
        .other_file("secrets/pass", "pass phrase \r\n");
    let dir = bench.path().display().to_string();
    let config = bench.file(text).env("KEYS", &format!("{dir}/secrets")).load();
    assert_eq!(config.engine(None).unwrap().1.url.expose(), "postgres://a:pw@h/d");
    // A blank at the end belongs to a passphrase, a line break does not.
    assert_eq!(exposed(config.repository.passphrase.as_ref()), Some("pass phrase "));
    assert_eq!(setting(&config, "repository.passphrase").1, format!("dm.toml:5 (KEYS, {dir}/secrets/pass)"));
    assert!(config.findings().is_empty());
}

#[test]
fn a_variable_is_never_a_reference_itself() {
    // Prisma's form of a SQLite database.
    let config =
        Bench::new().file("[engines.main]\nurl = \"${APP_DB}\"\n").env("APP_DB", "file:./dev.db").load();
    assert!(config.engine(None).unwrap().1.url.expose().ends_with("/dev.db"));
    let config = Bench::new().env("DATABASE_URL", "file:./dev.db").load();
    assert_eq!(config.engine(None).unwrap().1.url.expose(), "file:./dev.db");
}

#[test]
fn a_reference_works_in_every_form() {
    let text = "[engines.main]\nurl = \"x.db\"\npool_max = \"${POOL}\"\nquery_timeout = \"${T:-5s}\"\n[backup]\nenabled = \"${ON}\"\ninclude_tables = [\"${T1}\", \"b\"]\nexclude_tables = \"${LIST}\"\n";
    let config =
        Bench::new().file(text).env("POOL", "6").env("ON", "no").env("T1", "a").env("LIST", "x, y").load();
    assert_eq!(config.engine(None).unwrap().1.pool_max, 6);
    assert!(!config.backup.enabled);
    assert_eq!(
        (config.backup.include_tables.join("+"), config.backup.exclude_tables.join("+")),
        ("a+b".into(), "x+y".into())
    );
}

#[test]
fn references_of_another_profile_need_not_hold() {
    let text = "[engines.main]\nurl = \"x.db\"\n[profile.production.engines.main]\nurl = \"${PROD_URL}\"\n";
    assert!(Bench::new().file(text).load_from(None).is_ok());
    assert!(Bench::new().file(text).profile("production").error().contains("PROD_URL, which is not set"));
}

#[test]
fn an_overridden_reference_need_not_hold() {
    let text = "[engines.main]\nurl = \"${NOT_SET}\"\n";
    let config = Bench::new().file(text).env("DATABASE_URL", "postgres://h/d").load();
    assert_eq!(config.engine(None).unwrap().1.url.expose(), "postgres://h/d");
}

#[test]
fn what_a_reference_led_to_is_not_told() {
    let text = "[engines.main]\nurl = \"x.db\"\npool_max = \"${PASSWORD}\"\n";
    let error = Bench::new().file(text).env("PASSWORD", "s3cret").error();
    assert!(!error.contains("s3cret") && error.contains("given by PASSWORD"), "{error}");
}
