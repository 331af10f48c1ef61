//! The audit log: leaves appended without a lock, sealed into a chain, verifiable.
