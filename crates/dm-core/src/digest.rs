//! Order-independent digests of a table's content.
//!
//! A row's digest is BLAKE3, keyed, over the row's canonical encoding (the adapter defines and versions it); a
//! table's digest is the row count and the *sum* of the row digests modulo 2²⁵⁶. Sums, unlike XOR, do not cancel when
//! a row stands there twice, can be computed in any order by any number of workers, and add up over parts of a table.

use std::fmt;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The digest of a multiset of rows.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct ContentDigest {
    rows: u64,
    sum: [u64; 4],
}

impl ContentDigest {
    /// The number of rows.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The sum as 64 hexadecimal digits, most significant first.
    #[must_use]
    pub fn to_hex(self) -> String {
        let mut text = String::with_capacity(64);
        for limb in self.sum.iter().rev() {
            text.push_str(&format!("{limb:016x}"));
        }
        text
    }

    /// Puts a digest together again from what [`rows`](Self::rows) and [`to_hex`](Self::to_hex) gave.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) when the text is not 64 hexadecimal digits.
    pub fn from_parts(rows: u64, sum: &str) -> Result<Self> {
        let bytes = hex::decode(sum)
            .ok()
            .and_then(|b| <[u8; 32]>::try_from(b).ok())
            .ok_or_else(|| Error::corrupt(format!("\"{sum}\" is not a content digest")))?;
        let mut limbs = [0; 4];
        for (i, limb) in limbs.iter_mut().rev().enumerate() {
            let mut eight = [0; 8];
            eight.copy_from_slice(&bytes[i * 8..i * 8 + 8]);
            *limb = u64::from_be_bytes(eight);
        }
        Ok(Self { rows, sum: limbs })
    }

    fn add_limbs(&mut self, other: [u64; 4]) {
        let mut carry = false;
        for (mine, theirs) in self.sum.iter_mut().zip(other) {
            let (a, over_a) = mine.overflowing_add(theirs);
            let (b, over_b) = a.overflowing_add(carry.into());
            *mine = b;
            carry = over_a || over_b;
        }
    }
}

impl AddAssign for ContentDigest {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.add_limbs(other.sum);
    }
}

impl fmt::Debug for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows, {}", self.rows, self.to_hex())
    }
}

impl Serialize for ContentDigest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        Form { rows: self.rows, sum: self.to_hex() }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ContentDigest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let form = Form::deserialize(deserializer)?;
        Self::from_parts(form.rows, &form.sum).map_err(serde::de::Error::custom)
    }
}

#[derive(Serialize, Deserialize)]
struct Form {
    rows: u64,
    sum: String,
}

/// Adds rows to a digest under one key.
#[derive(Clone)]
pub struct RowHasher {
    key: [u8; 32],
    digest: ContentDigest,
}

impl RowHasher {
    /// A hasher under a key; digests compare only under the same key.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self { key, digest: ContentDigest::default() }
    }

    /// Adds one row by its canonical encoding; gives the low 64 bits of the row's digest, for whoever needs a
    /// cheap content-defined value.
    pub fn row(&mut self, canonical: &[u8]) -> u64 {
        let hash = blake3::keyed_hash(&self.key, canonical);
        let bytes = hash.as_bytes();
        let mut limbs = [0; 4];
        for (i, limb) in limbs.iter_mut().enumerate() {
            let mut eight = [0; 8];
            eight.copy_from_slice(&bytes[i * 8..i * 8 + 8]);
            *limb = u64::from_le_bytes(eight);
        }
        self.digest.rows += 1;
        self.digest.add_limbs(limbs);
        limbs[0]
    }

    /// What has been added so far.
    #[must_use]
    pub fn digest(&self) -> ContentDigest {
        self.digest
    }
}

impl fmt::Debug for RowHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowHasher").field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// What a backup says of one table, and what a restore is compared with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFacts {
    /// The qualified name as the engine writes it, for example `public.orders`.
    pub table: String,
    /// The row count.
    pub rows: u64,
    /// The content digest, where the adapter computed one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub digest: Option<ContentDigest>,
    /// The engine's own list of what there is, as rows: compared like every table, and counted as none.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub catalog: bool,
}

impl TableFacts {
    /// Facts of a table of the user's.
    pub fn new(table: impl Into<String>, rows: u64, digest: Option<ContentDigest>) -> Self {
        Self { table: table.into(), rows, digest, catalog: false }
    }

    /// How many tables and rows of the user's there are among these.
    pub fn tally<'a>(all: impl IntoIterator<Item = &'a Self>) -> (u64, u64) {
        let counted = all.into_iter().filter(|facts| !facts.catalog);
        counted.fold((0, 0), |(tables, rows), facts| (tables + 1, rows + facts.rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn order_and_partition_do_not_matter(rows in proptest::collection::vec(any::<Vec<u8>>(), 0..40), cut in any::<prop::sample::Index>()) {
            let digest = |rows: &[Vec<u8>]| {
                let mut hasher = RowHasher::new([7; 32]);
                for row in rows { hasher.row(row); }
                hasher.digest()
            };
            let whole = digest(&rows);
            let mut backwards = rows.clone();
            backwards.reverse();
            prop_assert_eq!(digest(&backwards), whole);
            let cut = if rows.is_empty() { 0 } else { cut.index(rows.len()) };
            let mut parts = digest(&rows[..cut]);
            parts += digest(&rows[cut..]);
            prop_assert_eq!(parts, whole);
            prop_assert_eq!(ContentDigest::from_parts(whole.rows(), &whole.to_hex()).unwrap(), whole);
        }
    }

    #[test]
    fn a_row_twice_is_not_no_row() {
        let mut twice = RowHasher::new([1; 32]);
        twice.row(b"a");
        twice.row(b"a");
        assert_ne!(twice.digest().to_hex(), ContentDigest::default().to_hex());
        let mut other_key = RowHasher::new([2; 32]);
        other_key.row(b"a");
        other_key.row(b"a");
        assert_ne!(twice.digest(), other_key.digest());
    }
}
