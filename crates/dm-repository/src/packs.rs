//! Packs being written (§3): frames are gathered in memory and put as one object.
//!
//! Every member that is being written holds an open pack of its own, so that its frames stand together; a member that
//! ends hands its pack to the next one. So small members share packs, and there are never more open packs than members
//! at once. Permits bound the packs in memory, uploading ones included.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use dm_core::{BackupId, Error, MemberSpec, Result, TargetName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cpu::{MAX_FRAME_CONTENT, joined};
use crate::journal::{Journal, JournalPack};
use crate::page::{Extent, PackId, Stored};
use crate::storage::Storage;
use crate::write_stream::length;
use crate::{Recipient, keys, paths};

/// Buffers of packs that are durable: memory that was never used costs time to get.
type Spare = Arc<Mutex<Vec<Vec<u8>>>>;

/// A pack on its way. Its buffer is used again when nobody needs it any more.
struct Sent {
    bytes: Vec<u8>,
    spare: Spare,
}

impl AsRef<[u8]> for Sent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }
}

/// Gathers bytes and their digest.
struct HashedBuffer {
    bytes: Vec<u8>,
    hasher: blake3::Hasher,
}

impl Write for HashedBuffer {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(buffer);
        self.hasher.update(buffer);
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Sink {
    Plain(Box<HashedBuffer>),
    Sealed(Box<age::stream::StreamWriter<HashedBuffer>>),
}

struct OpenPack {
    n: u32,
    /// Bytes of frames so far.
    length: u64,
    sink: Sink,
}

impl OpenPack {
    fn finish(self) -> Result<HashedBuffer> {
        match self.sink {
            Sink::Plain(buffer) => Ok(*buffer),
            Sink::Sealed(writer) => writer.finish().map_err(keys::sealing_failed),
        }
    }
}

/// The packs of one backup.
pub(crate) struct Packs {
    storage: Storage,
    target: TargetName,
    backup: BackupId,
    recipient: Option<Recipient>,
    pack_bytes: u64,
    permits: Arc<Semaphore>,
    next: AtomicU32,
    stored: AtomicU64,
    given_up: CancellationToken,
    spare: Spare,
    journal: Arc<Journal>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idle: Vec<OpenPack>,
    uploads: JoinSet<Result<Stored>>,
    done: Vec<Stored>,
    failed: Option<Error>,
}

impl Packs {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        storage: Storage,
        target: TargetName,
        backup: BackupId,
        recipient: Option<Recipient>,
        pack_bytes: u64,
        at_once: usize,
        journal: Arc<Journal>,
        first: u32,
    ) -> Self {
        Self {
            storage,
            target,
            backup,
            recipient,
            pack_bytes,
            permits: Arc::new(Semaphore::new(at_once)),
            next: AtomicU32::new(first),
            stored: AtomicU64::new(0),
            given_up: CancellationToken::new(),
            spare: Spare::default(),
            journal,
            state: Mutex::new(State::default()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lane for one member.
    pub(crate) fn lane(self: &Arc<Self>, member: &MemberSpec) -> Lane {
        Lane { packs: Arc::clone(self), member: member.clone(), current: None }
    }

    fn open_pack(&self) -> Result<OpenPack> {
        // The last frame may reach beyond the size, and sealing adds a little: a buffer that has to grow would double.
        let room = usize::try_from(self.pack_bytes + self.pack_bytes / 1024).unwrap_or(0);
        let room = room.saturating_add(MAX_FRAME_CONTENT);
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = spare.unwrap_or_else(|| Vec::with_capacity(room));
        let buffer = HashedBuffer { bytes, hasher: blake3::Hasher::new() };
        let sink = match &self.recipient {
            None => Sink::Plain(Box::new(buffer)),
            Some(recipient) => {
                Sink::Sealed(Box::new(keys::seal_into(std::slice::from_ref(recipient), buffer)?))
            }
        };
        Ok(OpenPack { n: self.next.fetch_add(1, Ordering::Relaxed), length: 0, sink })
    }

    /// Ends a pack and uploads it in the background.
    fn upload(&self, pack: OpenPack, permit: Option<OwnedSemaphorePermit>) -> Result<()> {
        let n = pack.n;
        let buffer = pack.finish()?;
        let id = PackId { backup: self.backup, n };
        let size = buffer.bytes.len() as u64;
        let stored = Stored { id, size, digest: buffer.hasher.finalize().to_hex().to_string() };
        self.stored.fetch_add(size, Ordering::Relaxed);
        let storage = self.storage.clone();
        let key = paths::pack(&self.target, self.backup, n);
        let bytes = Bytes::from_owner(Sent { bytes: buffer.bytes, spare: Arc::clone(&self.spare) });
        let (given_up, journal) = (self.given_up.clone(), Arc::clone(&self.journal));
        let mut state = self.lock();
        state.uploads.spawn(async move {
            // What still waits for its turn is not worth waiting for when the backup is given up.
            tokio::select! {
                () = given_up.cancelled() => return Err(Error::interrupted()),
                () = storage.admit(size) => {}
            }
            let etag = storage.create_own_admitted(&key, bytes).await?;
            drop(permit);
            journal.durable(JournalPack { n, size, digest: stored.digest.clone(), etag }).await;
            Ok(stored)
        });
        Ok(())
    }

    /// Notices uploads that ended, and fails once one has failed.
    fn collect(&self) -> Result<()> {
        let mut state = self.lock();
        while let Some(ended) = state.uploads.try_join_next() {
            match joined(ended).and_then(|r| r) {
                Ok(stored) => state.done.push(stored),
                Err(error) => state.failed = Some(error),
            }
        }
        match state.failed.take() {
            None => Ok(()),
            Some(error) => {
                let again = Error::new(error.kind(), "an earlier pack could not be written")
                    .with_effect(error.effect());
                state.failed = Some(match error.hint() {
                    Some(hint) => again.with_hint(hint.to_owned()),
                    None => again,
                });
                Err(error)
            }
        }
    }

    /// Bytes of packs so far, as stored.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }

    /// Waits until no upload is under way; those that had not begun are left out.
    pub(crate) async fn give_up(&self) {
        self.given_up.cancel();
        let mut uploads = std::mem::take(&mut self.lock().uploads);
        while let Some(ended) = uploads.join_next().await {
            if let Err(error) = joined(ended).and_then(|r| r) {
                tracing::debug!(%error, "an upload of an abandoned backup failed");
            }
        }
    }

    /// Writes what is still open, as far as that succeeds: for a run that ended, and that another one goes on with.
    pub(crate) async fn salvage(&self) {
        let idle = std::mem::take(&mut self.lock().idle);
        for pack in idle {
            if let Err(error) = self.upload(pack, None) {
                tracing::debug!(%error, "an open pack of an interrupted backup was lost");
            }
        }
        let mut uploads = std::mem::take(&mut self.lock().uploads);
        while let Some(ended) = uploads.join_next().await {
            if let Err(error) = joined(ended).and_then(|r| r) {
                tracing::debug!(%error, "a pack of an interrupted backup was lost");
            }
        }
    }

    /// Writes what is still open and waits until every pack is durable.
    pub(crate) async fn finish(&self) -> Result<Vec<Stored>> {
        let idle = std::mem::take(&mut self.lock().idle);
        for pack in idle {
            self.upload(pack, None)?;
        }
        let mut uploads = std::mem::take(&mut self.lock().uploads);
        while let Some(ended) = uploads.join_next().await {
            let stored = joined(ended).and_then(|r| r)?;
            self.lock().done.push(stored);
        }
        self.collect()?;
        let mut done = std::mem::take(&mut self.lock().done);
        done.sort();
        Ok(done)
    }
}

/// The open pack of one member. Dropping it hands the pack to the next member: frames in it may belong to members that
/// are complete.
pub(crate) struct Lane {
    packs: Arc<Packs>,
    member: MemberSpec,
    current: Option<(OpenPack, OwnedSemaphorePermit)>,
}

impl Lane {
    /// Appends a frame; fills in its pack and its place in the pack's sequence of frames where they are still open: in the
    /// extents of what it holds.
    pub(crate) async fn append(&mut self, frame: &[u8], extents: &mut [Extent]) -> Result<()> {
        let frame_length = length(frame.len())?;
        self.packs.collect()?;
        if self.current.is_none() {
            let permit = Arc::clone(&self.packs.permits)
                .acquire_owned()
                .await
                .map_err(|e| Error::internal("the pack pool is closed").with_source(e))?;
            let idle = self.packs.lock().idle.pop();
            let pack = match idle {
                Some(pack) => pack,
                None => self.packs.open_pack()?,
            };
            self.current = Some((pack, permit));
        }
        // From here to the end nothing waits: a cancelled member never leaves half a frame.
        let Some((pack, _)) = &mut self.current else { return Err(Error::internal("no open pack")) };
        for extent in &mut *extents {
            extent.pack = PackId { backup: self.packs.backup, n: pack.n };
            extent.frame_offset = pack.length;
            extent.frame_length = frame_length;
        }
        match &mut pack.sink {
            Sink::Plain(buffer) => buffer.write_all(frame),
            Sink::Sealed(writer) => writer.write_all(frame),
        }
        .map_err(keys::sealing_failed)?;
        pack.length += frame.len() as u64;
        // Before the pack can be on its way: what is written down of it must be whole.
        self.packs.journal.add(&self.member, pack.n, extents);
        if pack.length >= self.packs.pack_bytes
            && let Some((pack, permit)) = self.current.take()
        {
            self.packs.upload(pack, Some(permit))?;
        }
        Ok(())
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Some((pack, _permit)) = self.current.take() {
            self.packs.lock().idle.push(pack);
        }
    }
}
