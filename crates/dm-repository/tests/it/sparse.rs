//! Members of pages with large holes.

use std::collections::BTreeMap;

use dm_core::*;
use futures::StreamExt;
use rand::Rng;
use rand::rngs::StdRng;

use crate::support::*;

const SPAN: u64 = 256 << 20;

/// A member with large holes: its pages that are not zeros.
#[derive(Clone, Debug)]
pub struct Sparse {
    pub page: u64,
    pub size: u64,
    pub pages: BTreeMap<u64, Vec<u8>>,
}

impl Sparse {
    pub fn random(rng: &mut StdRng) -> Self {
        let page = [512, 4096, 8192][rng.random_range(0..3)];
        let mut member = Self { page, size: 0, pages: BTreeMap::new() };
        member.size = member.random_size(rng);
        for n in member.places().filter(|n| *n < member.count()).collect::<Vec<_>>() {
            member.set(rng, n);
        }
        member
    }

    fn random_size(&self, rng: &mut StdRng) -> u64 {
        let border = SPAN / self.page;
        let pages = if rng.random() { rng.random_range(1..60) } else { border + rng.random_range(1..30) };
        pages * self.page - if rng.random() { 0 } else { rng.random_range(0..self.page) }
    }

    /// Changes some of it, and its size now and then.
    pub fn churn(&mut self, rng: &mut StdRng) {
        if rng.random_range(0..3) == 0 {
            let to = self.random_size(rng);
            self.resize(rng, to);
        }
        let chance = [0, 5, 50, 100][rng.random_range(0..4)];
        for n in self.places().filter(|n| *n < self.count()).collect::<Vec<_>>() {
            if rng.random_range(0..100) < chance {
                self.set(rng, n);
            }
        }
    }

    pub fn spec(&self) -> MemberSpec {
        spec("data/base/5/16384", Layout::Pages { page_bytes: self.page as u32 })
    }

    pub fn count(&self) -> u64 {
        self.size.div_ceil(self.page)
    }

    pub fn page_len(&self, n: u64) -> usize {
        (self.size - n * self.page).min(self.page) as usize
    }

    /// Places where things happen: at the start, on both sides of a span's border.
    pub fn places(&self) -> impl Iterator<Item = u64> + use<> {
        let border = SPAN / self.page;
        (0..60).chain(border - 30..border + 30)
    }

    pub fn set(&mut self, rng: &mut StdRng, n: u64) {
        let mut bytes = noise(rng, self.page_len(n));
        if rng.random_range(0..4) == 0 {
            bytes.fill(0);
        }
        if bytes.iter().all(|b| *b == 0) {
            self.pages.remove(&n);
        } else {
            self.pages.insert(n, bytes);
        }
    }

    pub fn resize(&mut self, rng: &mut StdRng, size: u64) {
        let old = self.count();
        self.size = size;
        let count = self.count();
        self.pages.retain(|n, _| *n < count);
        // What was, or is now, the last page has another length.
        for n in [old - 1, count - 1] {
            if n < count {
                self.set(rng, n);
            }
        }
    }

    pub fn bytes(&self, n: u64) -> Vec<u8> {
        self.pages.get(&n).cloned().unwrap_or_else(|| vec![0; self.page_len(n)])
    }

    pub fn same(&self, base: &Self, n: u64) -> bool {
        n < base.count() && self.page_len(n) == base.page_len(n) && self.pages.get(&n) == base.pages.get(&n)
    }

    /// The member as blocks; with a base, what is the same is now and then not read. Gives what was read.
    pub fn blocks(&self, rng: &mut StdRng, base: Option<&Self>) -> (BlockStream, u64) {
        let mut blocks: Vec<dm_core::Result<Block>> = Vec::new();
        let mut read = 0;
        let places: Vec<u64> =
            self.places().filter(|n| *n < self.count()).chain([self.count() - 1]).collect();
        let mut next = 0;
        for n in places {
            if n < next {
                continue;
            }
            // A hole before it.
            if n > next && base.is_some_and(|b| n * self.page <= b.size) && rng.random() {
                blocks
                    .push(Ok(Block::Unchanged { offset: next * self.page, length: (n - next) * self.page }));
            }
            next = n + 1;
            let offset = n * self.page;
            let length = self.page_len(n) as u64;
            match base {
                Some(base) if self.same(base, n) && rng.random_range(0..4) > 0 => match blocks.last_mut() {
                    Some(Ok(Block::Unchanged { offset: o, length: l }))
                        if *o + *l == offset && rng.random() =>
                    {
                        *l += length;
                    }
                    _ => blocks.push(Ok(Block::Unchanged { offset, length })),
                },
                _ if !self.pages.contains_key(&n) && n + 1 < self.count() && rng.random() => {}
                _ => {
                    read += length;
                    blocks.push(Ok(Block::data(offset, self.bytes(n))));
                }
            }
        }
        (futures::stream::iter(blocks).boxed(), read)
    }
}
