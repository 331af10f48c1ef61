//! The programs themselves, as processes: ended with `kill -9` at any moment, and called by a server for its log.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod archive;
mod capturing;
mod drifting;
mod giving_way;
mod killed;
mod killed_upkeep;
mod migrating;
mod migrating_place;
mod migrating_tools;
mod place;
