//! Verification: is what is stored what was written, and is it all there?

use bytes::Bytes;
use dm_core::{Error, ErrorKind, Finding, Level, OpContext, Progress, Result, TargetName};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;

use crate::format::{BACKUP_FORMAT, PIN_FORMAT, PINS, VERIFICATION_FORMAT, VERIFICATIONS};
use crate::index::PageReader;
use crate::lease::Purpose;
use crate::page::Inventory;
use crate::reader::is_finding;
use crate::repository::Repository;
use crate::verify_options::{Portion, VerifyOptions};
use crate::{BackupHeader, PinState, Verification, VerifyLevel, document, paths};

/// Findings kept in the record.
const KEPT_FINDINGS: usize = 100;
/// Objects read side by side, where there is memory for so many packs.
const READS: usize = 2;
/// Objects looked at side by side where none is read.
const LOOKS: usize = 16;

/// An object as the inventory describes it.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    pub(crate) key: Path,
    pub(crate) size: u64,
    pub(crate) digest: String,
}

/// Every object that an inventory names.
pub(crate) fn expected(target: &TargetName, inventory: &Inventory) -> Vec<Expected> {
    let packs = inventory.packs.iter().map(|s| (paths::pack(target, s.id.backup, s.id.n), s));
    let pages = inventory.pages.iter().map(|s| (paths::page(target, s.id.backup, s.id.n), s));
    let keys = inventory.keys.iter().map(|s| (paths::key(target, s.id.backup, s.id.n), s));
    packs
        .chain(pages)
        .chain(keys)
        .map(|(key, s)| Expected { key, size: s.size, digest: s.digest.clone() })
        .collect()
}

#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) findings: Vec<Finding>,
    objects: u64,
    bytes: u64,
}

impl Seen {
    fn wrong(&mut self, error: &Error) {
        let mut finding = Finding::new(Level::Error, "object", error.to_string());
        finding.mend = error.hint().map(str::to_owned);
        self.findings.push(finding);
    }

    /// An error about what is stored is a finding; one about the way to it ends the verification.
    pub(crate) fn take<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if is_finding(&error) => {
                self.wrong(&error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl Repository {
    /// Verifies a backup and records the result beside it. Reports stored bytes read as [`Progress::Bytes`].
    ///
    /// What is wrong with the backup is a finding of the result, never an error.
    ///
    /// # Errors
    /// `Denied` when a full verification has no key; the store's.
    pub async fn verify(
        &self,
        ctx: &OpContext,
        header: &BackupHeader,
        options: impl Into<VerifyOptions> + Send,
    ) -> Result<Verification> {
        let options = options.into();
        let (level, began) = (options.level, ctx.now());
        if options.sample.is_some() && level != VerifyLevel::Stored {
            return Err(Error::invalid(format!("a sample reads stored bytes, and has no level {level}"))
                .with_hint("ask for the one or the other"));
        }
        if level == VerifyLevel::Full && !self.can_read_contents() {
            return Err(Error::new(
                ErrorKind::Denied,
                "a full verification reads the contents, and no identity was given",
            )
            .with_hint("give an identity of the repository, or verify what is stored (needs no key)"));
        }
        let lease = ctx.run(self.lease_for(ctx, header, Purpose::Verify)).await?;
        let before = self.last_verification(ctx, header).await;
        let looked = self.look_at(ctx, header, &options, before.as_ref()).await;
        if let Some(lease) = lease {
            lease.let_go().await;
        }
        let (mut seen, portion) = looked?;
        let ok = seen.findings.iter().all(|f| f.level < Level::Error);
        seen.findings.truncate(KEPT_FINDINGS);
        let mut verification = Verification {
            at: ctx.now(),
            level: options.recorded(),
            ok,
            findings: seen.findings,
            by: ctx.actor().name.clone(),
            objects: seen.objects,
            bytes: seen.bytes,
            proven_at: None,
            sample: None,
        };
        if let Some(portion) = portion {
            portion.conclude(&mut verification, began, before.as_ref());
        }
        self.record(ctx, header, verification).await
    }

    /// The latest record, if it can be read: one that cannot tells nothing.
    async fn last_verification(&self, ctx: &OpContext, header: &BackupHeader) -> Option<Verification> {
        let folder = paths::records_of(VERIFICATIONS, &header.target, header.id);
        let (_, files) = ctx.run(self.inner.storage.children(Some(&folder))).await.ok()?;
        let n = files.iter().filter_map(|f| paths::number(f, "json")).max()?;
        let key = paths::record(VERIFICATIONS, &header.target, header.id, n);
        let bytes = ctx.run(self.inner.storage.find(&key)).await.ok()??;
        document::read(VERIFICATION_FORMAT, &bytes).ok()
    }

    async fn look_at(
        &self,
        ctx: &OpContext,
        header: &BackupHeader,
        options: &VerifyOptions,
        before: Option<&Verification>,
    ) -> Result<(Seen, Option<Portion>)> {
        let level = options.level;
        let mut seen = Seen::default();
        self.verify_commit(ctx, header, &mut seen).await?;
        self.verify_records(ctx, header, &mut seen).await?;
        let pages =
            PageReader { repository: std::sync::Arc::clone(&self.inner), target: header.target.clone() };
        let inventory = ctx.run(pages.inventory(header)).await;
        seen.objects += 1;
        let Some(inventory) = seen.take(inventory)? else { return Ok((seen, None)) };
        let expected = expected(&header.target, &inventory);
        let portion = Portion::of(&expected, options, before, ctx.now());
        self.verify_objects(ctx, expected, &portion, options, &mut seen).await?;
        self.verify_keys_of(ctx, header, &inventory, &mut seen).await?;
        if level == VerifyLevel::Full {
            let failures = match self.read_for(ctx, header, Purpose::Verify).await {
                Ok(reader) => {
                    let total_bytes = Some(header.sizes.logical);
                    ctx.progress(Progress::Phase { name: "reading back", total_bytes });
                    let failures = reader.check_all(ctx).await;
                    reader.close().await?;
                    failures
                }
                Err(error) => Err(error),
            };
            match failures {
                Ok(failures) => failures.iter().for_each(|e| seen.wrong(e)),
                // A damaged key object looks like one for somebody else; that it is damaged was found before.
                Err(error) if error.kind() == ErrorKind::Denied && !seen.findings.is_empty() => {
                    seen.wrong(&error);
                }
                Err(error) => drop(seen.take::<()>(Err(error))?),
            }
        }
        Ok((seen, Some(portion)))
    }

    /// The commit as it lies there: who has just made it knows it from memory alone.
    async fn verify_commit(&self, ctx: &OpContext, header: &BackupHeader, seen: &mut Seen) -> Result<()> {
        let key = paths::commit(&header.target, header.id);
        let read = ctx.run(self.inner.storage.get(&key)).await;
        let same = match read.and_then(|bytes| document::read::<BackupHeader>(BACKUP_FORMAT, &bytes)) {
            Ok(there) if there == *header => Ok(()),
            Ok(_) => Err(Error::corrupt("the commit is another one than was written")),
            Err(error) => Err(error),
        };
        seen.take(same.map_err(|e| e.about(key.as_ref()))).map(drop)
    }

    async fn record(
        &self,
        ctx: &OpContext,
        header: &BackupHeader,
        mut verification: Verification,
    ) -> Result<Verification> {
        match ctx.run(self.add_record(VERIFICATIONS, VERIFICATION_FORMAT, header, &verification)).await {
            Ok(()) => Ok(verification),
            Err(error) if error.kind() == ErrorKind::Denied => {
                verification.findings.push(
                    Finding::new(
                        Level::Warning,
                        "record",
                        "the result could not be recorded: the store may only be read",
                    )
                    .with_mend("give write permission to record verifications"),
                );
                Ok(verification)
            }
            Err(error) => Err(error),
        }
    }

    /// The commit itself, what it references, and the small records about it.
    async fn verify_records(&self, ctx: &OpContext, header: &BackupHeader, seen: &mut Seen) -> Result<()> {
        let stored = self.header(ctx, &header.target, header.id).await;
        seen.objects += 1;
        if let Some(stored) = seen.take(stored)?
            && stored != *header
        {
            seen.wrong(
                &Error::corrupt("the commit is another one than was listed").about(header.id.to_string()),
            );
        }
        for id in &header.references {
            let there = ctx.run(self.check_usable(&header.target, *id)).await;
            match there {
                Err(error) if error.kind() == ErrorKind::Conflict => seen.wrong(&error),
                other => drop(seen.take(other)?),
            }
        }
        let described = ctx.run(self.inner.storage.get(&paths::repository())).await;
        seen.objects += 1;
        if let Some(bytes) = seen.take(described)? {
            let read = document::read::<serde_json::Value>("dm-repository", &bytes);
            seen.take(read.map_err(|e| e.about("repository.json")))?;
        }
        let (family, format) = (crate::holds::HOLDS, crate::holds::HOLD_FORMAT);
        self.verify_family::<crate::HoldRecord>(ctx, header, family, format, seen).await?;
        self.verify_family::<PinState>(ctx, header, PINS, PIN_FORMAT, seen).await?;
        self.verify_family::<Verification>(ctx, header, VERIFICATIONS, VERIFICATION_FORMAT, seen).await
    }

    async fn verify_family<T: serde::de::DeserializeOwned>(
        &self,
        ctx: &OpContext,
        header: &BackupHeader,
        family: &str,
        format: &str,
        seen: &mut Seen,
    ) -> Result<()> {
        let folder = Path::from(format!("{family}/{}/{}", header.target, header.id));
        for object in ctx.run(self.inner.storage.list(&folder)).await? {
            let bytes = ctx.run(self.inner.storage.get(&object.location)).await;
            seen.objects += 1;
            if let Some(bytes) = seen.take(bytes)? {
                let read = document::read::<T>(format, &bytes);
                seen.take(read.map_err(|e| e.about(object.location.as_ref())))?;
            }
        }
        Ok(())
    }

    async fn verify_objects(
        &self,
        ctx: &OpContext,
        expected: Vec<Expected>,
        portion: &Portion,
        options: &VerifyOptions,
        seen: &mut Seen,
    ) -> Result<()> {
        let part: u64 = expected[portion.read.clone()].iter().map(|e| e.size).sum();
        ctx.progress(Progress::Phase { name: "verifying", total_bytes: (part > 0).then_some(part) });
        let known = &options.known;
        let at_once = if portion.read.is_empty() { LOOKS } else { self.inner.memory.packs.min(READS) };
        let mut checks =
            futures::stream::iter(expected.into_iter().enumerate().map(|(i, expected)| async move {
                let bytes = match portion.read.contains(&i) {
                    true if !known.has(&expected) => self.check_bytes(&expected).await,
                    _ => self.check_size(&expected).await.map(|()| 0),
                };
                if bytes.as_ref().is_ok_and(|bytes| *bytes > 0) {
                    known.add(&expected);
                }
                Ok::<_, Error>((expected, bytes))
            }))
            .buffer_unordered(at_once);
        while let Some((expected, bytes)) = ctx.run(checks.try_next()).await? {
            seen.objects += 1;
            let bytes = match bytes {
                // A rewrap may have replaced the key object by one of a later generation.
                Err(error)
                    if error.kind() == ErrorKind::NotFound && expected.key.as_ref().ends_with(".age") =>
                {
                    self.check_later_key(&expected.key).await.map(|()| 0)
                }
                other => other,
            };
            if let Some(bytes) = seen.take(bytes.map_err(|e| e.about(expected.key.as_ref())))? {
                seen.bytes += bytes;
                ctx.progress(Progress::Bytes(bytes));
            }
        }
        Ok(())
    }

    /// Key objects that a rewrap added: the inventory does not know them, so they are looked at by their form.
    async fn verify_keys_of(
        &self,
        ctx: &OpContext,
        header: &BackupHeader,
        inventory: &Inventory,
        seen: &mut Seen,
    ) -> Result<()> {
        let owners: std::collections::BTreeSet<_> = inventory.keys.iter().map(|k| k.id.backup).collect();
        for owner in owners {
            for generation in ctx.run(self.inner.key_generations(&header.target, owner)).await? {
                if inventory.keys.iter().any(|k| k.id.backup == owner && k.id.n == generation) {
                    continue;
                }
                let key = paths::key(&header.target, owner, generation);
                let sealed = ctx.run(self.inner.storage.find(&key)).await?;
                seen.objects += 1;
                if sealed.is_some_and(|sealed| crate::keys::recipients_in(&sealed).is_none_or(|n| n == 0)) {
                    let damaged = Error::corrupt("a key object is damaged").about(key.as_ref());
                    seen.wrong(&damaged.with_hint(
                        "\"dm backup repair\" mends it from a copy; \"dm backup key rewrap --renew\" makes another",
                    ));
                }
            }
        }
        Ok(())
    }

    async fn check_size(&self, expected: &Expected) -> Result<()> {
        let size = self.inner.storage.head(&expected.key).await?.size;
        if size == expected.size {
            return Ok(());
        }
        Err(Error::corrupt(format!("the object has {size} bytes instead of {}", expected.size)))
    }

    pub(crate) async fn check_bytes(&self, expected: &Expected) -> Result<u64> {
        // The size first: an object that grew to any size is not read.
        self.check_size(expected).await?;
        let bytes: Bytes = self.inner.storage.get_large(&expected.key).await?;
        let digest = expected.digest.clone();
        let size = bytes.len() as u64;
        let same = self.inner.cpu.run(move || blake3::hash(&bytes).to_hex().as_str() == digest).await?;
        if same { Ok(size) } else { Err(Error::corrupt("the stored bytes are not those that were written")) }
    }

    async fn check_later_key(&self, key: &Path) -> Result<()> {
        let folder = key.as_ref().rsplit_once('/').map_or("", |(folder, _)| folder);
        let (_, files) = self.inner.storage.children(Some(&Path::from(folder))).await?;
        if files.iter().any(|f| paths::number(f, "age").is_some()) {
            return Ok(());
        }
        Err(Error::not_found("the backup's key object is missing: nobody can read the backup")
            .about(key.as_ref()))
    }
}
