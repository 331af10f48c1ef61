//! The command line as people and programs meet it: help, answers, errors and exit codes.
//!
//! Everything runs in this process through `dm_cli::run`, on SQLite files in throwaway folders.

// Tests may fail by unwrapping; the lint spares only functions marked as tests.
#![allow(clippy::unwrap_used)]

mod audit;
mod capture;
mod demo;
mod documents;
mod errors;
mod exits;
mod harness;
mod help;
mod holds;
mod keys;
mod log;
mod pages;
mod places;
mod questions;
mod recovery;
