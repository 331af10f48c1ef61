//! Whose rows are whose: the rows of one tenant, closed along foreign keys.
//!
//! Three classes of rows belong to a tenant:
//!
//! - its *own*: rows of tables that have the column, with the tenant's value in it;
//! - their *children*: rows that refer to those, to any depth, in tables without the column (or with nothing in it). A row
//!   whose own column names another tenant is that tenant's, whatever it refers to;
//! - what these *refer to*: parents, to any depth, so that every foreign key holds. Nothing goes down again from there: a
//!   country that a customer lives in does not bring everybody else who lives in it.
//!
//! Own rows are never listed: a condition on the column names them, so that an index on it serves. The others are found set by
//! set, each step one statement over many rows, and kept as positions (`ctid`), about two bytes a row. That needs no more
//! than a read-only transaction with one snapshot: also on a standby.

mod closure;
mod graph;
mod keys;
mod rows;

pub(crate) use closure::{Closure, Found, Seed, check_value};
pub(crate) use graph::{Graph, Leaf, Node, root, unknown_column};
pub(crate) use keys::{ForeignKey, foreign_keys};
pub(crate) use rows::RowSet;
