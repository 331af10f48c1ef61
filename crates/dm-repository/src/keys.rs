//! age keys: who can read a repository, and how objects are sealed to them (§4).

use std::fmt;
use std::io::{Read, Write};
use std::path::Path;
use std::str::FromStr;

use age::secrecy::{ExposeSecret, SecretString};
use age::x25519;
use dm_core::{Error, ErrorKind, Result, Secret};
use serde::{Deserialize, Serialize};

/// A private age key (X25519). `Debug` prints the public half only.
#[derive(Clone)]
pub struct Identity(x25519::Identity);

impl Identity {
    /// Makes a fresh one.
    #[must_use]
    pub fn generate() -> Self {
        Self(x25519::Identity::generate())
    }

    /// Reads `AGE-SECRET-KEY-1…`, alone or as a line of an identity file with comments.
    ///
    /// # Errors
    /// `Invalid` when there is no such line, or more than one.
    pub fn from_text(text: &str) -> Result<Self> {
        let mut keys = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let (Some(key), None) = (keys.next(), keys.next()) else {
            return Err(Error::invalid("an identity is exactly one line AGE-SECRET-KEY-1… beside comments"));
        };
        x25519::Identity::from_str(key).map(Self).map_err(|why| {
            Error::invalid(format!("not an age identity: {why}"))
                .with_hint("an identity is a line AGE-SECRET-KEY-1…, as age-keygen prints it")
        })
    }

    /// Reads an identity file, plain or encrypted with a passphrase.
    ///
    /// # Errors
    /// `NotFound`, `Denied` (unreadable, or a wrong passphrase), `Invalid` (no identity inside, or the passphrase is
    /// missing).
    pub fn from_file(path: &Path, passphrase: Option<&Secret>) -> Result<Self> {
        let subject = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| {
            let kind = match error.kind() {
                std::io::ErrorKind::NotFound => ErrorKind::NotFound,
                std::io::ErrorKind::PermissionDenied => ErrorKind::Denied,
                _ => ErrorKind::Invalid,
            };
            Error::new(kind, "cannot read the identity file").about(subject.as_str()).with_source(error)
        })?;
        Self::from_bytes(&bytes, passphrase).map_err(|error| error.about(subject))
    }

    /// Reads the content of an identity file, plain or encrypted with a passphrase.
    ///
    /// # Errors
    /// As [`from_file`](Self::from_file).
    pub fn from_bytes(bytes: &[u8], passphrase: Option<&Secret>) -> Result<Self> {
        if !bytes.starts_with(b"age-encryption.org/") {
            let text = std::str::from_utf8(bytes).map_err(|_| Error::invalid("an identity file is text"))?;
            return Self::from_text(text);
        }
        let passphrase = passphrase.ok_or_else(|| {
            Error::invalid("the identity file is encrypted with a passphrase and none was given")
                .with_hint("set the passphrase of the identity file (BACKUP_ENCRYPTION_KEY)")
        })?;
        let key = age::scrypt::Identity::new(SecretString::from(passphrase.expose().to_owned()));
        let plain = open_with(bytes, &[&key]).map_err(|error| {
            Error::new(ErrorKind::Denied, "the passphrase does not open the identity file")
                .with_hint("check the passphrase (BACKUP_ENCRYPTION_KEY)")
                .with_source(error)
        })?;
        Self::from_text(std::str::from_utf8(&plain).map_err(|_| Error::invalid("an identity file is text"))?)
    }

    /// The public half.
    #[must_use]
    pub fn recipient(&self) -> Recipient {
        Recipient(self.0.to_public())
    }

    /// The secret line `AGE-SECRET-KEY-1…`, for the one place that stores it.
    #[must_use]
    pub fn to_secret_text(&self) -> Secret {
        Secret::new(self.0.to_string().expose_secret().to_owned())
    }

    /// An identity file, encrypted with a passphrase; `age -d` opens it.
    ///
    /// # Errors
    /// `Internal` when encryption itself fails.
    pub fn to_encrypted_file(&self, passphrase: &Secret) -> Result<Vec<u8>> {
        let encryptor =
            age::Encryptor::with_user_passphrase(SecretString::from(passphrase.expose().to_owned()));
        let mut sealed = Vec::new();
        let mut writer = encryptor.wrap_output(&mut sealed).map_err(sealing_failed)?;
        writer.write_all(self.to_secret_text().expose().as_bytes()).map_err(sealing_failed)?;
        writer.write_all(b"\n").map_err(sealing_failed)?;
        writer.finish().map_err(sealing_failed)?;
        Ok(sealed)
    }

    pub(crate) fn as_age(&self) -> &x25519::Identity {
        &self.0
    }

    /// A key for something else, derived from the secret.
    pub(crate) fn derived(&self, context: &'static str) -> [u8; 32] {
        blake3::derive_key(context, self.to_secret_text().expose().as_bytes())
    }
}

/// The identity in a key object's content.
pub(crate) fn identity_of(text: &[u8], key: &object_store::path::Path) -> Result<Identity> {
    std::str::from_utf8(text)
        .map_err(|_| Error::corrupt("the key object is not text").about(key.as_ref()))
        .and_then(|text| {
            Identity::from_text(text).map_err(|e| {
                Error::corrupt("the key object holds no identity").about(key.as_ref()).with_source(e)
            })
        })
}

/// How many recipients an age file names, as far as its header tells; `None` when it is none.
pub(crate) fn recipients_in(sealed: &[u8]) -> Option<usize> {
    let rest = sealed.strip_prefix(b"age-encryption.org/v1\n")?;
    let end = rest.windows(5).position(|w| w == b"\n--- ")?;
    Some(rest[..end].split(|c| *c == b'\n').filter(|line| line.starts_with(b"-> X25519 ")).count())
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.0.to_public())
    }
}

/// A public age key, `age1…`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Recipient(x25519::Recipient);

impl Recipient {
    pub(crate) fn as_age(&self) -> &x25519::Recipient {
        &self.0
    }
}

impl FromStr for Recipient {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        x25519::Recipient::from_str(text.trim()).map(Self).map_err(|why| {
            Error::invalid(format!("\"{text}\" is not an age recipient: {why}"))
                .with_hint("a recipient is age1…, the public key that age-keygen prints")
        })
    }
}

impl TryFrom<String> for Recipient {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Recipient> for String {
    fn from(recipient: Recipient) -> Self {
        recipient.to_string()
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Starts a binary age file to these recipients.
pub(crate) fn seal_into<W: Write>(
    recipients: &[Recipient],
    output: W,
) -> Result<age::stream::StreamWriter<W>> {
    age::Encryptor::with_recipients(recipients.iter().map(|r| r.as_age() as &dyn age::Recipient))
        .map_err(|error| Error::internal("cannot encrypt to the recipients").with_source(error))?
        .wrap_output(output)
        .map_err(sealing_failed)
}

/// A whole age file in memory.
pub(crate) fn seal(recipients: &[Recipient], plain: &[u8]) -> Result<Vec<u8>> {
    let mut writer = seal_into(recipients, Vec::with_capacity(plain.len() + 1024))?;
    writer.write_all(plain).map_err(sealing_failed)?;
    writer.finish().map_err(sealing_failed)
}

/// Opens an age file in memory with the first identity that fits.
pub(crate) fn open_sealed(sealed: &[u8], identities: &[&Identity]) -> Result<Vec<u8>, age::DecryptError> {
    let keys: Vec<&dyn age::Identity> = identities.iter().map(|i| i.as_age() as _).collect();
    open_with(sealed, &keys)
}

fn open_with(sealed: &[u8], keys: &[&dyn age::Identity]) -> Result<Vec<u8>, age::DecryptError> {
    let mut plain = Vec::with_capacity(sealed.len());
    age::Decryptor::new_buffered(sealed)?.decrypt(keys.iter().copied())?.read_to_end(&mut plain)?;
    Ok(plain)
}

pub(crate) fn sealing_failed(error: std::io::Error) -> Error {
    Error::internal("encryption failed").with_source(error)
}
