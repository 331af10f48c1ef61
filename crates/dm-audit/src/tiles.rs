//! The tree as tiles (c2sp.org/tlog-tiles): 256 neighbouring hashes of one level; the next level holds one hash for each
//! full tile. Full tiles never change, so that a proof from ten million leaves reads a handful of them.

use std::collections::BTreeMap;

use dm_core::{Error, Result};
use dm_store::{Store, Tile};

use crate::merkle::{Hash, NodeId, perfect_root, root};

/// Hashes of a full tile.
pub(crate) const WIDTH: u64 = 256;
const HEIGHT: u8 = 8;

/// The path of a tile below a log's address, `tile/<level>/<index>[.p/<width>]`.
#[must_use]
pub fn tile_path(level: u8, index: u64, width: u16) -> String {
    let mut groups = vec![format!("{:03}", index % 1000)];
    let mut rest = index / 1000;
    while rest > 0 {
        groups.push(format!("x{:03}", rest % 1000));
        rest /= 1000;
    }
    groups.reverse();
    let partial = if u64::from(width) == WIDTH { String::new() } else { format!(".p/{width}") };
    format!("tile/{level}/{}{partial}", groups.join("/"))
}

/// The tiles at the right edge of a tree of `size` leaves that are not full: those that grow next.
pub(crate) fn edge_of(size: u64) -> Vec<(i64, i64)> {
    let mut edge = Vec::new();
    let (mut level, mut count) = (0, size);
    while count > 0 {
        if !count.is_multiple_of(WIDTH) {
            edge.push((level, signed(count / WIDTH)));
        }
        count /= WIDTH;
        level += 1;
    }
    edge
}

/// Adds leaves to the tree of `size` whose partial tiles are `edge`; gives the tiles that are new or have grown.
///
/// # Errors
/// `Corrupt` when a tile of the edge is missing or has another width than the size says.
pub(crate) fn grow(size: u64, edge: &[Tile], leaves: &[Hash]) -> Result<Vec<Tile>> {
    let mut changed = Vec::new();
    let mut level = 0;
    let (mut count, mut fresh) = (size, leaves.to_vec());
    while !fresh.is_empty() {
        let mut index = count / WIDTH;
        let width = usize::try_from(count % WIDTH).unwrap_or_default();
        let mut hashes = match edge.iter().find(|t| t.level == level && t.index == signed(index)) {
            Some(tile) if width > 0 && tile.hashes.len() == width * 32 => tile.hashes.clone(),
            None if width == 0 => Vec::new(),
            _ => return Err(damaged(level, index)),
        };
        let mut above = Vec::new();
        for hash in &fresh {
            hashes.extend(hash);
            if hashes.len() == 256 * 32 {
                above.push(perfect_root(hashes.as_chunks::<32>().0));
                changed.push(Tile { level, index: signed(index), hashes: std::mem::take(&mut hashes) });
                index += 1;
            }
        }
        if !hashes.is_empty() {
            changed.push(Tile { level, index: signed(index), hashes });
        }
        fresh = above;
        count /= WIDTH;
        level += 1;
    }
    Ok(changed)
}

/// Tiles of one tree in memory, enough for certain nodes.
#[derive(Debug, Default)]
pub(crate) struct TileSet(BTreeMap<(i64, i64), Vec<u8>>);

impl TileSet {
    /// Reads the tiles that `wanted` asks for: it is run once with hashes that mean nothing.
    ///
    /// # Errors
    /// As [`Store::tiles`].
    pub(crate) async fn load(
        store: &Store,
        wanted: impl FnOnce(&mut dyn FnMut(NodeId) -> Hash),
    ) -> Result<Self> {
        let mut ids = Vec::new();
        wanted(&mut |id| {
            let place = place(id);
            ids.push((place.level, place.index));
            [0; 32]
        });
        ids.sort_unstable();
        ids.dedup();
        let tiles = store.tiles(&ids).await?;
        Ok(Self(tiles.into_iter().map(|t| ((t.level, t.index), t.hashes)).collect()))
    }

    /// Computes with the tiles' nodes.
    ///
    /// # Errors
    /// `Corrupt` when one is missing.
    pub(crate) fn compute<T>(&self, work: impl FnOnce(&mut dyn FnMut(NodeId) -> Hash) -> T) -> Result<T> {
        let mut missing = None;
        let result = work(&mut |id| {
            self.node(id).unwrap_or_else(|| {
                missing = Some(id);
                [0; 32]
            })
        });
        match missing.map(place) {
            None => Ok(result),
            Some(place) => Err(damaged(place.level, u64::try_from(place.index).unwrap_or_default())),
        }
    }

    fn node(&self, id: NodeId) -> Option<Hash> {
        let place = place(id);
        let hashes = self.0.get(&(place.level, place.index))?;
        let (chunks, _) = hashes.as_chunks::<32>();
        Some(perfect_root(chunks.get(place.from..place.from + place.count)?))
    }
}

struct Place {
    level: i64,
    index: i64,
    from: usize,
    count: usize,
}

/// Where the hashes under a node are: in one tile, at the tile level at or below the node's own.
fn place(id: NodeId) -> Place {
    let inner = id.level % HEIGHT;
    let first = id.index << inner;
    Place {
        level: i64::from(id.level / HEIGHT),
        index: signed(first / WIDTH),
        from: usize::try_from(first % WIDTH).unwrap_or_default(),
        count: 1 << inner,
    }
}

/// The root of the first `size` leaves, as the tiles say it.
///
/// # Errors
/// `Corrupt` when a tile is missing; `Busy`, `Unreachable`.
pub(crate) async fn root_at(store: &Store, size: u64) -> Result<Hash> {
    let tiles = TileSet::load(store, |node| {
        root(size, node);
    })
    .await?;
    tiles.compute(|node| root(size, node))
}

pub(crate) fn damaged(level: i64, index: u64) -> Error {
    Error::corrupt("a tile of the audit tree is missing or has the wrong size")
        .about(format!("tile/{level}/{index}"))
        .with_hint("run the audit verification; the tiles are built anew from the leaves when audit_tiles is emptied")
}

pub(crate) fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::Accumulator;

    fn hash(i: u64) -> Hash {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&i.to_be_bytes());
        hash
    }

    #[test]
    fn paths_are_those_of_the_specification() {
        assert_eq!(tile_path(0, 0, 256), "tile/0/000");
        assert_eq!(tile_path(1, 1_234_067, 256), "tile/1/x001/x234/067");
        assert_eq!(tile_path(0, 273, 112), "tile/0/273.p/112");
    }

    #[test]
    fn tiles_grow_to_the_same_tree_in_any_steps() {
        let mut tiles = TileSet::default();
        let mut grown = Accumulator::default();
        for step in [1u64, 0, 254, 1, 3, 253, 2000, 65_536 - 2512, 1, 70_000] {
            let size = grown.size();
            let edge: Vec<Tile> = edge_of(size)
                .into_iter()
                .map(|(level, index)| Tile { level, index, hashes: tiles.0[&(level, index)].clone() })
                .collect();
            let leaves: Vec<Hash> = (size..size + step).map(hash).collect();
            for leaf in &leaves {
                grown.push(*leaf);
            }
            for tile in grow(size, &edge, &leaves).unwrap() {
                tiles.0.insert((tile.level, tile.index), tile.hashes);
            }
            assert_eq!(
                tiles.compute(|node| root(grown.size(), node)).unwrap(),
                grown.root(),
                "{}",
                grown.size()
            );
        }
        assert!(tiles.0.keys().any(|(level, _)| *level == 2), "three levels were in it");
        tiles.0.remove(&(0, 0));
        assert!(tiles.compute(|node| root(100, node)).is_err());
        assert!(grow(5, &[], &[hash(5)]).is_err(), "an edge that is missing is said, not guessed");
    }
}
