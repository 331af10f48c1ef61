//! "Did you mean": the right word beside a misspelt one.

/// The candidate that is most like the word, if any is like it at all.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    candidates
        .into_iter()
        .map(|candidate| {
            let lower = candidate.to_ascii_lowercase();
            let edits = strsim::damerau_levenshtein(&word, &lower);
            (candidate, edits, strsim::jaro_winkler(&word, &lower))
        })
        // Two slips of the hand, or a long common beginning (`compression_lvl`).
        .filter(|(candidate, edits, alike)| *edits <= 2.min(candidate.len() / 2) || *alike >= 0.88)
        .min_by(|a, b| a.1.cmp(&b.1).then(b.2.total_cmp(&a.2)))
        .map(|(candidate, ..)| candidate)
}
