//! The main job through the facade, on real engines and real stores.
//!
//! One binary, so that the servers are shared and the link is paid once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod bad_input;
mod drills;
mod examples;
mod interruption;
mod logs;
mod many_writers;
mod migrations;
mod object_stores;
mod operations;
mod physical;
mod physical_churn;
mod physical_majors;
mod postgres_story;
mod resuming;
mod sqlite_story;
mod support;
mod tenants;
