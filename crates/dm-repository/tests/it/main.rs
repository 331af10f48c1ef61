//! The repository's tests, in one binary.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::large_futures,
    unreachable_pub,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap
)]

mod budget;
mod checkpoints;
mod copy;
mod damage;
mod delta;
mod faults;
mod fixture;
mod folder;
mod holds;
mod hostile;
mod leases;
mod listing_cost;
mod logs;
mod model;
mod races;
mod rate;
mod resume;
mod rewrap;
mod rewrap_judged;
mod round_trip;
mod sparse;
mod store;
mod support;
mod unchanged;
