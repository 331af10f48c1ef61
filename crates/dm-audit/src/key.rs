//! The log's private key in its file, and beside it the signer's own memory of what it signed last: who can write the store
//! cannot make it forget.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use dm_core::{Error, ErrorKind, Result, Secret};
use uuid::Uuid;

use crate::checkpoint::Checkpoint;
use crate::note::{NoteSigner, NoteVerifier};

/// A private key that signs heads of the log.
#[derive(Debug)]
pub struct LogKey {
    path: PathBuf,
    signer: NoteSigner,
}

impl LogKey {
    /// Reads the key file. `None` when there is no such file.
    ///
    /// # Errors
    /// `Denied` when it cannot be read or others can read it; `Invalid` for what is not a key.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let text = match fs::read_to_string(path) {
            Ok(text) => Secret::new(text),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io(e, path, "the key of the audit log cannot be read")),
        };
        closed_to_others(path)?;
        let signer = NoteSigner::parse(&text).map_err(|e| {
            e.about(path.display().to_string())
                .with_hint("put the key back from its copy, or name another file in audit.key_file")
        })?;
        Ok(Some(Self { path: path.to_owned(), signer }))
    }

    /// Makes a new key, in a file that only its owner can read (0600), and durable. When another process was faster, its key
    /// is the key.
    ///
    /// # Errors
    /// `Denied`, `Exhausted`, `Invalid` for a bad name.
    pub fn create(path: &Path, origin: Option<&str>) -> Result<Self> {
        let named = origin.map_or_else(|| format!("data-manager/{}", Uuid::new_v4().simple()), str::to_owned);
        let signer = NoteSigner::generate(&named)?;
        let text = format!("{}\n", signer.private().expose());
        match write_once(path, text.as_bytes()) {
            Ok(()) => Ok(Self { path: path.to_owned(), signer }),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Self::open(path)?.ok_or_else(|| {
                Error::invalid("the key of the audit log vanished").about(path.display().to_string())
            }),
            Err(e) => Err(io(e, path, "the key of the audit log cannot be written")),
        }
    }

    /// Moves a key file aside, beside its place and with its memory, so that another can be made. No file is no error.
    ///
    /// # Errors
    /// `Denied`.
    pub fn set_aside(path: &Path) -> Result<()> {
        let suffix = format!(".{}.old", Uuid::now_v7().simple());
        for (file, ending) in [(path.to_owned(), ""), (memory_of(path), ".last")] {
            let mut name = path.as_os_str().to_owned();
            name.push(&suffix);
            name.push(ending);
            match fs::rename(&file, PathBuf::from(name)) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(io(e, &file, "the old key of the audit log cannot be set aside")),
            }
        }
        Ok(())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The public key, which names the log.
    #[must_use]
    pub fn verifier(&self) -> &NoteVerifier {
        self.signer.verifier()
    }

    /// The last head that this key signed here, by the file beside it.
    ///
    /// # Errors
    /// `Corrupt` when the file is not what this key signed.
    pub(crate) fn remembered(&self) -> Result<Option<Checkpoint>> {
        let path = self.memory();
        let note = match fs::read_to_string(&path) {
            Ok(note) => note,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io(e, &path, "the last signed checkpoint cannot be read")),
        };
        Checkpoint::open(&note, self.verifier()).map(Some).map_err(|e| {
            Error::corrupt("the file of the last signed checkpoint was not written by this key")
                .about(path.display().to_string())
                .with_source(e)
        })
    }

    /// Signs, and remembers it durably before the note is given away.
    ///
    /// # Errors
    /// `Denied`, `Exhausted`.
    pub(crate) fn sign(&self, checkpoint: &Checkpoint) -> Result<String> {
        let note = self.signer.sign(&checkpoint.text());
        let path = self.memory();
        // A sealer that was overtaken while it paused does not take the memory back.
        if self.remembered()?.is_some_and(|newer| newer.size > checkpoint.size) {
            return Ok(note);
        }
        replace(&path, note.as_bytes())
            .map_err(|e| io(e, &path, "the last signed checkpoint cannot be noted"))?;
        Ok(note)
    }

    fn memory(&self) -> PathBuf {
        memory_of(&self.path)
    }
}

fn memory_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".last");
    name.into()
}

#[cfg(unix)]
fn closed_to_others(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let meta = fs::metadata(path).map_err(|e| io(e, path, "the key of the audit log cannot be looked at"))?;
    if meta.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Denied, "the key of the audit log is open to others")
        .about(path.display().to_string())
        .with_hint(
            "close it (chmod 600); if somebody may have read it, make a new one: dm audit key --replace",
        ))
}

#[cfg(not(unix))]
fn closed_to_others(_: &Path) -> Result<()> {
    Ok(())
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.tmp", Uuid::new_v4().simple()));
    name.into()
}

fn write_durably(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => fs::File::open(".")?.sync_all(),
    }
}

/// Writes a file that nobody has written yet, whole or not at all.
fn write_once(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)?;
    }
    let temporary = temporary(path);
    write_durably(&temporary, bytes)?;
    // A link, unlike a rename, does not replace what is there.
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary)?;
    linked?;
    sync_folder(path)
}

fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = temporary(path);
    write_durably(&temporary, bytes)?;
    fs::rename(&temporary, path)?;
    sync_folder(path)
}

fn io(error: std::io::Error, path: &Path, message: &str) -> Error {
    use std::io::ErrorKind as Io;
    let kind = match error.kind() {
        Io::StorageFull | Io::QuotaExceeded => ErrorKind::Exhausted,
        Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::Denied,
        _ => ErrorKind::Invalid,
    };
    Error::new(kind, message)
        .about(path.display().to_string())
        .with_hint("name a file that this user may read and write in audit.key_file")
        .with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_closed_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/audit.key");
        assert!(LogKey::open(&path).unwrap().is_none());
        let key = LogKey::create(&path, Some("example.com/shop")).unwrap();
        assert_eq!(key.verifier().name(), "example.com/shop");
        let again = LogKey::create(&path, None).unwrap();
        assert_eq!(again.verifier(), key.verifier(), "the first one stays");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left behind");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            assert_eq!(LogKey::open(&path).unwrap_err().kind(), ErrorKind::Denied);
        }
    }

    #[test]
    fn what_was_signed_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.key");
        let key = LogKey::create(&path, None).unwrap();
        assert_eq!(key.remembered().unwrap(), None);
        let checkpoint = Checkpoint { origin: key.verifier().name().into(), size: 3, root: [1; 32] };
        key.sign(&checkpoint).unwrap();
        assert_eq!(LogKey::open(&path).unwrap().unwrap().remembered().unwrap(), Some(checkpoint));
        fs::write(key.memory(), "forged").unwrap();
        assert_eq!(key.remembered().unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
