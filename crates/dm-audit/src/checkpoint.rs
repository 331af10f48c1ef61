//! Checkpoints (c2sp.org/tlog-checkpoint): the signed head of the tree.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use dm_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::merkle::Hash;
use crate::note::{NoteVerifier, text_of};

/// What a checkpoint says: the log, how many leaves it has, and the root over them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The name of the log.
    pub origin: String,
    /// Leaves.
    pub size: u64,
    /// Root by RFC 6962.
    pub root: Hash,
}

impl Checkpoint {
    /// The text that is signed.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(self.root))
    }

    fn parse(text: &str) -> Result<Self> {
        let bad = || {
            Error::invalid("this is not a checkpoint: a log's name, a number and a root, each on its line")
        };
        let mut lines = text.strip_suffix('\n').ok_or_else(bad)?.split('\n');
        let (origin, size, root) = match (lines.next(), lines.next(), lines.next()) {
            (Some(origin), Some(size), Some(root)) if !origin.is_empty() => (origin, size, root),
            _ => return Err(bad()),
        };
        // Further lines are extensions; they are signed and may be anything but empty.
        if lines.any(str::is_empty) {
            return Err(bad());
        }
        let number: u64 = size.parse().map_err(|_| bad())?;
        if number.to_string() != size {
            return Err(bad());
        }
        let root = BASE64.decode(root).ok().and_then(|root| Hash::try_from(root).ok()).ok_or_else(bad)?;
        Ok(Self { origin: origin.to_owned(), size: number, root })
    }

    /// Reads a signed checkpoint and checks that this key signed it, for its own log.
    ///
    /// # Errors
    /// `Invalid` for what is no checkpoint, `CheckFailed` when the signature is missing or wrong, or the log another.
    pub fn open(note: &str, key: &NoteVerifier) -> Result<Self> {
        let checkpoint = Self::parse(key.open(note)?)?;
        if checkpoint.origin != key.name() {
            return Err(Error::new(
                dm_core::ErrorKind::CheckFailed,
                format!("the checkpoint is of the log {}, and the key of {}", checkpoint.origin, key.name()),
            ));
        }
        Ok(checkpoint)
    }

    /// Reads a signed checkpoint without looking at its signatures.
    ///
    /// # Errors
    /// `Invalid`.
    pub fn read_unchecked(note: &str) -> Result<Self> {
        Self::parse(text_of(note)?)
    }
}

/// A checkpoint as it was signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedCheckpoint {
    /// The name of the log.
    pub origin: String,
    /// Leaves that it covers.
    pub size: u64,
    /// Root in hexadecimal.
    pub root: String,
    /// The signed note, as it is handed on.
    pub note: String,
}

impl SignedCheckpoint {
    pub(crate) fn new(checkpoint: &Checkpoint, note: String) -> Self {
        Self {
            origin: checkpoint.origin.clone(),
            size: checkpoint.size,
            root: hex::encode(checkpoint.root),
            note,
        }
    }

    /// Takes a signed note for a checkpoint; the signature is not looked at.
    ///
    /// # Errors
    /// `Invalid`.
    pub fn of_note(note: &str) -> Result<Self> {
        Ok(Self::new(&Checkpoint::read_unchecked(note)?, note.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::note::NoteSigner;

    #[test]
    fn a_checkpoint_is_what_the_specification_says() {
        let signer = NoteSigner::generate("example.com/log").unwrap();
        let checkpoint = Checkpoint { origin: "example.com/log".into(), size: 20_852_163, root: [7; 32] };
        let note = signer.sign(&checkpoint.text());
        assert!(note.starts_with(
            "example.com/log\n20852163\nBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n\n\u{2014} "
        ));
        assert_eq!(Checkpoint::open(&note, signer.verifier()).unwrap(), checkpoint);
        let other = Checkpoint { origin: "example.com/other".into(), ..checkpoint.clone() };
        let error = Checkpoint::open(&signer.sign(&other.text()), signer.verifier()).unwrap_err();
        assert!(error.to_string().contains("example.com/other"), "{error}");
        let extended = format!("{}an extension\n", checkpoint.text());
        assert_eq!(Checkpoint::open(&signer.sign(&extended), signer.verifier()).unwrap(), checkpoint);
        for bad in [
            "",
            "a\n",
            "a\n1\n",
            "a\n01\nBwcH\n",
            "a\n-1\nBwc=\n",
            "\n1\nBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n",
        ] {
            assert!(Checkpoint::parse(bad).is_err(), "{bad:?}");
        }
    }
}
