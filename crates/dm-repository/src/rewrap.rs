//! Changing who can read (§4): a new generation of recipients, and for every backup and log key one small object more. Packs, pages and
//! pieces of log are never touched.
//!
//! The record comes first, so that whatever is written from then on is sealed to the new recipients; then everything that stands
//! there is brought along. Interrupted anywhere, the next run does what is left.

use std::collections::BTreeMap;

use dm_core::{BackupId, Effect, Error, ErrorKind, OpContext, Progress, Result};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use serde::Serialize;

use crate::lease::{Lease, Purpose};
use crate::recipients::{self, FORMAT, RecipientsGeneration, Record, listed, same};
use crate::repository::Repository;
use crate::storage::Created;
use crate::{BackupHeader, Identity, LeftBackup, Recipient, RewrapPlan, document, keys, log_keys, paths};

/// Backups looked at, or rewrapped, at once.
const AT_ONCE: usize = 16;
/// Backups that are committed while others are rewrapped are found by looking again, so often at most.
const LOOKS: usize = 8;

/// What a rewrap did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RewrapReport {
    /// The generation that counts now.
    pub generation: u32,
    /// Its recipients.
    pub recipients: Vec<Recipient>,
    /// Backups whose key was sealed to it.
    pub rewrapped: Vec<BackupId>,
    /// Backups that none of the keys here opens, or that could not be done.
    pub left: Vec<LeftBackup>,
    /// Keys of the log that were sealed to it.
    pub log_keys: u64,
    /// Keys of the log that none of the keys here opens, or whose older objects had to stay.
    pub log_keys_left: u64,
    /// Key objects of earlier generations that were deleted.
    pub deleted: u64,
}

impl RewrapReport {
    /// Whether everything can be read by the newest recipients.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.left.is_empty() && self.log_keys_left == 0
    }
}

/// Key objects that this run wrote, with the digests of what was sent.
type Sent = BTreeMap<Path, blake3::Hash>;

/// A backup as its key objects show it.
pub(crate) struct Wrapped {
    pub(crate) header: BackupHeader,
    /// Ascending.
    pub(crate) generations: Vec<u32>,
}

impl Repository {
    /// Does what a plan says. Backups that are committed meanwhile are brought along.
    ///
    /// # Errors
    /// `Conflict` when the recipients were changed since the plan was made; those of [`plan_rewrap`](Self::plan_rewrap); effect `Partial` when
    /// the new recipients count and not everything was brought along: run it again.
    ///
    /// # Cancellation
    /// Safe at any point; the next rewrap does what is left.
    pub async fn apply_rewrap(&self, ctx: &OpContext, plan: &RewrapPlan) -> Result<RewrapReport> {
        self.check_rewrap().await?;
        let (storage, lifetime) = (&self.inner.storage, self.inner.lifetime());
        let lease = ctx.run(Lease::take(storage, lifetime, Purpose::Backup, None, None)).await?;
        let done = self.rewrap_under(ctx, plan, &lease).await;
        lease.let_go().await;
        done
    }

    async fn rewrap_under(&self, ctx: &OpContext, plan: &RewrapPlan, lease: &Lease) -> Result<RewrapReport> {
        if self.single_writer() {
            self.refuse_others(lease).await?;
        }
        let history = ctx.run(self.inner.history()).await?;
        let now = history.current();
        // A run that died behind the record made what was planned.
        let made = now.generation == plan.generation && same(&now.recipients, &plan.recipients);
        if !made {
            if now.generation != plan.current || plan.generation == plan.current {
                return Err(stale());
            }
            ctx.check()?;
            self.put_generation(ctx, plan, &history).await?;
        }
        let generation = ctx.run(self.inner.history()).await?.current().clone();
        let mut report = RewrapReport {
            generation: generation.generation,
            recipients: generation.recipients.clone(),
            ..RewrapReport::default()
        };
        self.bring_along(ctx, &generation, plan.request.delete_old, &mut report).await.map_err(|error| {
            let hint = "run the rewrap again: it does what is left";
            let hint = error.hint().map_or_else(|| hint.to_owned(), |first| format!("{first}; {hint}"));
            error.with_effect(Effect::Partial).with_hint(hint)
        })?;
        Ok(report)
    }

    async fn put_generation(
        &self,
        ctx: &OpContext,
        plan: &RewrapPlan,
        history: &recipients::History,
    ) -> Result<()> {
        let mut record = Record {
            repository: self.id(),
            generation: plan.generation,
            previous: history.digest.clone(),
            recipients: plan.recipients.clone(),
            at: ctx.now(),
            by: ctx.actor().name.clone(),
            reason: plan.request.reason.clone(),
            proofs: Vec::new(),
        };
        let options = &self.inner.options;
        for identity in options.index_identity.iter().chain(&options.identities) {
            record.prove(identity);
        }
        let key = paths::recipients_record(plan.generation);
        match ctx.run(self.inner.storage.create(&key, document::write(FORMAT, &record)?)).await? {
            Created::Ours => Ok(()),
            Created::Taken => Err(stale()),
        }
    }

    /// Seals to the newest recipients whatever is not yet.
    async fn bring_along(
        &self,
        ctx: &OpContext,
        generation: &RecipientsGeneration,
        delete_old: bool,
        report: &mut RewrapReport,
    ) -> Result<()> {
        ctx.progress(Progress::Phase { name: "rewrapping", total_bytes: None });
        let mut sent = Sent::new();
        for _ in 0..LOOKS {
            let behind: Vec<Wrapped> = self
                .wrapped(ctx)
                .await?
                .into_iter()
                .filter(|w| !w.generations.contains(&generation.generation))
                .filter(|w| report.left.iter().all(|left| left.id != w.header.id))
                .collect();
            if behind.is_empty() {
                break;
            }
            let mut done = futures::stream::iter(behind)
                .map(|wrapped| async move {
                    let sealed = ctx.run(self.rewrap_one(&wrapped.header, generation)).await?;
                    Ok::<_, Error>((wrapped.header, sealed))
                })
                .buffer_unordered(AT_ONCE);
            while let Some((header, sealed)) = done.try_next().await? {
                match sealed {
                    Ok((key, digest)) => {
                        sent.insert(key, digest);
                        ctx.progress(Progress::Item(header.id.to_string()));
                        report.rewrapped.push(header.id);
                    }
                    Err(error) => report.left.push(left(&header, &error)),
                }
            }
        }
        let opened = ctx.run(self.inner.opened_log_keys()).await?;
        for (id, generations) in ctx.run(self.inner.log_key_objects()).await? {
            if generations.contains(&generation.generation) {
                continue;
            }
            match opened.get(&id) {
                Some(identity) => {
                    let (key, digest) = ctx.run(self.inner.rewrap_log_key(id, identity, generation)).await?;
                    sent.insert(key, digest);
                    report.log_keys += 1;
                }
                None => report.log_keys_left += 1,
            }
        }
        if delete_old {
            self.delete_old(ctx, generation, &sent, report).await?;
        }
        Ok(())
    }

    /// Gives the error of a backup that cannot be opened; others end the rewrap.
    async fn rewrap_one(
        &self,
        header: &BackupHeader,
        generation: &RecipientsGeneration,
    ) -> Result<Result<(Path, blake3::Hash)>> {
        let identity = match self.inner.backup_key(&header.target, header.id).await {
            Err(error) if is_of_one(&error) => return Ok(Err(error)),
            opened => opened?,
        };
        let sealed = log_keys::seal(&identity, &generation.recipients)?;
        let key = paths::key(&header.target, header.id, generation.generation);
        // Another program may seal it to the same recipients at the same time: its object is as good.
        let digest = blake3::hash(&sealed);
        self.inner.storage.create(&key, sealed).await.map(|_| Ok((key, digest)))
    }

    /// Deletes key objects of earlier generations where that of the newest is known to hold the same key: it was opened here, or
    /// it is what this run sent.
    async fn delete_old(
        &self,
        ctx: &OpContext,
        generation: &RecipientsGeneration,
        sent: &Sent,
        report: &mut RewrapReport,
    ) -> Result<()> {
        let newest = generation.generation;
        let mut going = Vec::new();
        for Wrapped { header, generations } in self.wrapped(ctx).await? {
            let older = generations.iter().filter(|g| **g < newest);
            let older: Vec<Path> = older.map(|g| paths::key(&header.target, header.id, *g)).collect();
            if older.is_empty() || !generations.contains(&newest) {
                continue;
            }
            let known = ctx.run(self.inner.backup_key(&header.target, header.id)).await;
            let key = paths::key(&header.target, header.id, newest);
            let holds = match &known {
                Ok(known) => {
                    ctx.run(self.holds(&key, known, sent)).await?
                        && ctx.run(self.opens_map(&header, known)).await?
                }
                Err(error) if is_of_one(error) => false,
                Err(_) => return known.map(drop),
            };
            if holds {
                going.extend(older);
                continue;
            }
            report.left.push(LeftBackup {
                target: header.target.clone(),
                id: header.id,
                reason: format!(
                    "its older key objects stay: nothing here can tell whether that of generation {newest} is good; give an identity of one of: {}",
                    listed(&generation.recipients)
                ),
            });
        }
        let opened = ctx.run(self.inner.opened_log_keys()).await?;
        for (id, generations) in ctx.run(self.inner.log_key_objects()).await? {
            let older = generations.iter().filter(|g| **g < newest);
            let older: Vec<Path> = older.map(|g| paths::log_key(id, *g)).collect();
            if older.is_empty() {
                continue;
            }
            let holds = match opened.get(&id) {
                Some(known) if generations.contains(&newest) => {
                    ctx.run(self.holds(&paths::log_key(id, newest), known, sent)).await?
                }
                _ => false,
            };
            if holds {
                going.extend(older);
            } else {
                report.log_keys_left += 1;
            }
        }
        ctx.check()?;
        report.deleted = going.len() as u64;
        self.inner.storage.delete(going).await
    }

    /// Whether a key is that of the backup, and not one that somebody put there in its name.
    async fn opens_map(&self, header: &BackupHeader, key: &Identity) -> Result<bool> {
        let root = paths::page(&header.target, header.id, header.root.n);
        let Some(sealed) = self.inner.storage.find(&root).await? else { return Ok(false) };
        Ok(keys::open_sealed(&sealed, &[key]).is_ok())
    }

    /// Whether a key object is known to hold this key.
    async fn holds(&self, key: &Path, known: &Identity, sent: &Sent) -> Result<bool> {
        let sealed = self.inner.storage.get(key).await?;
        if sent.get(key).is_some_and(|digest| *digest == blake3::hash(&sealed)) {
            return Ok(true);
        }
        let ours: Vec<&Identity> = self.inner.options.identities.iter().collect();
        let opened = keys::open_sealed(&sealed, &ours).ok();
        let opened = opened.and_then(|text| keys::identity_of(&text, key).ok());
        Ok(opened.is_some_and(|opened| opened.recipient() == known.recipient()))
    }

    /// Whole backups with the generations that each is sealed to.
    pub(crate) async fn wrapped(&self, ctx: &OpContext) -> Result<Vec<Wrapped>> {
        let listing = self.list(ctx, None).await?;
        let looks = listing.backups.into_iter().filter(|h| h.encrypted).map(|header| async move {
            let generations = self.inner.key_generations(&header.target, header.id).await?;
            Ok::<_, Error>(Wrapped { header, generations })
        });
        ctx.run(futures::stream::iter(looks).buffered(AT_ONCE).try_collect()).await
    }
}

fn stale() -> Error {
    Error::new(ErrorKind::Conflict, "somebody else changed the recipients meanwhile")
        .with_hint("look at \"dm backup key list\", and plan again")
}

/// Whether the other backups can be done all the same.
pub(crate) fn is_of_one(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Denied | ErrorKind::Corrupt | ErrorKind::NotFound)
}

pub(crate) fn left(header: &BackupHeader, error: &Error) -> LeftBackup {
    let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
    LeftBackup { target: header.target.clone(), id: header.id, reason: format!("{error}{hint}") }
}
