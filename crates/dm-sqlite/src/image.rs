//! Tables read straight from the pages of a database file that nobody writes, on several threads.
//!
//! A content digest needs every row of every table. SQLite's own machine hands them out one value at a time, on one thread;
//! the file says the same in pages (<https://www.sqlite.org/fileformat2.html>) that any thread can read. What is read here is the plain
//! case: rowid tables without generated columns, in UTF-8. Whatever else is met (values that only the table's definition
//! knows, damage of any kind) is left to SQLite, which then reads the whole table, and says what is wrong with it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use dm_core::{ContentDigest, Error, ErrorKind, Result, RowHasher};

use crate::error::file as file_error;
use crate::record::{Form, varint};
use crate::worker;

const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const LEAF: u8 = 0x0d;
const INTERIOR: u8 = 0x05;
/// Trees of 2³² pages are lower by far.
const MOST_LEVELS: u32 = 20;
/// Leaves that a thread takes at once.
const UNIT_LEAVES: usize = 256;
/// Neighbouring pages are read in one go, as far as they fit in here.
const READ_BYTES: usize = 256 << 10;
/// Larger rows are not held by several threads at once: SQLite reads their table, one row at a time.
const MOST_PAYLOAD: usize = 16 << 20;

/// A database file.
#[derive(Debug)]
pub(crate) struct Image {
    file: File,
    page_bytes: usize,
    /// Bytes of a page that hold content; extensions may reserve the rest.
    usable: usize,
    pages: u32,
}

/// `None`: this is none of the plain cases.
type Plain<T> = Option<T>;

fn u16_at(bytes: &[u8], at: usize) -> Plain<usize> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?).into())
}

fn u32_at(bytes: &[u8], at: usize) -> Plain<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Where a page's own header begins: the first page has the file's before it.
fn header_of(page: u32) -> usize {
    if page == 1 { 100 } else { 0 }
}

impl Image {
    /// Opens a file; `None` when its form is not read here.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>> {
        let file = File::open(path).map_err(|e| file_error(path, "open the file", e))?;
        let size = file.metadata().map_err(|e| file_error(path, "look at the file", e))?.len();
        let mut header = [0; 100];
        if size < header.len() as u64 {
            return Ok(None);
        }
        file.read_exact_at(&mut header, 0).map_err(|e| file_error(path, "read the file", e))?;
        Ok(Self::of_header(file, size, &header))
    }

    fn of_header(file: File, size: u64, header: &[u8; 100]) -> Plain<Self> {
        let page_bytes = match u16_at(header, 16)? {
            1 => 65536,
            n => n,
        };
        let usable = page_bytes.checked_sub(header[20].into())?;
        let is_utf8 = u32_at(header, 56)? == 1;
        let pages = u32::try_from(size / page_bytes.max(1) as u64).ok()?;
        let sound = header.starts_with(MAGIC)
            && page_bytes.is_power_of_two()
            && page_bytes >= 512
            && usable >= 480
            && size.is_multiple_of(page_bytes as u64);
        (sound && is_utf8).then_some(Self { file, page_bytes, usable, pages })
    }

    /// The digest of a table's rows; `None` when SQLite has to read it.
    ///
    /// # Errors
    /// `Interrupted` and `Timeout`, as this thread's work is told; `Exhausted` when there is no thread to be had.
    pub(crate) fn digest(&self, form: &Form, key: [u8; 32], threads: usize) -> Result<Option<ContentDigest>> {
        let mut root = vec![0; self.page_bytes];
        if self.read(form.root, &mut root).is_none() {
            return Ok(None);
        }
        if root.get(header_of(form.root)) == Some(&LEAF) {
            let mut scan = Scan::new(self, form, key);
            return Ok(scan.leaves(&[form.root]).map(|()| scan.hasher.digest()));
        }
        let (send, receive) = sync_channel::<Vec<u32>>(2 * threads.max(1));
        // It goes with the last reader, so that nobody waits for one that is gone.
        let receive = Arc::new(Mutex::new(receive));
        let odd = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let mut readers = Vec::new();
            for _ in 0..threads.max(1) {
                let (receive, odd) = (Arc::clone(&receive), &odd);
                let work = move || {
                    let mut scan = Scan::new(self, form, key);
                    scan.units(&receive, odd).map(|()| scan.hasher.digest())
                };
                let reader =
                    std::thread::Builder::new().name("dm-sqlite-rows".to_owned()).spawn_scoped(scope, work);
                readers.push(
                    reader.map_err(|e| {
                        Error::new(ErrorKind::Exhausted, "cannot start a thread").with_source(e)
                    })?,
                );
            }
            drop(receive);
            let mut walk = Walk { image: self, left: self.pages, odd: &odd };
            let walked = walk.tree(form.root, 0, &mut |leaves| send.send(leaves).ok());
            drop(send);
            let mut total = ContentDigest::default();
            let mut whole = matches!(walked, Ok(Some(())));
            for reader in readers {
                match reader.join() {
                    Ok(Some(part)) => total += part,
                    Ok(None) => whole = false,
                    Err(_) => return Err(Error::internal("a thread that read rows died")),
                }
            }
            walked.map(|_| whole.then_some(total))
        })
    }

    /// Reads pages from this one on, as many as the buffer holds.
    fn read(&self, page: u32, buffer: &mut [u8]) -> Plain<()> {
        let first = u64::from(page.checked_sub(1)?);
        if first + (buffer.len() / self.page_bytes) as u64 > u64::from(self.pages) {
            return None;
        }
        self.file.read_exact_at(buffer, first * self.page_bytes as u64).ok()
    }

    fn kind(&self, page: u32) -> Plain<u8> {
        let first = u64::from(page.checked_sub(1).filter(|first| *first < self.pages)?);
        let mut kind = [0];
        self.file
            .read_exact_at(&mut kind, first * self.page_bytes as u64 + header_of(page) as u64)
            .ok()
            .map(|()| kind[0])
    }
}

/// Goes through the upper pages of a tree.
struct Walk<'a> {
    image: &'a Image,
    /// Pages that may still be met: in a sound file none is met twice.
    left: u32,
    odd: &'a AtomicBool,
}

impl Walk<'_> {
    /// Hands out the leaves under an interior page.
    fn tree(
        &mut self,
        page: u32,
        level: u32,
        emit: &mut impl FnMut(Vec<u32>) -> Plain<()>,
    ) -> Result<Plain<()>> {
        worker::check()?;
        let Some(children) = self.children(page, level) else { return Ok(None) };
        match children.first().and_then(|child| self.image.kind(*child)) {
            // All leaves of a tree are at one level; whoever reads them checks it.
            Some(LEAF) => Ok(children.chunks(UNIT_LEAVES).try_for_each(|unit| emit(unit.to_vec()))),
            Some(INTERIOR) => {
                for child in children {
                    if self.tree(child, level + 1, emit)?.is_none() {
                        return Ok(None);
                    }
                }
                Ok(Some(()))
            }
            _ => Ok(None),
        }
    }

    fn children(&mut self, page: u32, level: u32) -> Plain<Vec<u32>> {
        let mut content = vec![0; self.image.page_bytes];
        self.image.read(page, &mut content)?;
        let at = header_of(page);
        if self.odd.load(Ordering::Relaxed) || level > MOST_LEVELS || content.get(at) != Some(&INTERIOR) {
            return None;
        }
        let cells = u16_at(&content, at + 3)?;
        let mut children = Vec::with_capacity(cells + 1);
        for cell in 0..cells {
            let place = u16_at(&content, at + 12 + 2 * cell)?;
            children.push(u32_at(content.get(..self.image.usable)?, place)?);
        }
        children.push(u32_at(&content, at + 8)?);
        self.left = self.left.checked_sub(u32::try_from(children.len()).ok()?)?;
        Some(children)
    }
}

/// One thread's part of a table.
struct Scan<'a> {
    image: &'a Image,
    form: &'a Form,
    hasher: RowHasher,
    pages: Vec<u8>,
    overflow: Vec<u8>,
    payload: Vec<u8>,
    row: Vec<u8>,
}

impl<'a> Scan<'a> {
    fn new(image: &'a Image, form: &'a Form, key: [u8; 32]) -> Self {
        let hasher = RowHasher::new(key);
        let (pages, overflow) = (Vec::new(), Vec::new());
        Self { image, form, hasher, pages, overflow, payload: Vec::new(), row: Vec::with_capacity(512) }
    }

    /// Takes units until there are no more, or until one of the readers finds something odd.
    fn units(&mut self, units: &Mutex<Receiver<Vec<u32>>>, odd: &AtomicBool) -> Plain<()> {
        while !odd.load(Ordering::Relaxed) {
            let unit = units.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(unit) = unit else { return Some(()) };
            if self.leaves(&unit).is_none() {
                odd.store(true, Ordering::Relaxed);
            }
        }
        None
    }

    fn leaves(&mut self, leaves: &[u32]) -> Plain<()> {
        let page_bytes = self.image.page_bytes;
        let most = (READ_BYTES / page_bytes).max(1);
        let mut rest = leaves;
        while let Some(first) = rest.first().copied() {
            let run = rest
                .iter()
                .take(most)
                .zip(first..)
                .take_while(|(page, expected)| *page == expected)
                .count()
                .max(1);
            let mut pages = std::mem::take(&mut self.pages);
            pages.resize(run * page_bytes, 0);
            self.image.read(first, &mut pages)?;
            for (page, number) in pages.chunks(page_bytes).zip(first..) {
                self.leaf(page.get(..self.image.usable)?, header_of(number))?;
            }
            self.pages = pages;
            rest = rest.get(run..)?;
        }
        Some(())
    }

    fn leaf(&mut self, page: &[u8], at: usize) -> Plain<()> {
        if page.get(at) != Some(&LEAF) {
            return None;
        }
        let cells = u16_at(page, at + 3)?;
        let content = at + 8 + 2 * cells;
        let mut before = None;
        for cell in 0..cells {
            let place = u16_at(page, at + 8 + 2 * cell).filter(|place| *place >= content)?;
            let (size, rest) = varint(page.get(place..)?)?;
            let (rowid, rest) = varint(rest)?;
            let rowid = rowid.cast_signed();
            if before.is_some_and(|before| before >= rowid) {
                return None;
            }
            before = Some(rowid);
            let size = usize::try_from(size).ok()?;
            let local = self.local(size);
            let there = rest.get(..local)?;
            if local == size {
                self.form.encode(rowid, there, &mut self.row)?;
            } else {
                self.gather(size, there, u32_at(rest, local)?)?;
                self.form.encode(rowid, &self.payload, &mut self.row)?;
            }
            self.hasher.row(&self.row);
        }
        Some(())
    }

    /// How much of a payload lies in its cell (fileformat2, "Cell Payload Overflow Pages").
    fn local(&self, size: usize) -> usize {
        let usable = self.image.usable;
        let most = usable - 35;
        if size <= most {
            return size;
        }
        let least = (usable - 12) * 32 / 255 - 23;
        let some = least + (size - least) % (usable - 4);
        if some <= most { some } else { least }
    }

    /// Puts a payload together from its cell and its chain of pages.
    fn gather(&mut self, size: usize, there: &[u8], mut next: u32) -> Plain<()> {
        if size > MOST_PAYLOAD {
            return None;
        }
        self.payload.clear();
        self.payload.shrink_to(READ_BYTES.max(size));
        self.payload.extend_from_slice(there);
        self.overflow.resize(self.image.page_bytes, 0);
        while self.payload.len() < size {
            self.image.read(next, &mut self.overflow)?;
            next = u32_at(&self.overflow, 0)?;
            let here = (size - self.payload.len()).min(self.image.usable - 4);
            self.payload.extend_from_slice(self.overflow.get(4..4 + here)?);
        }
        (next == 0).then_some(())
    }
}

#[cfg(test)]
mod tests;
