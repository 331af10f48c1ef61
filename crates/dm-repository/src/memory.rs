//! How a budget of memory is shared out: among packs, among members that are written side by side, and to what is fetched.
//!
//! The format needs whole packs in memory: a pack is one object, put at once. So the budget says how many, and what is left over says
//! how many members are written at the same time and how far each is ahead of its pack. Whoever has to wait waits before anything
//! more is read.

use dm_core::{ByteSize, Error, Result};

/// The most that one step of a member holds, as a rule: what a source hands over, what is compressed in one go.
const STEP_BYTES: u64 = 1 << 20;
/// Steps that a member holds beside those in three for each that it is ahead: read, compressed, and on their way to a pack.
const FIXED_STEPS: u64 = 4;
/// The most packs; more would only be more requests at once.
const MAX_PACKS: u64 = 64;

/// What may be held at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Packs, those being filled and those on their way.
    pub(crate) packs: usize,
    /// Members being written.
    pub(crate) members: usize,
    /// Steps that a member is ahead of its pack.
    pub(crate) ahead: usize,
    /// Bytes of frames that are fetched at once, as stored.
    pub(crate) fetch_bytes: u32,
    /// Whether one pack and one member fit.
    fits: bool,
    budget: u64,
    pack: u64,
}

impl Memory {
    /// Shares a budget out: two thirds are for packs.
    pub(crate) fn new(budget: u64, pack: u64, threads: usize) -> Self {
        let packs = (budget / 3 * 2 / pack).clamp(1, MAX_PACKS);
        let rest = budget.saturating_sub(packs * pack);
        // Four members are what most hosts write at once.
        let most = u64::try_from(threads.max(1)).unwrap_or(u64::MAX);
        let ahead = (rest / (4 * 3 * STEP_BYTES)).saturating_sub(1).clamp(1, most);
        let members = rest / member_bytes(ahead);
        Self {
            packs: index(packs),
            members: index(members.max(1)),
            ahead: index(ahead),
            fetch_bytes: u32::try_from(budget / 2).unwrap_or(u32::MAX).max(1 << 20),
            fits: members > 0,
            budget,
            pack,
        }
    }

    /// Refuses to write what the budget cannot hold.
    pub(crate) fn check_writing(&self) -> Result<()> {
        if self.fits {
            return Ok(());
        }
        let least = ByteSize(self.pack + member_bytes(1));
        Err(Error::invalid(format!(
            "a memory budget of {} does not hold one pack of this repository ({}) and what is read meanwhile",
            ByteSize(self.budget),
            ByteSize(self.pack)
        ))
        .with_hint(format!("give at least {least}: \"memory\" of [repository], or --memory")))
    }
}

fn member_bytes(ahead: u64) -> u64 {
    (3 * ahead + FIXED_STEPS) * STEP_BYTES
}

fn index(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_shares_together_are_no_more_than_the_budget() {
        for budget in [40, 64, 96, 128, 192, 256, 1024, 16 << 10] {
            for pack in [1, 8, 32, 64] {
                for threads in [1, 2, 16, 128] {
                    let memory = Memory::new(budget * MIB, pack * MIB, threads);
                    let members = memory.members as u64 * member_bytes(memory.ahead as u64);
                    let shared = memory.packs as u64 * pack * MIB + members;
                    if memory.check_writing().is_ok() {
                        assert!(shared <= budget * MIB, "{budget} {pack} {threads}: {memory:?}");
                    }
                    assert!(memory.packs > 0 && memory.members > 0 && memory.ahead > 0);
                }
            }
        }
    }

    #[test]
    fn the_default_writes_four_packs_and_more_members_than_hosts_have_jobs() {
        let memory = Memory::new(192 * MIB, 32 * MIB, 2);
        assert_eq!((memory.packs, memory.ahead), (4, 2));
        assert!(memory.members >= 4, "{memory:?}");
    }

    #[test]
    fn a_budget_that_holds_no_pack_is_refused_with_the_least_that_does() {
        let error = Memory::new(32 * MIB, 32 * MIB, 2).check_writing().unwrap_err();
        assert!(error.to_string().contains("32.0 MiB"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("39.0 MiB")), "{error:?}");
        Memory::new(39 * MIB, 32 * MIB, 2).check_writing().unwrap();
    }
}
