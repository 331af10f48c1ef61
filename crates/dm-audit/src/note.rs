//! Signed notes (c2sp.org/signed-note) with Ed25519: how a head of the log leaves the house, readable by every tool that
//! knows the format. Keys are written as `golang.org/x/mod/sumdb/note` writes them.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use dm_core::{Error, Result, Secret};
use ed25519_dalek::{Signature, SigningKey, VerifyingKey};
use rand::RngCore;
use sha2::{Digest, Sha256};

/// The signature type of Ed25519 in the specification.
const ED25519: u8 = 0x01;
const PRIVATE: &str = "PRIVATE+KEY+";
/// Begins a signature line: an em dash and a space.
const SIGNED_BY: &str = "\u{2014} ";
/// More signatures than any log and its witnesses put on a note.
const MOST_SIGNATURES: usize = 100;

/// A public key with its name, written `<name>+<key id>+<base64>`.
#[derive(Clone, PartialEq, Eq)]
pub struct NoteVerifier {
    name: String,
    id: [u8; 4],
    key: VerifyingKey,
}

impl NoteVerifier {
    /// The name: of a log, its origin.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text of a note that carries a good signature by this key. Signatures by other keys are passed over.
    ///
    /// # Errors
    /// `CheckFailed` when there is none or it is wrong; `Invalid` for what is not a signed note.
    pub fn open<'n>(&self, note: &'n str) -> Result<&'n str> {
        let (text, signatures) = split(note)?;
        let mine = signatures.iter().find(|s| s.name == self.name && s.id == self.id);
        let Some(mine) = mine else {
            return Err(failed(format!("the note is not signed by {self}")));
        };
        let signature = Signature::from_slice(&mine.signature)
            .map_err(|_| failed(format!("the signature by {} has the wrong length", self.name)))?;
        self.key
            .verify_strict(text.as_bytes(), &signature)
            .map_err(|_| failed(format!("the signature by {} does not hold", self.name)))?;
        Ok(text)
    }
}

impl fmt::Display for NoteVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}+{}", self.name, hex::encode(self.id), BASE64.encode(typed(self.key.as_bytes())))
    }
}

impl fmt::Debug for NoteVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for NoteVerifier {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::invalid(format!("\"{text}\" is not a public key of a signed note"))
                .with_hint("write it as \"dm audit key\" prints it: <name>+<8 hexadecimal digits>+<base64>")
        };
        let mut parts = text.splitn(3, '+');
        let (name, id, key) = match (parts.next(), parts.next(), parts.next()) {
            (Some(name), Some(id), Some(key)) if is_name(name) => (name, id, key),
            _ => return Err(bad()),
        };
        let typed = BASE64.decode(key).map_err(|_| bad())?;
        let key = match typed.split_first() {
            Some((&ED25519, key)) => <[u8; 32]>::try_from(key).map_err(|_| bad())?,
            _ => return Err(bad()),
        };
        let key = VerifyingKey::from_bytes(&key).map_err(|_| bad())?;
        let verifier = Self { name: name.into(), id: key_id(name, &key), key };
        if hex::encode(verifier.id) == id { Ok(verifier) } else { Err(bad()) }
    }
}

/// A private key with its name.
pub struct NoteSigner {
    verifier: NoteVerifier,
    key: SigningKey,
}

impl NoteSigner {
    /// A new key by the system's random numbers.
    ///
    /// # Errors
    /// `Invalid` for a name that is empty or has spaces or a plus sign.
    pub fn generate(name: &str) -> Result<Self> {
        let mut seed = [0; 32];
        rand::rng().fill_bytes(&mut seed);
        Self::of(name, SigningKey::from_bytes(&seed))
    }

    fn of(name: &str, key: SigningKey) -> Result<Self> {
        if !is_name(name) {
            return Err(Error::invalid(format!("\"{name}\" cannot be the name of a log"))
                .with_hint("take a name without spaces and plus signs: example.com/shop"));
        }
        let public = key.verifying_key();
        let verifier = NoteVerifier { name: name.into(), id: key_id(name, &public), key: public };
        Ok(Self { verifier, key })
    }

    /// Reads a private key: `PRIVATE+KEY+<name>+<key id>+<base64>`.
    ///
    /// # Errors
    /// `Invalid`; the text is not repeated.
    pub fn parse(text: &Secret) -> Result<Self> {
        let bad = || Error::invalid("this is not a private key of a signed note");
        let rest = text.expose().trim().strip_prefix(PRIVATE).ok_or_else(bad)?;
        let mut parts = rest.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(bad());
        };
        let typed = BASE64.decode(key).map_err(|_| bad())?;
        let seed = match typed.split_first() {
            Some((&ED25519, seed)) => <[u8; 32]>::try_from(seed).map_err(|_| bad())?,
            _ => return Err(bad()),
        };
        let signer = Self::of(name, SigningKey::from_bytes(&seed))?;
        if hex::encode(signer.verifier.id) == id { Ok(signer) } else { Err(bad()) }
    }

    /// The private key as text.
    #[must_use]
    pub fn private(&self) -> Secret {
        let NoteVerifier { name, id, .. } = &self.verifier;
        Secret::new(format!(
            "{PRIVATE}{name}+{}+{}",
            hex::encode(id),
            BASE64.encode(typed(&self.key.to_bytes()))
        ))
    }

    /// The public key.
    #[must_use]
    pub fn verifier(&self) -> &NoteVerifier {
        &self.verifier
    }

    /// Signs a text, which ends with a newline.
    #[must_use]
    pub fn sign(&self, text: &str) -> String {
        use ed25519_dalek::Signer;
        let mut bytes = self.verifier.id.to_vec();
        bytes.extend(self.key.sign(text.as_bytes()).to_bytes());
        format!("{text}\n{SIGNED_BY}{} {}\n", self.verifier.name, BASE64.encode(bytes))
    }
}

impl fmt::Debug for NoteSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NoteSigner").field("verifier", &self.verifier).finish_non_exhaustive()
    }
}

struct SignatureLine<'n> {
    name: &'n str,
    id: [u8; 4],
    signature: Vec<u8>,
}

/// Takes a note apart: the text with its last newline, and the signatures, all of them well-formed.
fn split(note: &str) -> Result<(&str, Vec<SignatureLine<'_>>)> {
    let bad = || {
        Error::invalid("this is no checkpoint: no text, empty line and lines with signatures (a signed note)")
    };
    if note.chars().any(|c| c < ' ' && c != '\n') {
        return Err(bad());
    }
    // The last empty line: a text may have others.
    let end = note.rfind("\n\n").ok_or_else(bad)?;
    let (text, lines) = (&note[..=end], &note[end + 2..]);
    let lines = lines.strip_suffix('\n').ok_or_else(bad)?;
    let mut signatures = Vec::new();
    for line in lines.split('\n') {
        let (name, encoded) =
            line.strip_prefix(SIGNED_BY).and_then(|line| line.split_once(' ')).ok_or_else(bad)?;
        let bytes = BASE64.decode(encoded).map_err(|_| bad())?;
        let (id, signature) = bytes.split_first_chunk::<4>().ok_or_else(bad)?;
        if !is_name(name) || signature.is_empty() || signatures.len() == MOST_SIGNATURES {
            return Err(bad());
        }
        signatures.push(SignatureLine { name, id: *id, signature: signature.to_vec() });
    }
    Ok((text, signatures))
}

/// The text of a signed note, its signatures unchecked.
///
/// # Errors
/// `Invalid`.
pub(crate) fn text_of(note: &str) -> Result<&str> {
    split(note).map(|(text, _)| text)
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(|c| c.is_whitespace() || c == '+' || c.is_control())
}

/// First four bytes of SHA-256 over name, newline, type and public key.
fn key_id(name: &str, key: &VerifyingKey) -> [u8; 4] {
    let mut hasher = Sha256::new();
    hasher.update(name.as_bytes());
    hasher.update([b'\n', ED25519]);
    hasher.update(key.as_bytes());
    let hash: [u8; 32] = hasher.finalize().into();
    [hash[0], hash[1], hash[2], hash[3]]
}

fn typed(key: &[u8; 32]) -> [u8; 33] {
    let mut typed = [ED25519; 33];
    typed[1..].copy_from_slice(key);
    typed
}

fn failed(message: String) -> Error {
    Error::new(dm_core::ErrorKind::CheckFailed, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    // golang.org/x/mod/sumdb/note: the package's documentation and its tests.
    const PETER: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const PETER_PRIVATE: &str =
        "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    const ENOCH: &str = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop";
    const TEXT: &str = "If you think cryptography is the answer to your problem,\n\
        then you don't know what your problem is.\n";
    const BY_PETER: &str = "\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
    const BY_ENOCH: &str = "\u{2014} EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n";
    // The example of c2sp.org/signed-note.
    const FOO: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    const BY_FOO: &str = "This is an example message.\n\n\u{2014} example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";

    #[test]
    fn the_published_notes_are_read_and_written() {
        let peter: NoteVerifier = PETER.parse().unwrap();
        let note = format!("{TEXT}\n{BY_PETER}");
        assert_eq!(peter.open(&note).unwrap(), TEXT);
        assert_eq!(peter.to_string(), PETER);
        let signer = NoteSigner::parse(&Secret::new(PETER_PRIVATE)).unwrap();
        assert_eq!(signer.sign(TEXT), note, "Ed25519 has one signature for a text and a key");
        assert_eq!(
            (signer.verifier().to_string().as_str(), signer.private().expose()),
            (PETER, PETER_PRIVATE)
        );
        let both = format!("{TEXT}\n{BY_PETER}{BY_ENOCH}");
        let enoch: NoteVerifier = ENOCH.parse().unwrap();
        assert_eq!((peter.open(&both).unwrap(), enoch.open(&both).unwrap()), (TEXT, TEXT));
        assert_eq!(
            FOO.parse::<NoteVerifier>().unwrap().open(BY_FOO).unwrap(),
            "This is an example message.\n"
        );
        assert!(enoch.open(&note).unwrap_err().to_string().contains("not signed by"));
    }

    #[test]
    fn a_changed_note_or_key_is_refused() {
        let peter: NoteVerifier = PETER.parse().unwrap();
        let note = format!("{TEXT}\n{BY_PETER}");
        for at in 0..note.len() {
            let mut bytes = note.clone().into_bytes();
            bytes[at] ^= 1;
            if let Ok(changed) = String::from_utf8(bytes) {
                assert!(peter.open(&changed).is_err(), "byte {at}");
            }
        }
        for at in 0..PETER.len() {
            assert!(PETER[..at].parse::<NoteVerifier>().is_err(), "cut at {at}");
            let mut bytes = PETER.as_bytes().to_vec();
            bytes[at] += 1;
            assert!(String::from_utf8(bytes).unwrap().parse::<NoteVerifier>().is_err(), "byte {at}");
        }
        for bad in [
            "",
            "text\n",
            "text\n\n",
            "text\n\n\u{2014} n\n",
            "text\n\n\u{2014} n AAAA\n",
            "text\n\n- n AAAAAAAA\n",
            "te\u{0}xt\n\n\u{2014} n AAAAAAAA\n",
        ] {
            assert!(split(bad).is_err(), "{bad:?}");
        }
        // Wrong length and unknown type, with the key id that would go with them: from the Go package's tests.
        for bad in [
            "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
            "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        ] {
            assert!(bad.parse::<NoteVerifier>().is_err());
        }
        for bad in ["", "a b", "a+b", "a\nb"] {
            assert!(NoteSigner::generate(bad).is_err(), "{bad:?}");
        }
        let fresh = NoteSigner::generate("example.com/log").unwrap();
        let read = NoteSigner::parse(&fresh.private()).unwrap();
        assert_eq!(read.verifier(), fresh.verifier());
        assert!(!format!("{fresh:?}").contains(fresh.private().expose()));
    }
}
