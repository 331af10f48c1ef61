//! What of a file is read, and what is known to be as in the base without being read.

use std::ops::Range;
use std::sync::Arc;

use super::Lsn;
use super::connections::{Piece, pieces};

/// Which parts of a file are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// In order, without overlaps. What lies between them, and between the last and the end, is as in the base.
    pub(super) reads: Vec<Range<u64>>,
    /// The end of the file when it was listed.
    pub(super) size: u64,
    /// Pages read that lie before this end and whose LSN is less are as in the base.
    pub(super) older: Option<(Lsn, u64)>,
}

impl Plan {
    /// Everything is read.
    pub(super) fn whole(size: u64) -> Self {
        let reads = if size > 0 { vec![Range { start: 0, end: size }] } else { Vec::new() };
        Self { reads, size, older: None }
    }

    /// Everything is read of a small file that others replace as a whole, also when it has grown since it was listed: a
    /// settings file cut off in the middle would be worse than none.
    pub(super) fn replaceable(size: u64) -> Self {
        Self { reads: vec![Range { start: 0, end: size * 2 + (64 << 10) }], size, older: None }
    }

    /// The rows that are asked for.
    pub(super) fn pieces(&self, path: &Arc<str>) -> impl Iterator<Item = Piece> + use<> {
        let path = Arc::clone(path);
        self.reads.clone().into_iter().flat_map(move |range| pieces(&path, range.start, range.end))
    }
}
