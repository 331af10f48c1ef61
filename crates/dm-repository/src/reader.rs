//! A backup being read (§11): members in order, every byte compared with its digest.

use std::fmt;
use std::sync::Arc;

use dm_core::{
    BlockStream, Error, ErrorKind, Layout, MemberSpec, OpContext, Progress, RestoreContent, Result,
    SourceDescription, TableFacts,
};
use futures::{StreamExt, TryFutureExt, TryStreamExt};

use crate::BackupHeader;
use crate::index::PageReader;
use crate::lease::{Lease, Purpose};
use crate::map::MemberDigest;
use crate::page::{Directory, Inventory, MemberEntry, PackId, Root, SHORT_DIGEST};
use crate::repository::Repository;
use crate::writer::hash_key_of;

/// A backup being read. Its lease keeps deletion away and is renewed until [`close`](Self::close) or drop.
pub struct BackupReader {
    inner: Arc<Reading>,
    lease: Option<Lease>,
}

pub(crate) struct Reading {
    header: BackupHeader,
    root: Root,
    pub(crate) hash_key: [u8; 32],
    pub(crate) pages: PageReader,
    pub(crate) inventory: Inventory,
}

impl fmt::Debug for BackupReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackupReader").field("id", &self.inner.header.id).finish_non_exhaustive()
    }
}

impl Repository {
    /// Opens a backup for reading, under a lease. In a store that may only be read there is no lease, and a warning.
    ///
    /// # Errors
    /// `NotFound` or `Conflict` when it is gone or marked, `Denied` without a key, `Corrupt`; the store's.
    pub async fn read(&self, ctx: &OpContext, header: &BackupHeader) -> Result<BackupReader> {
        self.read_for(ctx, header, Purpose::Read).await
    }

    pub(crate) async fn read_for(
        &self,
        ctx: &OpContext,
        header: &BackupHeader,
        purpose: Purpose,
    ) -> Result<BackupReader> {
        let lease = ctx.run(self.lease_for(ctx, header, purpose)).await?;
        match ctx.run(self.open_reading(header)).await {
            Ok(inner) => Ok(BackupReader { inner: Arc::new(inner), lease }),
            Err(error) => {
                if let Some(lease) = lease {
                    lease.let_go().await;
                }
                Err(error)
            }
        }
    }

    async fn open_reading(&self, header: &BackupHeader) -> Result<Reading> {
        self.check_usable(&header.target, header.id).await?;
        let pages = PageReader { repository: Arc::clone(&self.inner), target: header.target.clone() };
        let root: Root = pages.read(&PageReader::root_of(header)).await?;
        let hash_key = hash_key_of(&root.hash_key)?;
        let inventory = pages.inventory(header).await?;
        Ok(Reading { header: header.clone(), root, hash_key, pages, inventory })
    }

    /// A lease on a backup; `None` where the store may only be read.
    pub(crate) async fn lease_for(
        &self,
        ctx: &OpContext,
        header: &BackupHeader,
        purpose: Purpose,
    ) -> Result<Option<Lease>> {
        let inner = &self.inner;
        match Lease::take(&inner.storage, inner.lifetime(), purpose, Some(&header.target), Some(header.id))
            .await
        {
            Ok(lease) => Ok(Some(lease)),
            Err(error) if error.kind() == ErrorKind::Denied => {
                ctx.progress(Progress::Warning(
                    "the store may only be read: nothing keeps the backup from being deleted meanwhile"
                        .into(),
                ));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl BackupReader {
    /// What `backup.json` says.
    #[must_use]
    pub fn header(&self) -> &BackupHeader {
        &self.inner.header
    }

    /// What was backed up.
    #[must_use]
    pub fn source(&self) -> &SourceDescription {
        &self.inner.root.source
    }

    /// What was recorded of the tables.
    #[must_use]
    pub fn tables(&self) -> &[TableFacts] {
        &self.inner.root.tables
    }

    /// What the source warned of.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.inner.root.warnings
    }

    /// Key of the content digests.
    #[must_use]
    pub fn digest_key(&self) -> [u8; 32] {
        self.inner.hash_key
    }

    /// The members with their sizes in bytes, in order of their names.
    ///
    /// # Errors
    /// `Corrupt`; the store's.
    pub async fn members(&self, ctx: &OpContext) -> Result<Vec<(MemberSpec, u64)>> {
        let mut members = Vec::new();
        for place in 0..self.inner.root.directories.len() {
            let directory = ctx.run(self.inner.directory(place)).await?;
            members.extend(directory.members.into_iter().map(|m| (m.spec, m.size)));
        }
        Ok(members)
    }

    /// The digest of every member, by name.
    pub(crate) async fn member_digests(
        &self,
        ctx: &OpContext,
    ) -> Result<std::collections::BTreeMap<String, String>> {
        let mut digests = std::collections::BTreeMap::new();
        for place in 0..self.inner.root.directories.len() {
            let directory = ctx.run(self.inner.directory(place)).await?;
            digests.extend(directory.members.into_iter().map(|m| (m.spec.name, m.digest)));
        }
        Ok(digests)
    }

    /// The content of a member, in order; who consumes it reports the progress. The stream owns what it needs and
    /// holds a few dozen MiB at most; it is valid as long as the reader is open.
    #[must_use]
    pub fn content(&self, ctx: &OpContext, member_name: &str) -> RestoreContent {
        let inner = Arc::clone(&self.inner);
        let ctx = ctx.clone();
        let name = member_name.to_owned();
        async move {
            let (entry, packs) = ctx.run(inner.find(&name)).await?;
            Ok::<_, Error>(inner.content(ctx, Arc::new(entry), packs))
        }
        .try_flatten_stream()
        .boxed()
    }

    /// What of a member differs from what is present already: of members of pages the pages that differ, with zeros where
    /// the backup has a hole and the present does not; of a stream nothing when it is the same, else all of it. Pages
    /// behind the member's end are not mentioned: who writes sets the size. Only frames with a page that differs are
    /// fetched.
    #[must_use]
    pub fn content_except(&self, ctx: &OpContext, member_name: &str, present: BlockStream) -> RestoreContent {
        let inner = Arc::clone(&self.inner);
        let ctx = ctx.clone();
        let name = member_name.to_owned();
        async move {
            let (entry, packs) = ctx.run(inner.find(&name)).await?;
            inner.content_except(ctx, entry, packs, present).await
        }
        .try_flatten_stream()
        .boxed()
    }

    /// Ends the lease.
    ///
    /// # Errors
    /// The store's; the lease then runs out by itself.
    pub async fn close(self) -> Result<()> {
        match self.lease {
            Some(lease) => lease.release().await,
            None => Ok(()),
        }
    }

    /// Reads everything and compares it; gives one error for each member that does not hold.
    pub(crate) async fn check_all(&self, ctx: &OpContext) -> Result<Vec<Error>> {
        let mut failures = Vec::new();
        for place in 0..self.inner.root.directories.len() {
            let directory = match ctx.run(self.inner.directory(place)).await {
                Ok(directory) => directory,
                Err(error) if is_finding(&error) => {
                    failures.push(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            for member in directory.members {
                let name = member.spec.name.clone();
                match self.check_member(ctx, member, directory.packs.clone()).await {
                    Ok(()) => {}
                    Err(error) if is_finding(&error) => failures.push(error.about(name)),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(failures)
    }

    async fn check_member(&self, ctx: &OpContext, member: MemberEntry, packs: Vec<PackId>) -> Result<()> {
        let mut digest = MemberDigest::new(&self.inner.hash_key);
        let page = match member.spec.layout {
            Layout::Stream => None,
            Layout::Pages { page_bytes } => Some(u64::from(page_bytes)),
        };
        for piece in 0..PageReader::pieces(&member) {
            for extent in ctx.run(self.inner.pages.piece(&member, &packs, piece)).await? {
                for (i, short) in extent.digests.chunks(SHORT_DIGEST).enumerate() {
                    digest.add(extent.offset + i as u64 * page.unwrap_or(0), short);
                }
            }
        }
        if digest.finish(member.size).to_hex().as_str() != member.digest {
            return Err(Error::corrupt("the digest of the member does not hold"));
        }
        let mut content = Arc::clone(&self.inner).content(ctx.clone(), Arc::new(member), packs);
        while let Some(block) = ctx.run(content.try_next()).await? {
            ctx.progress(Progress::Bytes(block.bytes.len() as u64));
        }
        Ok(())
    }
}

/// Whether an error says something of the backup, not of the way to it.
pub(crate) fn is_finding(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::Invalid)
}

impl Reading {
    async fn directory(&self, place: usize) -> Result<Directory> {
        let wanted = &self.root.directories[place];
        let directory = self.pages.directory(&wanted.page).await?;
        if directory.members.len() == wanted.members as usize {
            return Ok(directory);
        }
        Err(Error::corrupt("a directory page has another number of members than the root says"))
    }

    async fn find(&self, name: &str) -> Result<(MemberEntry, Vec<PackId>)> {
        let missing = || Error::not_found("the backup has no such member").about(name);
        let after = self.root.directories.partition_point(|d| d.first.as_str() <= name);
        let directory = self.directory(after.checked_sub(1).ok_or_else(missing)?).await?;
        let entry = directory.members.into_iter().find(|m| m.spec.name == name).ok_or_else(missing)?;
        Ok((entry, directory.packs))
    }
}
