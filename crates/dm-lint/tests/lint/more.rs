//! What pairs of files do not show.

use std::collections::BTreeMap;

use dm_lint::{Dialect, LintContext, LintFile, Severity, TableSize, lint, relations};

use crate::pairs::{context, file};

fn names(dialect: Dialect, text: &str) -> Vec<&'static str> {
    lint(dialect, &[file(text)], &context()).iter().map(|f| f.rule).collect()
}

#[test]
fn a_small_table_makes_notices_and_a_large_one_errors() {
    let judged = |rows, bytes| {
        let sizes = BTreeMap::from([("orders".to_owned(), TableSize { rows, bytes })]);
        let context = LintContext { sizes: Some(sizes), ..context() };
        let found = lint(Dialect::Postgres, &[file("CREATE INDEX i ON orders (placed);")], &context);
        (found[0].severity, found[0].size.map(|s| s.rows))
    };
    assert_eq!(judged(10, 8192), (Severity::Notice, Some(10)));
    assert_eq!(judged(10_000_000, 1 << 30), (Severity::Error, Some(10_000_000)));
    // Few rows, but large ones.
    assert_eq!(judged(10, 1 << 30).0, Severity::Error);
}

#[test]
fn losing_rows_is_no_notice_on_a_small_table() {
    let sizes = BTreeMap::from([("orders".to_owned(), TableSize { rows: 1, bytes: 8192 })]);
    let context = LintContext { sizes: Some(sizes), ..context() };
    assert_eq!(lint(Dialect::Postgres, &[file("DROP TABLE orders;")], &context)[0].severity, Severity::Error);
}

#[test]
fn an_applied_file_is_read_and_not_judged() {
    let applied = LintFile {
        judged: false,
        ..file(
            "ALTER TABLE orders ADD CONSTRAINT set CHECK (total IS NOT NULL) NOT VALID;\nALTER TABLE orders VALIDATE CONSTRAINT set;",
        )
    };
    let next = file("ALTER TABLE public.orders ALTER total SET NOT NULL;");
    assert_eq!(lint(Dialect::Postgres, &[applied.clone(), next.clone()], &context()), []);
    assert_eq!(lint(Dialect::Postgres, &[next], &context())[0].rule, "set-not-null");
}

#[test]
fn an_ignore_is_for_its_statement_alone() {
    let text = "DROP TABLE a; -- dm:ignore drop-table: it was never used\nDROP TABLE b;\nDROP TABLE c;";
    let found = lint(Dialect::Postgres, &[file(text)], &context());
    let lines: Vec<usize> = found.iter().filter(|f| f.rule == "drop-table").map(|f| f.line).collect();
    // Behind a statement's semicolon it is before the next one.
    assert_eq!(lines, [1, 3]);
    let inside = "DROP TABLE a -- dm:ignore drop-table: it was never used\n;";
    assert_eq!(names(Dialect::Postgres, inside), [""; 0]);
    // In a string it is none.
    let quoted = "SELECT '-- dm:ignore drop-table: no'; DROP TABLE a;";
    assert_eq!(names(Dialect::Postgres, quoted), ["drop-table"]);
}

#[test]
fn syntax_errors_say_where_and_what_to_look_for() {
    for (dialect, text, line, column, hint) in [
        (Dialect::Postgres, "SELECT 1;\nCREATE TABLE t (id bigint,);", 2, 26, "remove the comma"),
        (Dialect::Postgres, "CREATE TABLE t (id bigint", 1, 26, "ends in the middle"),
        (Dialect::Sqlite, "SELECT 1;\n\n  CREATE TABEL t (id);", 3, 10, "comma"),
        (Dialect::Sqlite, "ALTER TABLE t ALTER COLUMN a TYPE text;", 1, 30, "table anew"),
    ] {
        let found = lint(dialect, &[file(text)], &context());
        let error =
            found.iter().find(|f| f.rule == "syntax-error").unwrap_or_else(|| panic!("{text}: {found:?}"));
        assert_eq!((error.line, error.column), (line, column), "{text}: {error:?}");
        assert!(error.rewrite.contains(hint), "{text}: {}", error.rewrite);
    }
}

#[test]
fn both_dialects_know_what_is_lost() {
    for dialect in [Dialect::Postgres, Dialect::Sqlite] {
        assert_eq!(names(dialect, "DROP TABLE things;"), ["drop-table"]);
        assert_eq!(names(dialect, "ALTER TABLE things DROP COLUMN a;"), ["drop-column"]);
        assert_eq!(names(dialect, "ALTER TABLE things RENAME COLUMN a TO b;"), ["rename-column"]);
        assert_eq!(
            names(dialect, "ALTER TABLE things ADD COLUMN a text NOT NULL;"),
            ["required-column-without-default"]
        );
        assert_eq!(
            names(dialect, "CREATE TABLE t (a bigint REFERENCES b (id));"),
            ["foreign-key-without-index"]
        );
        assert_eq!(names(dialect, "CREATE TABLE people (email text);"), ["personal-data-unclassified"]);
    }
}

#[test]
fn classified_columns_are_known() {
    let text = "CREATE TABLE people (email text); CREATE TABLE staff (phone text, city text);";
    let classified = ["people.email".to_owned(), "staff.*".to_owned()].into();
    assert_eq!(lint(Dialect::Postgres, &[file(text)], &LintContext { classified, ..context() }), []);
}

#[test]
fn quoted_and_qualified_names_are_the_same_table() {
    let text = "CREATE TABLE public.\"Orders\" (a bigint); CREATE INDEX ON \"Orders\" (a); CREATE INDEX ON orders (a);";
    assert_eq!(names(Dialect::Postgres, text), ["index-not-concurrent"]);
}

#[test]
fn bodies_of_functions_are_not_the_migrations_statements() {
    let text = "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN DROP TABLE orders; END $$;\n\
                CREATE TRIGGER t AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION f();";
    assert_eq!(names(Dialect::Postgres, text), [""; 0]);
    let text = "CREATE TRIGGER t AFTER INSERT ON orders BEGIN DELETE FROM log; END;";
    assert_eq!(names(Dialect::Sqlite, text), [""; 0]);
}

#[test]
fn an_empty_file_and_one_of_comments_have_no_findings() {
    for dialect in [Dialect::Postgres, Dialect::Sqlite] {
        assert_eq!(names(dialect, ""), [""; 0]);
        assert_eq!(names(dialect, "-- nothing\n/* yet */"), [""; 0]);
    }
}

#[test]
fn a_statement_names_its_tables_and_no_words() {
    let named =
        |dialect, text| relations(dialect, text).map(|names| names.into_iter().collect::<Vec<_>>().join(" "));
    for (text, expected) in [
        (
            "UPDATE orders o SET note = 'items' FROM app.\"Users\" u WHERE o.id = u.items",
            Some("app.Users orders"),
        ),
        (
            "INSERT INTO public.a (b) SELECT c FROM d JOIN e USING (f) WHERE c IN (SELECT g FROM h)",
            Some("a d e h"),
        ),
        ("ALTER TABLE a ADD CONSTRAINT b FOREIGN KEY (c) REFERENCES d (e)", Some("a d")),
        ("CREATE INDEX CONCURRENTLY users ON orders (items) -- of users", Some("orders")),
        ("CREATE VIEW v AS SELECT * FROM a", Some("a")),
        ("DO $$ BEGIN DELETE FROM a; END $$", None),
        ("ALTER TABL a", None),
    ] {
        assert_eq!(named(Dialect::Postgres, text).as_deref(), expected, "{text}");
    }
    for (text, expected) in [
        ("CREATE INDEX users ON orders (items)", Some("orders")),
        ("ALTER TABLE a ADD COLUMN b REFERENCES c (d)", Some("a c")),
        ("DROP TABLE \"Orders\"", Some("orders")),
        ("INSERT INTO a SELECT * FROM b", None),
    ] {
        assert_eq!(named(Dialect::Sqlite, text).as_deref(), expected, "{text}");
    }
}
