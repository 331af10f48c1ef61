//! Reads migrations and says what they would do to a database that is in use.
//!
//! [`lint`] finds what is dangerous, with the reason and the safe way to write it; [`effects`] says which locks each
//! statement takes, and whether it reads or rewrites a whole table. Both are pure: text in, findings out. What is known of
//! the live database — how large its tables are, which columns are classified — comes in the [`LintContext`].
//!
//! A file goes through three steps. A *reader* (one a dialect) makes `model::Statement`s of the text with the database's
//! own grammar; the *rules* look at nothing but that model; what they find is then weighed by the size of the table and held
//! against the file's `-- dm:ignore` comments.
//!
//! What this crate does not know: any driver, any server, the order in which migrations run.

mod comments;
mod finding;
mod history;
mod ignore;
mod lint;
mod locks;
mod model;
mod names;
mod postgres;
mod rules;
mod sqlite;

pub use finding::{Dialect, LintContext, LintFile, LintFinding, Severity, TableSize};
pub use lint::lint;
pub use locks::{Effect, LockMode, StatementEffects, effects};
pub use names::relations;
pub use rules::{Rule, rules};
