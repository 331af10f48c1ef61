//! The rules over files, and the table of locks over real servers.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod locks;
mod more;
mod pairs;
