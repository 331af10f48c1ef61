//! What a writer says of a member that it wrote.

use crate::page::PackId;
use crate::writer::Shared;

/// What became of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberSummary {
    /// Its size in bytes.
    pub size: u64,
    /// Bytes of new frames, compressed.
    pub stored_bytes: u64,
    /// Bytes that the parent had.
    pub reused_bytes: u64,
    /// Bytes that an interrupted backup had stored.
    pub resumed_bytes: u64,
    /// Whether the parent has the member, and it is the same, byte for byte.
    pub unchanged: bool,
}

impl MemberSummary {
    /// Counts bytes that need not be stored again.
    pub(crate) fn found(&mut self, shared: &Shared, pack: PackId, length: u32) {
        let own = pack.backup == shared.backup;
        *(if own { &mut self.resumed_bytes } else { &mut self.reused_bytes }) += u64::from(length);
    }
}
