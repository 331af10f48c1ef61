//! Which calls are troubled, and how.

use std::time::Duration;

use object_store::path::Path;

/// What is asked of the store. Each is counted as one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Storing an object whole.
    Put,
    /// Beginning an upload in parts.
    PutMultipart,
    /// Uploading one part.
    PutPart,
    /// Putting the parts together.
    Complete,
    /// Giving an upload up.
    Abort,
    /// Reading an object or a range of it.
    Get,
    /// Reading several ranges.
    GetRanges,
    /// Looking at an object without reading it.
    Head,
    /// Removing one object.
    Delete,
    /// Listing, flat or by delimiter.
    List,
    /// Copying.
    Copy,
    /// Renaming.
    Rename,
}

impl Operation {
    /// Whether it can change what is stored.
    #[must_use]
    pub fn writes(self) -> bool {
        !matches!(self, Self::Get | Self::GetRanges | Self::Head | Self::List)
    }
}

/// One call that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Counted from 1, in the order the calls began.
    pub number: u64,
    /// What was asked.
    pub operation: Operation,
    /// The object, or the prefix of a listing.
    pub path: Path,
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing is done, the caller gets an error.
    Fail,
    /// Nothing is done: no permission.
    Deny,
    /// Nothing is done: the disk is full.
    FullDisk,
    /// It is done, and the caller gets an error all the same: the answer was lost.
    LoseAnswer,
    /// A write of a whole object, a copy or a deletion is done twice, and the answer is that of the second time: a network that
    /// repeats a request. Other calls are untouched.
    Repeat,
    /// It is done after this time.
    Delay(Duration),
    /// It waits until [`FaultStore::release`](super::FaultStore::release), then is done.
    Hold,
    /// Half of it: of the bytes written or read, of a listing's lines. The caller gets no error.
    Truncate,
    /// One bit in the middle of the bytes written or read is flipped. Listings, deletions and copies are untouched.
    Corrupt,
}

/// Trouble for chosen calls. Where several rules fit a call, the first injected one acts.
#[derive(Clone, Debug)]
pub struct Rule {
    pub(super) fault: Fault,
    first: u64,
    last: u64,
    operation: Option<Operation>,
    writes_only: bool,
    path_part: Option<String>,
}

impl Rule {
    /// The `n`-th call that the rule fits (from 1), and no other.
    #[must_use]
    pub fn nth(n: u64, fault: Fault) -> Self {
        Self { fault, first: n, last: n, operation: None, writes_only: false, path_part: None }
    }

    /// The `n`-th and every later one: with [`Fault::Fail`] a crash before the `n`-th call.
    #[must_use]
    pub fn from(n: u64, fault: Fault) -> Self {
        Self { last: u64::MAX, ..Self::nth(n, fault) }
    }

    /// Every call.
    #[must_use]
    pub fn always(fault: Fault) -> Self {
        Self::from(1, fault)
    }

    /// The same for one operation; only such calls count for `n`.
    #[must_use]
    pub fn on(mut self, operation: Operation) -> Self {
        self.operation = Some(operation);
        self
    }

    /// The same for calls that can change what is stored; only such calls count for `n`.
    #[must_use]
    pub fn on_writes(mut self) -> Self {
        self.writes_only = true;
        self
    }

    /// The same for paths that contain this text; only such calls count for `n`.
    #[must_use]
    pub fn at(mut self, path_part: impl Into<String>) -> Self {
        self.path_part = Some(path_part.into());
        self
    }

    fn fits(&self, operation: Operation, path: &Path) -> bool {
        self.operation.is_none_or(|wanted| wanted == operation)
            && (!self.writes_only || operation.writes())
            && self.path_part.as_ref().is_none_or(|part| path.as_ref().contains(part.as_str()))
    }
}

/// A rule and how many calls it has seen.
#[derive(Debug)]
pub(super) struct Armed {
    pub(super) rule: Rule,
    seen: u64,
}

impl Armed {
    pub(super) fn new(rule: Rule) -> Self {
        Self { rule, seen: 0 }
    }

    /// Counts the call; gives the fault when it is its turn.
    pub(super) fn meet(&mut self, operation: Operation, path: &Path) -> Option<Fault> {
        if !self.rule.fits(operation, path) {
            return None;
        }
        self.seen += 1;
        (self.rule.first..=self.rule.last).contains(&self.seen).then_some(self.rule.fault)
    }
}
