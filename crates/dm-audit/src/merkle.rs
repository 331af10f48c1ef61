//! Merkle trees of RFC 6962, section 2.1: roots, inclusion and consistency proofs, and their checks. Nodes come from
//! outside; nothing here knows where they are kept.

use sha2::{Digest, Sha256};

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// A perfect subtree: the node at `level` (0: leaves) that covers the leaves from `index << level` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId {
    /// Height.
    pub level: u8,
    /// Place among the nodes of its level.
    pub index: u64,
}

/// The root of a tree without leaves.
#[must_use]
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// The hash of an inner node.
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([1]);
    hasher.update(left);
    hasher.update(right);
    hasher.finalize().into()
}

/// The root over a power of two of neighbouring nodes of one level.
pub(crate) fn perfect_root(hashes: &[Hash]) -> Hash {
    match hashes {
        [] => empty_root(),
        [one] => *one,
        _ => {
            let (left, right) = hashes.split_at(hashes.len() / 2);
            node_hash(&perfect_root(left), &perfect_root(right))
        }
    }
}

/// The largest power of two below `n`, which is at least 2.
fn split_of(n: u64) -> u64 {
    1 << (63 - (n - 1).leading_zeros())
}

/// The root of the leaves `from..to`; `from` is a multiple of the range's own largest subtree.
fn range_root(from: u64, to: u64, node: &mut impl FnMut(NodeId) -> Hash) -> Hash {
    let n = to - from;
    if n.is_power_of_two() {
        let level = n.trailing_zeros();
        return node(NodeId { level: u8::try_from(level).unwrap_or(u8::MAX), index: from >> level });
    }
    let middle = from + split_of(n);
    let left = range_root(from, middle, node);
    node_hash(&left, &range_root(middle, to, node))
}

/// The root of the tree of the first `size` leaves.
pub fn root(size: u64, mut node: impl FnMut(NodeId) -> Hash) -> Hash {
    if size == 0 { empty_root() } else { range_root(0, size, &mut node) }
}

/// The audit path of a leaf (section 2.1.1), from its sibling up; `index` is below `size`.
pub fn inclusion_proof(index: u64, size: u64, mut node: impl FnMut(NodeId) -> Hash) -> Vec<Hash> {
    let mut path = Vec::new();
    let (mut from, mut to) = (0, size);
    while to - from > 1 {
        let middle = from + split_of(to - from);
        if index < middle {
            path.push(range_root(middle, to, &mut node));
            to = middle;
        } else {
            path.push(range_root(from, middle, &mut node));
            from = middle;
        }
    }
    path.reverse();
    path
}

/// The proof (section 2.1.2) that the tree of `old` leaves is the beginning of the tree of `new`; `old` is at least 1 and
/// at most `new`.
pub fn consistency_proof(old: u64, new: u64, mut node: impl FnMut(NodeId) -> Hash) -> Vec<Hash> {
    let mut path = Vec::new();
    let (mut from, mut to, mut whole) = (0, new, true);
    while old != to {
        let middle = from + split_of(to - from);
        if old <= middle {
            path.push(range_root(middle, to, &mut node));
            to = middle;
        } else {
            path.push(range_root(from, middle, &mut node));
            from = middle;
            whole = false;
        }
    }
    if !whole {
        path.push(range_root(from, to, &mut node));
    }
    path.reverse();
    path
}

/// Whether a leaf is at `index` in the tree of `size` leaves with this root (RFC 9162, section 2.1.3.2).
#[must_use]
pub fn verify_inclusion(index: u64, size: u64, leaf: &Hash, path: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut f, mut s, mut hash) = (index, size - 1, *leaf);
    for p in path {
        if s == 0 {
            return false;
        }
        if f & 1 == 1 || f == s {
            hash = node_hash(p, &hash);
            while f & 1 == 0 && f != 0 {
                f >>= 1;
                s >>= 1;
            }
        } else {
            hash = node_hash(&hash, p);
        }
        f >>= 1;
        s >>= 1;
    }
    s == 0 && hash == *root
}

/// Whether a tree begins with another (RFC 9162, section 2.1.4.2). The empty tree is the beginning of every one.
#[must_use]
pub fn verify_consistency(old: u64, new: u64, old_root: &Hash, new_root: &Hash, path: &[Hash]) -> bool {
    if old > new {
        return false;
    }
    if old == 0 {
        return path.is_empty() && *old_root == empty_root();
    }
    if old == new {
        return path.is_empty() && old_root == new_root;
    }
    let mut path = path.iter();
    let (mut f, mut s) = (old - 1, new - 1);
    while f & 1 == 1 {
        f >>= 1;
        s >>= 1;
    }
    let first = if old.is_power_of_two() { Some(old_root) } else { path.next() };
    let Some(first) = first else { return false };
    let (mut of_old, mut of_new) = (*first, *first);
    for c in path {
        if s == 0 {
            return false;
        }
        if f & 1 == 1 || f == s {
            of_old = node_hash(c, &of_old);
            of_new = node_hash(c, &of_new);
            while f & 1 == 0 && f != 0 {
                f >>= 1;
                s >>= 1;
            }
        } else {
            of_new = node_hash(&of_new, c);
        }
        f >>= 1;
        s >>= 1;
    }
    s == 0 && of_old == *old_root && of_new == *new_root
}

/// Leaves one after the other, and the root at any moment, in memory of the tree's height.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accumulator {
    size: u64,
    /// Roots of the perfect subtrees, the largest first.
    peaks: Vec<Hash>,
}

impl Accumulator {
    pub(crate) fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                hash = node_hash(&left, &hash);
            }
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The same tree when each of its leaves is itself the root of a perfect one of `width` leaves, a power of two.
    pub(crate) fn widened(&self, width: u64) -> Self {
        Self { size: self.size * width, peaks: self.peaks.clone() }
    }

    pub(crate) fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else { return empty_root() };
        peaks.fold(*last, |right, left| node_hash(left, &right))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leaf_of(data: &[u8]) -> Hash {
        let mut hasher = Sha256::new();
        hasher.update([0]);
        hasher.update(data);
        hasher.finalize().into()
    }

    /// The leaves of Certificate Transparency's reference tests.
    fn reference() -> Vec<Hash> {
        let leaves = [
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        ];
        leaves.iter().map(|leaf| leaf_of(&hex::decode(leaf).unwrap())).collect()
    }

    fn nodes(leaves: &[Hash]) -> impl FnMut(NodeId) -> Hash + '_ {
        |id| {
            let (from, n) = (usize::try_from(id.index << id.level).unwrap(), 1 << id.level);
            perfect_root(&leaves[from..from + n])
        }
    }

    /// The definition of section 2.1, word for word.
    fn by_definition(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_root(),
            [one] => *one,
            _ => {
                let k = usize::try_from(split_of(leaves.len() as u64)).unwrap();
                node_hash(&by_definition(&leaves[..k]), &by_definition(&leaves[k..]))
            }
        }
    }

    #[test]
    fn the_published_roots_are_reached() {
        // Certificate Transparency's reference tests (merkletree), sizes 0 to 8.
        let roots = [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let leaves = reference();
        let mut growing = Accumulator::default();
        for (size, expected) in roots.iter().enumerate() {
            assert_eq!(hex::encode(root(size as u64, nodes(&leaves))), *expected, "{size}");
            assert_eq!(hex::encode(growing.root()), *expected, "{size}");
            assert_eq!(growing.size(), size as u64);
            if let Some(leaf) = leaves.get(size) {
                growing.push(*leaf);
            }
        }
    }

    #[test]
    fn the_published_paths_are_reached() {
        // From the same tests: the path of the 6th leaf of 8, and the proof from 6 to 8.
        let leaves = reference();
        let path: Vec<String> = inclusion_proof(5, 8, nodes(&leaves)).iter().map(hex::encode).collect();
        assert_eq!(
            path,
            [
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ]
        );
        let proof: Vec<String> = consistency_proof(6, 8, nodes(&leaves)).iter().map(hex::encode).collect();
        assert_eq!(
            proof,
            [
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ]
        );
    }

    proptest! {
        #[test]
        fn proofs_hold_for_what_they_prove_and_nothing_else(size in 1u64..200, a in 0u64..200, b in 0u64..200, flip in 0usize..8) {
            let leaves: Vec<Hash> = (0..size).map(|i| leaf_of(&i.to_be_bytes())).collect();
            let whole = root(size, nodes(&leaves));
            prop_assert_eq!(whole, by_definition(&leaves));
            let index = a % size;
            let leaf = &leaves[usize::try_from(index).unwrap()];
            let mut path = inclusion_proof(index, size, nodes(&leaves));
            prop_assert!(verify_inclusion(index, size, leaf, &path, &whole));
            prop_assert!(!verify_inclusion((index + 1) % (size + 1), size, leaf, &path, &whole));
            prop_assert!(!verify_inclusion(index, size, &leaf_of(b"another"), &path, &whole));
            if !path.is_empty() {
                let at = flip % path.len();
                path[at][0] ^= 1;
                prop_assert!(!verify_inclusion(index, size, leaf, &path, &whole));
                path[at][0] ^= 1;
                path.pop();
                prop_assert!(!verify_inclusion(index, size, leaf, &path, &whole));
            }
            let old = 1 + b % size;
            let before = root(old, nodes(&leaves));
            let mut proof = consistency_proof(old, size, nodes(&leaves));
            prop_assert!(verify_consistency(old, size, &before, &whole, &proof));
            prop_assert!(!verify_consistency(old, size, &leaf_of(b"x"), &whole, &proof));
            prop_assert!(!verify_consistency(old, size, &before, &leaf_of(b"x"), &proof));
            if !proof.is_empty() {
                let at = flip % proof.len();
                proof[at][31] ^= 1;
                prop_assert!(!verify_consistency(old, size, &before, &whole, &proof));
            }
        }
    }
}
