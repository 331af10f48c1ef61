//! An object store that counts its calls and fails, delays, holds or damages chosen ones.
//!
//! ```
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use dm_testkit::fault_store::{Fault, FaultStore, Rule};
//! use object_store::{ObjectStoreExt as _, memory::InMemory};
//!
//! let store = FaultStore::new(Arc::new(InMemory::new()));
//! store.inject(Rule::from(2, Fault::Fail));                  // a crash before the second call
//! assert!(store.put(&"a".into(), "1".into()).await.is_ok());
//! assert!(store.put(&"b".into(), "2".into()).await.is_err());
//! assert!(store.get(&"a".into()).await.is_err());
//! store.heal();                                              // the machine is up again
//! assert!(store.get(&"a".into()).await.is_ok());
//! assert!(store.get(&"b".into()).await.is_err());
//! # Ok(())
//! # }
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(f()).unwrap();
//! ```
//!
//! The usual test runs the work once with an untroubled store, reads [`FaultStore::calls`], and then runs it again for
//! every `n` up to that with a fault at `n`.

mod rule;
mod store;
mod upload;

pub use rule::{Call, Fault, Operation, Rule};
pub use store::FaultStore;
