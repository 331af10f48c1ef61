//! What the tests stand on: throwaway servers, fault injection, a settable clock, an engine in memory, and the
//! conformance suites that every adapter runs.
//!
//! A dev-dependency only; nothing of it ships. A server that is not installed makes its tests *skip, loudly*
//! ([`require!`]), and under `CI=true` fail. Servers listen on loopback and end with the test process, even a killed
//! one.

mod availability;
mod clock;
pub mod conformance;
pub mod emulators;
pub mod fault_store;
mod key_proxy;
pub mod memory_engine;
pub mod postgres;
mod runs;
mod throwaway;

pub use availability::{Failure, Unavailable, available, in_ci};
pub use clock::FixedClock;
pub use fault_store::FaultStore;
pub use key_proxy::KeyProxy;
pub use memory_engine::MemoryEngine;
pub use runs::{count, is_full, seed, seeds};
pub use throwaway::{cache_dir, wait_until};
