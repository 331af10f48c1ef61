//! The backup repository format over object_store: packs, index pages, keys, leases, commits, tombstones.
