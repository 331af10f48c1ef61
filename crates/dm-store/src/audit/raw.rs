//! A row of the chain as an engine's own interface gives it, read into memory that took the row before.
//!
//! A verification reads every column of every row. The driver that is for both engines hands each value over in copies, which
//! costs several times what reading and hashing do.

use super::{Leaf, SealedEntry};

/// What was read: the entries as they were examined, the position of the last, and why the row behind it cannot be read.
pub(super) type Read<T> = (Vec<T>, Option<i64>, Option<String>);

/// The columns of a row, one after the other.
pub(super) trait RawColumns {
    /// Why a value is not what its column holds.
    type Error;

    fn number(&mut self) -> Result<i64, Self::Error>;
    fn text(&mut self, into: &mut String) -> Result<(), Self::Error>;
    fn bytes(&mut self, into: &mut Vec<u8>) -> Result<(), Self::Error>;
    /// Whether the next column is NULL, which is passed over then.
    fn is_null(&mut self) -> Result<bool, Self::Error>;

    fn optional<T: Default>(
        &mut self,
        into: &mut Option<T>,
        read: impl FnOnce(&mut Self, &mut T) -> Result<(), Self::Error>,
    ) -> Result<(), Self::Error> {
        if self.is_null()? {
            *into = None;
            return Ok(());
        }
        read(self, into.get_or_insert_default())
    }
}

/// Reads the columns of `chain::SEALED` and [`LEAF_COLUMNS`](super::LEAF_COLUMNS). What is left in the entry after an error
/// means nothing.
pub(super) fn read<C: RawColumns>(columns: &mut C, entry: &mut SealedEntry) -> Result<(), C::Error> {
    let seal = &mut entry.seal;
    seal.seq = columns.number()?;
    seal.leaf_id = columns.number()?;
    columns.text(&mut seal.event_id)?;
    columns.bytes(&mut seal.prev_hash)?;
    columns.bytes(&mut seal.chain_hash)?;
    seal.sealed_at = columns.number()?;
    seal.epoch = columns.number()?;
    if columns.is_null()? {
        entry.leaf = None;
        return Ok(());
    }
    columns.number()?;
    read_leaf(columns, entry.leaf.get_or_insert_default())
}

fn read_leaf<C: RawColumns>(columns: &mut C, leaf: &mut Leaf) -> Result<(), C::Error> {
    leaf.version = columns.number()?;
    columns.text(&mut leaf.event_id)?;
    leaf.at = columns.number()?;
    for text in [&mut leaf.actor, &mut leaf.action, &mut leaf.resource, &mut leaf.outcome, &mut leaf.effect] {
        columns.text(text)?;
    }
    leaf.duration_us = columns.number()?;
    columns.text(&mut leaf.run_id)?;
    columns.optional(&mut leaf.details, C::text)?;
    columns.optional(&mut leaf.error, C::text)?;
    columns.optional(&mut leaf.salt, C::bytes)?;
    columns.bytes(&mut leaf.commitment)?;
    columns.bytes(&mut leaf.leaf_hash)?;
    columns.optional(&mut leaf.erased_by, C::text)
}
