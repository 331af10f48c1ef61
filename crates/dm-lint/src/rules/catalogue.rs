//! Every rule with its reason. Files under `tests/lint/fixtures` show each of them firing, and its neighbour that is fine.

use super::Rule;
use crate::finding::Dialect::{self, Postgres, Sqlite};
use crate::finding::Severity::{Error, Warning};

const BOTH: &[Dialect] = &[Postgres, Sqlite];
const POSTGRES: &[Dialect] = &[Postgres];
const SQLITE: &[Dialect] = &[Sqlite];

/// A rule about time: a lock held over a scan or a rewrite.
const fn slow(name: &'static str, summary: &'static str, why: &'static str) -> Rule {
    Rule { name, severity: Error, weighed: true, always: false, dialects: POSTGRES, summary, why }
}

/// A rule about what breaks, whatever the size.
const fn breaks(
    name: &'static str,
    dialects: &'static [Dialect],
    summary: &'static str,
    why: &'static str,
) -> Rule {
    Rule { name, severity: Error, weighed: false, always: false, dialects, summary, why }
}

/// A rule about what will be regretted.
const fn regret(
    name: &'static str,
    dialects: &'static [Dialect],
    summary: &'static str,
    why: &'static str,
) -> Rule {
    Rule { name, severity: Warning, weighed: false, always: false, dialects, summary, why }
}

pub(super) const RULES: &[Rule] = &[
    // The file itself.
    Rule {
        always: true,
        ..breaks(
            "syntax-error",
            BOTH,
            "the text is not SQL",
            "a file that the database cannot read stops the deployment half way",
        )
    },
    Rule {
        always: true,
        ..breaks(
            "unknown-ignore",
            BOTH,
            "an ignore comment names no rule",
            "a misspelt exception excuses nothing, and the next reader believes that it does",
        )
    },
    Rule {
        always: true,
        ..breaks(
            "ignore-without-reason",
            BOTH,
            "an ignore comment gives no reason",
            "whoever meets the exception in a year has to know why it was safe",
        )
    },
    // Transactions and timeouts.
    regret(
        "lock-timeout-missing",
        POSTGRES,
        "a lock is waited for without a limit",
        "a statement that waits for a lock makes everybody behind it wait too; without a limit one forgotten transaction stops the application",
    ),
    regret(
        "statement-timeout-missing",
        POSTGRES,
        "a statement may run without a limit",
        "whatever holds a lock has to end some day, also when the table is larger than anybody thought",
    ),
    breaks(
        "begin-without-commit",
        BOTH,
        "a transaction is opened and never closed",
        "everything that it did is rolled back when the connection ends, though each statement succeeded",
    ),
    breaks(
        "nested-transaction",
        BOTH,
        "a transaction is opened within one",
        "there are no nested transactions: the inner COMMIT ends the outer one, and a later failure no longer undoes what came before",
    ),
    slow(
        "statement-after-exclusive-lock",
        "more work is done while readers wait",
        "the lock is held to the end of the transaction, so readers wait for every statement after it too",
    ),
    Rule {
        severity: Warning,
        ..slow(
            "many-alters-of-one-table",
            "a table is altered several times",
            "each ALTER TABLE may scan or rewrite the table for itself; one statement with several actions does it once",
        )
    },
    // Indexes.
    slow(
        "index-not-concurrent",
        "CREATE INDEX without CONCURRENTLY",
        "writers wait until the whole table has been read and the index built",
    ),
    slow(
        "drop-index-not-concurrent",
        "DROP INDEX without CONCURRENTLY",
        "it waits for every running query on the table, and everybody else waits behind it",
    ),
    slow(
        "reindex-not-concurrent",
        "REINDEX without CONCURRENTLY",
        "writers wait until the index is built, and readers that would use it",
    ),
    slow(
        "refresh-not-concurrent",
        "REFRESH MATERIALIZED VIEW without CONCURRENTLY",
        "readers of the view wait until it is computed",
    ),
    breaks(
        "concurrent-in-transaction",
        POSTGRES,
        "a concurrent operation inside a transaction",
        "the server refuses it: it needs transactions of its own",
    ),
    breaks(
        "concurrent-shares-file",
        POSTGRES,
        "a concurrent operation shares its file",
        "outside of a transaction a failure leaves the statements before it done; alone in its file there is nothing to leave",
    ),
    regret(
        "foreign-key-without-index",
        BOTH,
        "the columns of a foreign key have no index",
        "deleting or changing a row of the other table reads this one from end to end, holding locks",
    ),
    // Constraints.
    slow(
        "foreign-key-validates",
        "a foreign key is added and checked at once",
        "both tables refuse writes until every row has been checked",
    ),
    slow(
        "check-validates",
        "a CHECK is added and checked at once",
        "readers and writers wait until every row has been checked",
    ),
    slow(
        "validate-in-same-transaction",
        "a constraint is validated in the transaction that adds it",
        "the lock of adding it is still held, so splitting it in two gains nothing",
    ),
    slow(
        "set-not-null",
        "SET NOT NULL without a validated CHECK",
        "readers and writers wait until every row has been looked at",
    ),
    slow(
        "unique-without-index",
        "a UNIQUE constraint builds its index",
        "readers and writers wait until the whole index is built",
    ),
    slow(
        "primary-key-without-index",
        "a PRIMARY KEY builds its index",
        "readers and writers wait until the whole index is built, and until every row is known not to be null",
    ),
    slow(
        "exclusion-constraint",
        "an exclusion constraint builds its index",
        "readers and writers wait until every row has been compared; there is no way to do it concurrently",
    ),
    // Columns.
    breaks(
        "required-column-without-default",
        BOTH,
        "a required column without a default",
        "it fails as soon as the table has a row, and inserts of the running application fail from then on",
    ),
    slow(
        "volatile-default",
        "a default that differs from row to row",
        "every row is rewritten while readers and writers wait",
    ),
    slow(
        "stored-generated-column",
        "a stored generated column",
        "every row is rewritten while readers and writers wait",
    ),
    slow(
        "serial-column",
        "a serial or identity column on a table with rows",
        "every row is rewritten while readers and writers wait",
    ),
    slow(
        "type-change",
        "a column's type changes",
        "most changes rewrite the table and its indexes while readers and writers wait",
    ),
    breaks(
        "rename-column",
        BOTH,
        "a column gets another name",
        "the running application asks for the old name until its last instance is replaced",
    ),
    breaks(
        "rename-table",
        BOTH,
        "a table gets another name",
        "the running application asks for the old name until its last instance is replaced",
    ),
    // Removals.
    breaks("drop-table", BOTH, "a table is dropped", "its rows are gone; only a backup brings them back"),
    breaks(
        "drop-column",
        BOTH,
        "a column is dropped",
        "its values are gone, and the running application may still ask for it",
    ),
    regret(
        "drop-not-null",
        POSTGRES,
        "NOT NULL is dropped",
        "code that reads the column does not expect nulls, and the constraint is not put back while there are any",
    ),
    regret(
        "drop-foreign-key",
        POSTGRES,
        "a foreign key is dropped",
        "both tables are locked against readers, and from then on rows may refer to nothing",
    ),
    breaks(
        "truncate-cascade",
        POSTGRES,
        "TRUNCATE … CASCADE",
        "every table that refers to it is emptied too, and theirs; the statement does not name them",
    ),
    breaks("drop-database", POSTGRES, "a database is dropped", "everything in it is gone"),
    slow(
        "detach-not-concurrent",
        "DETACH PARTITION without CONCURRENTLY",
        "readers and writers of the whole partitioned table wait",
    ),
    // Rows.
    slow(
        "unbatched-backfill",
        "all rows are changed in one statement",
        "the locks of all changed rows are held to the end, and the dead versions cannot be cleaned before it",
    ),
    // Types and names.
    regret(
        "enum-value-without-position",
        POSTGRES,
        "an enum's value gets no position",
        "values sort by their position: at the end is rarely meant, and it cannot be changed later",
    ),
    regret(
        "int32-key",
        POSTGRES,
        "a key of 32 bits",
        "at 2 147 483 647 inserts fail, and widening it rewrites the table and everything that refers to it",
    ),
    regret(
        "json-type",
        POSTGRES,
        "json rather than jsonb",
        "json has no equality: DISTINCT, GROUP BY and UNION fail, and it cannot be indexed",
    ),
    regret(
        "char-type",
        POSTGRES,
        "char(n)",
        "it pads with blanks, which come back in comparisons and lengths, and saves nothing",
    ),
    regret(
        "naive-timestamp",
        POSTGRES,
        "a timestamp without a time zone",
        "it says a different instant to every session with another time zone",
    ),
    regret(
        "identifier-too-long",
        POSTGRES,
        "a name over 63 bytes",
        "the server cuts it silently; two long names may become one",
    ),
    // Personal data.
    regret(
        "personal-data-unclassified",
        BOTH,
        "a new column looks like personal data and is not classified",
        "what is not classified is not found when a person asks for it, or asks to be forgotten",
    ),
    // SQLite.
    breaks(
        "foreign-keys-in-transaction",
        SQLITE,
        "PRAGMA foreign_keys inside a transaction",
        "there it does nothing and says nothing: a rebuild then deletes the rows that refer to the table",
    ),
    breaks(
        "rebuild-loses-indexes",
        SQLITE,
        "a table made anew loses its indexes",
        "dropping the old table drops its indexes, and nothing brings them back",
    ),
    breaks(
        "rebuild-loses-triggers",
        SQLITE,
        "a table made anew loses its triggers",
        "dropping the old table drops its triggers, and nothing brings them back",
    ),
];
