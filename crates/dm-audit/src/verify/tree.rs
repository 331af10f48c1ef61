//! The tree, recomputed while the chain is read: its tiles, and the signed heads from the store and from outside.
//!
//! It is compared as far as the chain is whole. Behind the first defect nothing is: everything would differ.

use std::collections::VecDeque;

use dm_core::Result;
use dm_store::{CheckpointRow, Store};

use super::{Kept, KeptResult, Rewritten};
use crate::checkpoint::Checkpoint;
use crate::log::AuditLog;
use crate::merkle::{Accumulator, Hash, perfect_root};
use crate::note::NoteVerifier;
use crate::tiles::{WIDTH, signed};

/// A position and what is wrong there.
pub(super) type Defect = (Option<i64>, String);

pub(super) struct TreeCheck {
    /// The roots of the full tiles of the lowest level: each is computed once, for the tiles and for the tree.
    tiles: Accumulator,
    /// Root of the whole tree, once everything was compared.
    root: Option<Hash>,
    /// The hashes of the tile that is being filled, for each level, and its index.
    filling: Vec<(u64, Vec<u8>)>,
    /// Full tiles that were not compared yet.
    full: Vec<(u64, u64, Vec<u8>)>,
    /// Sizes before the chain was read: what is there since then may be ahead of what was read.
    tree_size: i64,
    last: Option<CheckpointRow>,
    keys: Vec<String>,
    /// Signed heads of the store that the chain has not reached, in order.
    heads: VecDeque<CheckpointRow>,
    kept: Vec<KeptResult>,
    roots: Vec<Hash>,
    next_kept: usize,
    pub(super) checked: u64,
    rewritten: Option<Rewritten>,
    broken: bool,
}

impl TreeCheck {
    /// Notes what there is before the chain is read.
    pub(super) async fn begin(log: &AuditLog, kept: &[Kept]) -> Result<Self> {
        let store = log.store();
        let mut kept: Vec<_> = kept.iter().collect();
        kept.sort_by_key(|k| k.checkpoint.size);
        Ok(Self {
            tiles: Accumulator::default(),
            root: None,
            filling: Vec::new(),
            full: Vec::new(),
            tree_size: store.tree_size().await?,
            last: store.last_checkpoint().await?,
            keys: store.checkpoint_keys().await?,
            heads: VecDeque::new(),
            roots: kept.iter().map(|k| k.checkpoint.root).collect(),
            kept: kept
                .iter()
                .map(|k| KeptResult { place: k.place.clone(), size: k.checkpoint.size, ok: false })
                .collect(),
            next_kept: 0,
            checked: 0,
            rewritten: None,
            broken: false,
        })
    }

    /// Fetches the signed heads of the part of the chain that comes next.
    pub(super) async fn prepare(&mut self, store: &Store, up_to: i64) -> Result<()> {
        while !self.broken {
            let from = self.heads.back().map_or(signed(self.size()), |head| head.size);
            if from >= up_to {
                break;
            }
            let page = store.checkpoints_above(from, 1000).await?;
            let enough = page.len() < 1000;
            self.heads.extend(page);
            if enough {
                break;
            }
        }
        Ok(())
    }

    /// Takes the next leaf of the chain. Gives what the heads at this size say against it.
    pub(super) fn push(&mut self, leaf: Hash) -> Option<Defect> {
        if self.broken {
            return None;
        }
        self.fill(leaf);
        let size = self.size();
        let mut defect = None;
        while let Some(head) = self.heads.front() {
            if head.size > signed(size) {
                break;
            }
            let wrong = head.size == signed(size) && self.disagrees(head);
            self.checked += 1;
            self.heads.pop_front();
            if wrong {
                defect = Some((
                    Some(signed(size)),
                    format!(
                        "the signed checkpoint of {size} entries is not of this log: it was rewritten here or before"
                    ),
                ));
            }
        }
        while self.kept.get(self.next_kept).is_some_and(|kept| kept.size == size) {
            let at = self.next_kept;
            self.next_kept += 1;
            self.kept[at].ok = self.root() == self.roots[at];
            if !self.kept[at].ok {
                let before = self.kept[..at].iter().rev().find(|k| k.ok).map_or(0, |k| k.size);
                let place = self.kept[at].place.clone();
                let span = Rewritten { from: before + 1, to: size, place };
                defect = Some((Some(signed(size)), span.why()));
                self.rewritten = Some(span);
                break;
            }
        }
        self.broken |= defect.is_some();
        defect
    }

    fn disagrees(&self, head: &CheckpointRow) -> bool {
        let root = self.root();
        let said = Checkpoint::read_unchecked(&head.note);
        head.root != root || !said.is_ok_and(|said| said.root == root && signed(said.size) == head.size)
    }

    /// How many leaves there are so far.
    fn size(&self) -> u64 {
        let open = self.filling.first().map_or(0, |(_, hashes)| hashes.len() / 32);
        self.tiles.size() * WIDTH + open as u64
    }

    /// The root of the tree so far: the full tiles' roots are its largest perfect subtrees.
    fn root(&self) -> Hash {
        let mut tree = self.tiles.widened(WIDTH);
        for leaf in self.filling.first().map_or(&[][..], |(_, hashes)| hashes).as_chunks::<32>().0 {
            tree.push(*leaf);
        }
        tree.root()
    }

    fn fill(&mut self, leaf: Hash) {
        let mut hash = leaf;
        for level in 0.. {
            if self.filling.len() == level {
                self.filling.push((0, Vec::new()));
            }
            let (index, hashes) = &mut self.filling[level];
            hashes.extend(hash);
            if (hashes.len() as u64) < WIDTH * 32 {
                return;
            }
            hash = perfect_root(hashes.as_chunks::<32>().0);
            if level == 0 {
                self.tiles.push(hash);
            }
            self.full.push((level as u64, *index, std::mem::take(hashes)));
            *index += 1;
        }
    }

    /// Compares the full tiles that the chain has passed with those of the store.
    pub(super) async fn compare_full(&mut self, store: &Store) -> Result<Option<Defect>> {
        let full = std::mem::take(&mut self.full);
        self.compare(store, full).await
    }

    /// Compares what is left, and what the chain never reached. `end` is the position of the last seal.
    pub(super) async fn finish(&mut self, log: &AuditLog, end: i64) -> Result<Vec<Defect>> {
        if self.broken {
            return Ok(Vec::new());
        }
        let store = log.store();
        self.root = Some(self.root());
        let filling = std::mem::take(&mut self.filling);
        let rest =
            filling.into_iter().enumerate().map(|(level, (index, hashes))| (level as u64, index, hashes));
        if let Some(defect) = self.compare(store, rest.filter(|(_, _, h)| !h.is_empty()).collect()).await? {
            return Ok(vec![defect]);
        }
        let mut defects = Vec::new();
        for at in 0..self.kept.len() {
            let KeptResult { place, size, .. } = &self.kept[at];
            let text = match size {
                0 => {
                    let ok = self.roots[at] == crate::merkle::empty_root();
                    self.kept[at].ok = ok;
                    continue;
                }
                size if signed(*size) > end && end == 0 => {
                    format!("the log is empty, and the checkpoint from {place} covers {size} entries")
                }
                size if signed(*size) > end => {
                    format!(
                        "the log ends at entry {end}, and the checkpoint from {place} covers {size} entries"
                    )
                }
                _ => continue,
            };
            defects.push((Some(end + 1), text));
        }
        if !defects.is_empty() {
            return Ok(defects);
        }
        if self.tree_size > end {
            return Ok(vec![(
                Some(end + 1),
                format!("the log ends at entry {end}, and its tree has {}", self.tree_size),
            )]);
        }
        let Some(last) = &self.last else { return Ok(Vec::new()) };
        if last.size > end {
            return Ok(vec![(
                Some(end + 1),
                format!("the log ends at entry {end}, and its last signed checkpoint covers {}", last.size),
            )]);
        }
        let signed_by = |vkey: &String| {
            vkey.parse::<NoteVerifier>().and_then(|key| Checkpoint::open(&last.note, &key)).is_ok()
        };
        if !self.keys.iter().any(signed_by) {
            let why = "the signature of the last checkpoint holds by none of the log's keys";
            return Ok(vec![(Some(last.size), why.to_owned())]);
        }
        Ok(Vec::new())
    }

    /// How many signed heads of the store were compared, those from outside, the root of the whole tree, and where the log was
    /// rewritten.
    pub(super) fn into_result(self) -> (u64, Vec<KeptResult>, Option<Hash>, Option<Rewritten>) {
        let root = (!self.broken).then(|| self.root.unwrap_or_else(|| self.root()));
        (self.checked, self.kept, root, self.rewritten)
    }

    /// From here on the tree says nothing any more.
    pub(super) fn stop(&mut self) {
        self.broken = true;
    }

    pub(super) fn whole(&self) -> bool {
        !self.broken
    }

    async fn compare(&mut self, store: &Store, expected: Vec<(u64, u64, Vec<u8>)>) -> Result<Option<Defect>> {
        if self.broken || expected.is_empty() {
            return Ok(None);
        }
        let places: Vec<_> =
            expected.iter().map(|(level, index, _)| (signed(*level), signed(*index))).collect();
        let found = store.tiles(&places).await?;
        for (level, index, hashes) in &expected {
            let span = WIDTH.pow(u32::try_from(*level).unwrap_or_default());
            let first = index * WIDTH * span;
            // What the tree had not reached when the check began may come late.
            let known = u64::try_from(self.tree_size).unwrap_or_default().saturating_sub(first) / span;
            let known = usize::try_from(known.min(WIDTH)).unwrap_or_default();
            let tile = found.iter().find(|t| t.level == signed(*level) && t.index == signed(*index));
            let stored = tile.map_or(&[][..], |t| &t.hashes).as_chunks::<32>().0;
            let wrong =
                hashes.as_chunks::<32>().0.iter().enumerate().find_map(|(at, hash)| match stored.get(at) {
                    Some(other) => (other != hash).then_some(at),
                    None => (at < known).then_some(at),
                });
            if let Some(at) = wrong {
                self.broken = true;
                let seq = signed(first + at as u64 * span + 1);
                let what = if *level == 0 {
                    "the tree holds another hash for it than its leaf has".to_owned()
                } else {
                    format!(
                        "the tree's node over the {span} entries from here on is wrong (tile/{level}/{index})"
                    )
                };
                return Ok(Some((Some(seq), what)));
            }
        }
        Ok(None)
    }
}
