//! The head of the log: the few bytes that, noted elsewhere, pin everything before them.

use std::fmt;
use std::str::FromStr;

use dm_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// Position and chain hash of a link; written `seq:hash`. Position 0 with a hash of zeros is the empty log.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Form")]
pub struct LogHead {
    /// Position in the chain; also the number of sealed events.
    pub seq: i64,
    /// Chain hash.
    pub hash: [u8; 32],
}

impl LogHead {
    /// The head of a log without seals.
    pub const EMPTY: Self = Self { seq: 0, hash: [0; 32] };

    /// The hash as 64 hexadecimal digits.
    #[must_use]
    pub fn hash_hex(&self) -> String {
        hex::encode(self.hash)
    }
}

impl fmt::Display for LogHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.hash_hex())
    }
}

impl fmt::Debug for LogHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for LogHead {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.trim().split_once(':');
        let parsed = parts
            .and_then(|(seq, hash)| Form { seq: seq.parse().ok()?, hash: hash.to_owned() }.try_into().ok());
        parsed.ok_or_else(|| {
            Error::invalid(format!(
                "\"{text}\" is not a head of the audit log, which is a number, a colon and 64 hexadecimal digits"
            ))
            .with_hint("write it as \"dm audit verify\" prints it")
        })
    }
}

#[derive(Serialize, Deserialize)]
struct Form {
    seq: i64,
    hash: String,
}

impl From<LogHead> for Form {
    fn from(head: LogHead) -> Self {
        Self { seq: head.seq, hash: head.hash_hex() }
    }
}

impl TryFrom<Form> for LogHead {
    type Error = Error;

    fn try_from(form: Form) -> Result<Self> {
        let hash = hex::decode(&form.hash).ok().and_then(|h| <[u8; 32]>::try_from(h).ok());
        match hash {
            Some(hash) if form.seq >= 0 => Ok(Self { seq: form.seq, hash }),
            _ => Err(Error::invalid("not a head of the audit log")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_survives_being_written_down() {
        let head = LogHead { seq: 7, hash: [0xab; 32] };
        assert_eq!(head.to_string().parse::<LogHead>().unwrap(), head);
        let json = serde_json::to_string(&head).unwrap();
        assert_eq!(serde_json::from_str::<LogHead>(&json).unwrap(), head);
        for bad in ["", "7", "7:ab", "-1:00", "x:00"] {
            assert!(bad.parse::<LogHead>().is_err(), "{bad}");
        }
    }
}
