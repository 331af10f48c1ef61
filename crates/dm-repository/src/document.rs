//! The plain JSON documents: one envelope with a format, a version and a digest of the whole file (§1).
//!
//! The digest covers every byte of the file: it is computed with its own 64 digits as zeros. So a flipped byte
//! anywhere is found, field names and white space included, and the body is checked before it is believed.

use bytes::Bytes;
use dm_core::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version of the format that this crate writes, and the newest that it reads.
pub(crate) const VERSION: u64 = 1;

const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";
const DIGEST: &[u8] = br#""digest":""#;

/// A document with its envelope.
pub(crate) fn write<T: Serialize>(format: &str, body: &T) -> Result<Bytes> {
    let body =
        serde_json::to_string(body).map_err(|e| Error::internal("cannot write a document").with_source(e))?;
    let mut text = format!(
        "{{\"format\":\"{format}\",\"version\":{VERSION},\"critical\":[],\"digest\":\"{ZEROS}\",\"body\":{body}}}\n"
    );
    let digest = blake3::hash(text.as_bytes()).to_hex();
    text = text.replacen(ZEROS, digest.as_str(), 1);
    Ok(Bytes::from(text))
}

/// Reads a document's body.
///
/// # Errors
/// `Corrupt`; `Unsupported` for a newer version or a critical name; `Invalid` for another format.
pub(crate) fn read<T: DeserializeOwned>(format: &str, bytes: &[u8]) -> Result<T> {
    #[derive(serde::Deserialize)]
    struct Envelope {
        format: String,
        version: u64,
        #[serde(default)]
        critical: Vec<String>,
        #[serde(default)]
        body: serde_json::Value,
    }
    let bad = |why: &str| Error::corrupt(format!("not a whole \"{format}\" document: {why}"));
    let envelope: Envelope =
        serde_json::from_slice(bytes).map_err(|e| bad("it is not the expected JSON").with_source(e))?;
    if envelope.format != format {
        return Err(Error::invalid(format!("this is a \"{}\", not a \"{format}\"", envelope.format)));
    }
    if envelope.version > VERSION {
        return Err(Error::unsupported(format!(
            "version {} of \"{format}\" is newer than this program knows ({VERSION})",
            envelope.version
        ))
        .with_hint("use a newer release of this program"));
    }
    let start =
        bytes.windows(DIGEST.len()).position(|w| w == DIGEST).ok_or_else(|| bad("it has no digest"))?
            + DIGEST.len();
    let stated = bytes.get(start..start + ZEROS.len()).ok_or_else(|| bad("it ends early"))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes[..start]).update(ZEROS.as_bytes()).update(&bytes[start + ZEROS.len()..]);
    if hasher.finalize().to_hex().as_bytes() != stated {
        return Err(bad("its digest does not hold"));
    }
    if let Some(name) = envelope.critical.first() {
        return Err(Error::unsupported(format!(
            "\"{format}\" needs the feature \"{name}\", which is unknown here"
        ))
        .with_hint("use a newer release of this program"));
    }
    serde_json::from_value(envelope.body).map_err(|e| bad("a field is missing or wrong").with_source(e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dm_core::ErrorKind;

    #[test]
    fn every_flip_is_found() {
        let bytes = write("dm-test", &serde_json::json!({"a": [1, 2], "b": "x"})).unwrap();
        assert!(read::<serde_json::Value>("dm-test", &bytes).is_ok());
        for i in 0..bytes.len() {
            for bit in [1, 0x20, 0x80] {
                let mut flipped = bytes.to_vec();
                flipped[i] ^= bit;
                assert!(read::<serde_json::Value>("dm-test", &flipped).is_err(), "byte {i}");
            }
        }
    }

    #[test]
    fn newer_things_are_refused() {
        let newer = br#"{"format":"dm-test","version":2,"anything":1}"#;
        assert_eq!(read::<serde_json::Value>("dm-test", newer).unwrap_err().kind(), ErrorKind::Unsupported);
        let text = String::from_utf8(write("dm-test", &1).unwrap().to_vec()).unwrap();
        let zeroed = text.replace("[]", "[\"striping\"]");
        let start = zeroed.find("\"digest\":\"").unwrap() + 10;
        let zeroed = format!("{}{ZEROS}{}", &zeroed[..start], &zeroed[start + 64..]);
        let digest = blake3::hash(zeroed.as_bytes()).to_hex();
        let critical = zeroed.replacen(ZEROS, digest.as_str(), 1);
        let error = read::<serde_json::Value>("dm-test", critical.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("striping"));
    }
}
