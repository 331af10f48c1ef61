//! How much a randomised test tries, and from which seed: `scripts/test` and `scripts/test --full` differ in this.

/// Whether the full counts are asked for (`DM_TEST_FULL=1`, set by `scripts/test --full`).
#[must_use]
pub fn is_full() -> bool {
    std::env::var("DM_TEST_FULL").is_ok_and(|value| value == "1")
}

/// A count: the small one, or the full one under `scripts/test --full`.
#[must_use]
pub fn count(small: u64, full: u64) -> u64 {
    if is_full() { full } else { small }
}

/// The seed to begin with: `DM_TEST_SEED`, or 1. A test that fails says which of its seeds it was.
///
/// # Panics
/// When the variable is no number.
#[must_use]
pub fn seed() -> u64 {
    std::env::var("DM_TEST_SEED").map_or(1, |text| match text.parse() {
        Ok(seed) => seed,
        Err(_) => panic!("DM_TEST_SEED is \"{text}\", which is no number"),
    })
}

/// So many seeds in a row, from [`seed`] on; `DM_TEST_SEEDS` (`scripts/test --seeds N`) says another number.
///
/// # Panics
/// When the variable is no number.
pub fn seeds(small: u64, full: u64) -> impl Iterator<Item = u64> {
    let first = seed();
    let number = std::env::var("DM_TEST_SEEDS").map_or_else(
        |_| count(small, full),
        |text| match text.parse() {
            Ok(number) => number,
            Err(_) => panic!("DM_TEST_SEEDS is \"{text}\", which is no number"),
        },
    );
    (0..number).map(move |i| first.wrapping_add(i))
}
