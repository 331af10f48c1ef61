//! Work for the processor: hashing and compression on blocking threads, as many at once as the options say.

use std::sync::Arc;

use dm_core::{Error, Result};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// The most content that one frame may hold (§3).
pub(crate) const MAX_FRAME_CONTENT: usize = 4 << 20;

/// Content up to this size is worked on where it is, at levels that are fast: another thread would cost more than the work.
const SMALL_CONTENT: usize = 32 << 10;
const FAST_LEVEL: i32 = 3;

#[derive(Clone, Debug)]
pub(crate) struct Cpu {
    permits: Arc<Semaphore>,
    /// Steps that a member's blocks are ahead of what was written of it.
    pub(crate) ahead: usize,
    pub(crate) level: i32,
}

impl Cpu {
    pub(crate) fn new(threads: usize, ahead: usize, level: i32) -> Self {
        Self { permits: Arc::new(Semaphore::new(threads.max(1))), ahead, level }
    }

    /// Starts work as soon as a thread is free. Where it has to wait, that happens in a task of its own: a permit must never
    /// lie in a future that nobody polls while somebody else waits for one.
    pub(crate) fn start<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<Result<T>> {
        // The common case needs no task.
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return tokio::task::spawn_blocking(move || {
                let result = work();
                drop(permit);
                Ok(result)
            });
        }
        let permits = Arc::clone(&self.permits);
        tokio::spawn(async move {
            let permit = permits
                .acquire_owned()
                .await
                .map_err(|e| Error::internal("the thread pool is closed").with_source(e))?;
            let result = joined(tokio::task::spawn_blocking(work).await);
            drop(permit);
            result
        })
    }

    /// Runs the work on so much content: on a thread of its own, unless there is little to do.
    pub(crate) async fn run_on<T: Send + 'static>(
        &self,
        content_bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        if content_bytes <= SMALL_CONTENT && self.level <= FAST_LEVEL {
            Ok(work())
        } else {
            self.run(work).await
        }
    }

    /// Runs the work on a thread of its own.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        joined(self.start(work).await)?
    }
}

pub(crate) fn joined<T>(result: Result<T, tokio::task::JoinError>) -> Result<T> {
    result.map_err(|e| {
        if e.is_cancelled() { Error::interrupted() } else { Error::internal("a task failed").with_source(e) }
    })
}

thread_local! {
    // Contexts cost more than a small frame; the blocking threads live long.
    static COMPRESSOR: std::cell::RefCell<Option<(i32, zstd::bulk::Compressor<'static>)>> =
        const { std::cell::RefCell::new(None) };
    // Content that is put together, and a frame before it is copied to where it fits.
    static SCRATCH: std::cell::RefCell<(Vec<u8>, Vec<u8>)> = const { std::cell::RefCell::new((Vec::new(), Vec::new())) };
    static DECOMPRESSOR: std::cell::RefCell<Option<zstd::bulk::Decompressor<'static>>> =
        const { std::cell::RefCell::new(None) };
}

fn compression_failed(error: std::io::Error) -> Error {
    Error::internal("compression failed").with_source(error)
}

/// Lends this thread's compressor.
fn with_compressor<T>(
    level: i32,
    work: impl FnOnce(&mut zstd::bulk::Compressor<'static>) -> std::io::Result<T>,
) -> Result<T> {
    COMPRESSOR.with_borrow_mut(|slot| {
        if !matches!(slot, Some((l, _)) if *l == level) {
            let mut made = zstd::bulk::Compressor::new(level).map_err(compression_failed)?;
            made.include_contentsize(true).map_err(compression_failed)?;
            made.include_checksum(true).map_err(compression_failed)?;
            *slot = Some((level, made));
        }
        match slot {
            Some((_, compressor)) => work(compressor).map_err(compression_failed),
            None => Err(Error::internal("no compressor")),
        }
    })
}

/// One zstd frame with content size and checksum.
pub(crate) fn compress(content: &[u8], level: i32) -> Result<Vec<u8>> {
    with_compressor(level, |compressor| compressor.compress(content))
}

/// Appends one such frame of several parts of content. What lies in one part is not copied.
pub(crate) fn compress_onto(parts: &[&[u8]], level: i32, stored: &mut Vec<u8>) -> Result<()> {
    SCRATCH.with_borrow_mut(|(gathered, frame)| {
        let content = match parts {
            [content] => content,
            parts => {
                gathered.clear();
                parts.iter().for_each(|part| gathered.extend_from_slice(part));
                gathered.as_slice()
            }
        };
        frame.clear();
        frame.reserve(zstd::zstd_safe::compress_bound(content.len()));
        with_compressor(level, |compressor| compressor.compress_to_buffer(content, frame))?;
        stored.extend_from_slice(frame);
        Ok(())
    })
}

/// The content of one frame, at most `limit` bytes.
pub(crate) fn decompress(frame: &[u8], limit: usize) -> Result<Vec<u8>> {
    let size = zstd::zstd_safe::get_frame_content_size(frame)
        .ok()
        .flatten()
        .and_then(|size| usize::try_from(size).ok())
        .ok_or_else(|| Error::corrupt("not a zstd frame with its content size"))?;
    if size > limit {
        return Err(Error::corrupt(format!("a frame of {size} bytes is larger than the format allows")));
    }
    let failed = |e: std::io::Error| Error::corrupt("the zstd frame is damaged").with_source(e);
    let content = DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Some(zstd::bulk::Decompressor::new().map_err(failed)?);
        }
        match slot {
            Some(decompressor) => decompressor.decompress(frame, size).map_err(failed),
            None => Err(Error::internal("no decompressor")),
        }
    })?;
    if content.len() == size { Ok(content) } else { Err(Error::corrupt("the zstd frame is damaged")) }
}

/// The first 16 bytes of the keyed digest.
pub(crate) fn short_digest(key: &[u8; 32], content: &[u8]) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::keyed_hash(key, content).as_bytes()[..16]);
    short
}
