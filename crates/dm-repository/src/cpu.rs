//! Work for the processor: hashing and compression on blocking threads, as many at once as the options say.

use std::sync::Arc;

use dm_core::{Error, Result};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// The most content that one frame may hold (§3).
pub(crate) const MAX_FRAME_CONTENT: usize = 4 << 20;

#[derive(Clone, Debug)]
pub(crate) struct Cpu {
    permits: Arc<Semaphore>,
    pub(crate) threads: usize,
    pub(crate) level: i32,
}

impl Cpu {
    pub(crate) fn new(threads: usize, level: i32) -> Self {
        let threads = threads.max(1);
        Self { permits: Arc::new(Semaphore::new(threads)), threads, level }
    }

    /// Starts work as soon as a thread is free. The wait happens in a task of its own: a permit must never lie in a
    /// future that nobody polls while somebody else waits for one.
    pub(crate) fn start<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<Result<T>> {
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
    static DECOMPRESSOR: std::cell::RefCell<Option<zstd::bulk::Decompressor<'static>>> =
        const { std::cell::RefCell::new(None) };
}

/// One zstd frame with content size and checksum.
pub(crate) fn compress(content: &[u8], level: i32) -> Result<Vec<u8>> {
    let failed = |e: std::io::Error| Error::internal("compression failed").with_source(e);
    COMPRESSOR.with_borrow_mut(|slot| {
        if !matches!(slot, Some((l, _)) if *l == level) {
            let mut made = zstd::bulk::Compressor::new(level).map_err(failed)?;
            made.include_contentsize(true).map_err(failed)?;
            made.include_checksum(true).map_err(failed)?;
            *slot = Some((level, made));
        }
        match slot {
            Some((_, compressor)) => compressor.compress(content).map_err(failed),
            None => Err(Error::internal("no compressor")),
        }
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
