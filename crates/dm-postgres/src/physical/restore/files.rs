//! Members on their way into files.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use dm_core::{
    Block, BlockStream, Error, Layout, MemberSpec, OpContext, RestoreBlock, RestoreContent, Result,
};
use futures::StreamExt as _;

use super::place::{failed, give, make_folder, make_folders, remove_file, remove_tree};
use super::programs::RunAs;
use super::source::{Part, inside};

/// How much of a member waits in memory to be written at once.
const BATCH: usize = 1 << 20;

/// How much of a present file is read at once.
const READ: u64 = 1 << 20;

/// The folder of configuration files that the source keeps elsewhere.
pub(super) const OUTSIDE: &str = "dm-outside";

/// The place of the files.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) data: PathBuf,
    tablespaces: BTreeMap<u32, PathBuf>,
    user: Option<RunAs>,
    /// The true size of each member.
    sizes: HashMap<String, u64>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Files whose content was offered for comparison, so that only what differs comes.
    offered: HashSet<PathBuf>,
    /// The folders of the backup.
    folders: BTreeSet<PathBuf>,
}

impl Files {
    pub(super) fn new(
        data: PathBuf,
        tablespaces: BTreeMap<u32, PathBuf>,
        user: Option<RunAs>,
        sizes: HashMap<String, u64>,
    ) -> Self {
        Self { data, tablespaces, user, sizes, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a file of the data directory lies: files of tablespaces are written where they will stay.
    fn data_path(&self, relative: &Path) -> PathBuf {
        if let Ok(rest) = relative.strip_prefix("pg_tblspc")
            && let Some(oid) = rest.components().next()
            && let Some(place) = oid.as_os_str().to_str().and_then(|o| self.tablespaces.get(&o.parse().ok()?))
        {
            let mut path = place.clone();
            path.extend(rest.components().skip(1));
            return path;
        }
        self.data.join(relative)
    }

    fn path(&self, part: &Part) -> PathBuf {
        match part {
            Part::Directories => self.data.clone(),
            Part::Data(relative) => self.data_path(relative),
            Part::Wal(name) => self.data.join("pg_wal").join(name),
            Part::Outside(relative) => self.data.join(OUTSIDE).join(relative),
        }
    }

    /// Makes the folders of the backup, and the links to tablespaces.
    pub(super) async fn folders(&self, content: RestoreContent) -> Result<()> {
        let bytes = collect(content).await?;
        let names: Vec<String> = serde_json::from_slice(&bytes)
            .map_err(|e| Error::corrupt("the list of directories is not what it should be").with_source(e))?;
        let mut folders: BTreeSet<PathBuf> = names.iter().map(|n| inside(n)).collect::<Result<_>>()?;
        // Without these no server starts; old copies may not list what they skipped.
        folders.extend(["pg_wal", "pg_wal/archive_status", "pg_tblspc", "global"].map(PathBuf::from));
        for folder in &folders {
            let path = self.data_path(folder);
            let link = fs::symlink_metadata(&path).is_ok_and(|m| m.is_symlink());
            // A log on a disk of its own stays there.
            if link && !(folder == Path::new("pg_wal") && path.is_dir()) {
                remove_file(&path)?;
            }
            make_folders(path.parent().unwrap_or(&self.data), self.user.as_ref())?;
            make_folder(&path, self.user.as_ref(), true)?;
        }
        for (oid, place) in &self.tablespaces {
            self.link(*oid, place)?;
        }
        self.state().folders = folders;
        Ok(())
    }

    fn link(&self, oid: u32, place: &Path) -> Result<()> {
        let link = self.data.join("pg_tblspc").join(oid.to_string());
        match fs::read_link(&link) {
            Ok(there) if there == place => return Ok(()),
            Ok(_) => remove_file(&link)?,
            Err(_) => remove_tree(&link)?,
        }
        std::os::unix::fs::symlink(place, &link).map_err(|e| failed(&link, "make", e))?;
        give(&link, self.user.as_ref())
    }

    /// What stands at a member's place already. Only of pages: other files are small, and cut differently each time.
    pub(super) fn present(&self, member: &MemberSpec) -> Result<Option<BlockStream>> {
        let Layout::Pages { page_bytes } = member.layout else { return Ok(None) };
        let part = Part::of(&member.name)?;
        let path = self.path(&part);
        // What cannot be opened is written anew.
        let Ok(file) = open_no_link(&path, OpenOptions::new().read(true)) else { return Ok(None) };
        let metadata = file.metadata().map_err(|e| failed(&path, "look at", e))?;
        let size = self.size(member)?;
        let page = u64::from(page_bytes.max(1));
        let whole = metadata.len().min(size) / page * page;
        if !metadata.is_file() || whole == 0 {
            return Ok(None);
        }
        self.state().offered.insert(path.clone());
        let step = READ / page * page;
        let stream = futures::stream::unfold((file, 0u64, path), move |(file, at, path)| async move {
            if at >= whole {
                return None;
            }
            let length = step.max(page).min(whole - at);
            let (file, path, read) = tokio::task::spawn_blocking(move || {
                let mut buffer = vec![0; usize::try_from(length).unwrap_or(0)];
                let read = file.read_exact_at(&mut buffer, at).map(|()| buffer);
                (file, path, read)
            })
            .await
            .ok()?;
            match read {
                Ok(buffer) => Some((Ok(Block::data(at, buffer)), (file, at + length, path))),
                Err(e) => {
                    let error = failed(&path, "read", e);
                    Some((Err(error), (file, whole, path)))
                }
            }
        });
        Ok(Some(stream.boxed()))
    }

    fn size(&self, member: &MemberSpec) -> Result<u64> {
        self.sizes.get(&member.name).copied().ok_or_else(|| {
            Error::internal("a member came that the manifest does not list").about(&member.name)
        })
    }

    /// Writes one file.
    pub(super) async fn write(
        &self,
        ctx: &OpContext,
        member: &MemberSpec,
        part: &Part,
        mut content: RestoreContent,
    ) -> Result<()> {
        let size = self.size(member)?;
        let path = self.path(part);
        let over = self.state().offered.contains(&path);
        let mut file = None;
        let mut ended = false;
        while !ended {
            ctx.check()?;
            let (mut batch, mut waiting) = (Vec::new(), 0);
            while waiting < BATCH {
                let Some(block) = content.next().await.transpose()? else {
                    ended = true;
                    break;
                };
                if block.offset.checked_add(block.bytes.len() as u64).is_none_or(|end| end > size) {
                    return Err(Error::corrupt(format!(
                        "a block at {} does not belong into {size} bytes",
                        block.offset
                    ))
                    .about(&member.name));
                }
                waiting += block.bytes.len();
                batch.push(block);
            }
            let (path, user, opened) = (path.clone(), self.user.clone(), file.take());
            file = tokio::task::spawn_blocking(move || {
                let file = match opened {
                    Some(file) => file,
                    None => create(&path, size, over, user.as_ref())?,
                };
                write_batch(&file, &batch).map_err(|e| failed(&path, "write", e))?;
                Ok::<_, Error>(Some(file))
            })
            .await
            .map_err(|e| Error::internal("the writing of a file ended unexpectedly").with_source(e))??;
        }
        Ok(())
    }

    /// Writes a small file whose content is at hand.
    pub(super) fn put(&self, relative: &str, bytes: &[u8]) -> Result<()> {
        super::place::write_file(&self.data.join(relative), bytes, self.user.as_ref())
    }

    /// Removes what the backup does not have.
    pub(super) fn prune(&self, ctx: &OpContext) -> Result<()> {
        let mut files: HashSet<PathBuf> = HashSet::new();
        for name in self.sizes.keys() {
            files.insert(self.path(&Part::of(name)?));
        }
        let mut folders: HashSet<PathBuf> = self.state().folders.iter().map(|f| self.data_path(f)).collect();
        for folder in &self.state().folders {
            // What was skipped is empty, but its parents are there.
            folders.extend(folder.ancestors().skip(1).map(|above| self.data_path(above)));
        }
        // The seal itself.
        folders.insert(self.data.join(super::marker::FOLDER));
        folders.insert(self.data.join(OUTSIDE));
        let roots = std::iter::once(&self.data).chain(self.tablespaces.values());
        let wal = self.data.join("pg_wal");
        let links = self.data.join("pg_tblspc");
        for root in roots {
            let mut open = vec![root.clone()];
            while let Some(folder) = open.pop() {
                ctx.check()?;
                for entry in fs::read_dir(&folder).map_err(|e| failed(&folder, "look into", e))? {
                    let entry = entry.map_err(|e| failed(&folder, "look into", e))?;
                    let path = entry.path();
                    let kind = entry.file_type().map_err(|e| failed(&path, "look at", e))?;
                    let seal = path.starts_with(self.data.join(super::marker::FOLDER));
                    let ours = seal
                        || (kind.is_symlink() && path == wal)
                        || (kind.is_symlink() && folder == links && self.is_link(&path));
                    if kind.is_dir() || (kind.is_symlink() && path == wal) {
                        if seal || folders.contains(&path) {
                            open.push(path);
                        } else {
                            remove_tree(&path)?;
                        }
                    } else if !ours && !files.contains(&path) {
                        remove_file(&path)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn is_link(&self, path: &Path) -> bool {
        fs::read_link(path).is_ok_and(|there| self.tablespaces.values().any(|place| *place == there))
    }
}

/// All of a small member.
pub(super) async fn collect(mut content: RestoreContent) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(block) = content.next().await.transpose()? {
        bytes.extend_from_slice(&block.bytes);
    }
    Ok(bytes)
}

/// Opens a file itself, never what a link leads to: another user may own the folder.
fn open_no_link(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW.bits();
    options.custom_flags(i32::try_from(flags).unwrap_or(0)).open(path)
}

fn create(path: &Path, size: u64, over: bool, user: Option<&RunAs>) -> Result<File> {
    let file = if over {
        open_no_link(path, OpenOptions::new().write(true)).map_err(|e| failed(path, "open", e))?
    } else {
        if fs::symlink_metadata(path).is_ok_and(|m| m.is_dir()) {
            remove_tree(path)?;
        }
        remove_file(path)?;
        let new = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        match new() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                make_folders(path.parent().unwrap_or(path), user)?;
                new()
            }
            other => other,
        }
        .map_err(|e| failed(path, "make", e))?
    };
    if let Some(user) = user {
        std::os::unix::fs::fchown(&file, Some(user.uid), Some(user.gid))
            .map_err(|e| failed(path, "give away", e))?;
    }
    // Whatever no block covers is a hole.
    file.set_len(size).map_err(|e| failed(path, "reserve", e))?;
    Ok(file)
}

fn write_batch(file: &File, batch: &[RestoreBlock]) -> io::Result<()> {
    for RestoreBlock { offset, bytes } in batch {
        file.write_all_at(bytes, *offset)?;
    }
    Ok(())
}

/// The map of tablespaces for this place: `<oid> <path>`, as the server reads it.
pub(super) fn tablespace_map(tablespaces: &BTreeMap<u32, PathBuf>) -> Bytes {
    let mut text = String::new();
    for (oid, place) in tablespaces {
        let escaped =
            place.display().to_string().replace('\\', "\\\\").replace('\n', "\\\n").replace('\r', "\\\r");
        text.push_str(&format!("{oid} {escaped}\n"));
    }
    text.into()
}
