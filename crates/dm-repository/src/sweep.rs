//! The sweep (§9.3, §9.4): removes what is marked when nobody can rely on it any more, and marks what was interrupted.
//!
//! It fails closed: whatever cannot be read, listed to its end or parsed counts as referenced.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use dm_core::{BackupId, ErrorKind, Finding, Level, OpContext, Result, TargetName};
use object_store::ObjectMeta;
use object_store::path::Path;

use crate::lease::{self, Holder, Lease, Purpose};
use crate::listing::Folder;
use crate::repository::Repository;
use crate::{BackupHeader, paths, tombstone};

/// A mark outlives what it marked at least so long, and at least ten leases: a writer that was stopped in the middle of
/// its commit still finds it.
const MARK_LIFE: Duration = Duration::from_secs(7 * 86_400);

/// An interrupted backup that another run can go on with stays at least so long, and at least twenty leases.
const JOURNAL_LIFE: Duration = Duration::from_secs(86_400);

const ONLY_MARKED: &str = "the store lets nothing be deleted with these credentials: run it with others, or let the bucket's own rules remove it";

/// How to sweep.
#[derive(Clone, Copy, Debug, Default)]
pub struct SweepOptions {
    /// Only say what would be removed.
    pub dry_run: bool,
    /// Wait until marked backups may be removed (leases end or expire); otherwise leave them to a later sweep.
    pub wait: bool,
}

/// What a sweep did.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SweepReport {
    /// Backups whose objects were (or would be) removed.
    pub removed: Vec<BackupId>,
    /// Interrupted backups that were (or would be) marked.
    pub marked: Vec<BackupId>,
    /// Marked backups that have to wait, and why.
    pub waiting: Vec<(BackupId, String)>,
    /// Marks that were withdrawn because a backup references what they marked.
    pub unmarked: Vec<BackupId>,
    /// Objects that were (or would be) removed.
    pub objects: u64,
    /// Bytes that were (or would be) freed.
    pub bytes: u64,
    /// Objects of expired log that were (or would be) removed.
    pub log_objects: u64,
    /// Their bytes.
    pub log_bytes: u64,
    /// Logs with an expired part that has to wait, and why.
    pub log_waiting: Vec<(String, String)>,
    /// Whether the store lets nothing of backups be deleted: they are marked, and stay.
    pub only_marks: bool,
    /// What could not be read and therefore counts as referenced.
    pub problems: Vec<Finding>,
}

/// What one look at a target found.
struct Look {
    marks: BTreeMap<BackupId, DateTime<Utc>>,
    holders: Vec<Holder>,
    now: DateTime<Utc>,
    committed: BTreeMap<BackupId, BackupHeader>,
    incomplete: BTreeSet<BackupId>,
    unreadable: Vec<(BackupId, String)>,
}

impl Repository {
    /// Removes the objects of marked backups as soon as that is safe, and marks what interrupted backups left.
    ///
    /// # Errors
    /// The store's, `Conflict` when this program was stopped for longer than its lease: what was not reached is left for
    /// the next sweep. In single-writer mode `Busy` while another program is at work.
    ///
    /// # Cancellation
    /// Safe at any point; the next sweep goes on.
    pub async fn sweep(&self, ctx: &OpContext, options: SweepOptions) -> Result<SweepReport> {
        let lifetime = self.inner.lifetime();
        let lease = ctx.run(Lease::take(&self.inner.storage, lifetime, Purpose::Sweep, None, None)).await?;
        let swept = self.sweep_under(ctx, options, &lease).await;
        match &swept {
            Ok(_) => lease.release().await?,
            Err(_) => lease.let_go().await,
        }
        swept
    }

    async fn sweep_under(
        &self,
        ctx: &OpContext,
        options: SweepOptions,
        lease: &Lease,
    ) -> Result<SweepReport> {
        let lifetime = self.inner.lifetime();
        if self.single_writer() {
            self.refuse_others(lease).await?;
        }
        let mut report = SweepReport::default();
        loop {
            report.waiting.clear();
            report.log_waiting.clear();
            report.only_marks = false;
            report.problems.clear();
            for target in ctx.run(self.swept_targets()).await? {
                self.sweep_target(ctx, &target, options, lease, &mut report).await?;
            }
            for target in ctx.run(self.logged_targets()).await? {
                match self.sweep_logs(ctx, &target, options, lease, &mut report).await {
                    Err(error) if error.kind() == ErrorKind::Denied => {
                        report.only_marks = true;
                        report.log_waiting.push((target.to_string(), ONLY_MARKED.into()));
                    }
                    swept => swept?,
                }
            }
            let done = report.waiting.is_empty() && report.log_waiting.is_empty();
            let is_over = done || report.only_marks || !report.problems.is_empty();
            if options.dry_run || !options.wait || is_over {
                break;
            }
            ctx.run(async {
                tokio::time::sleep((lifetime / 4).min(Duration::from_secs(15))).await;
                Ok(())
            })
            .await?;
        }
        if !options.dry_run {
            self.sweep_leases(lease).await?;
        }
        Ok(report)
    }

    async fn swept_targets(&self) -> Result<BTreeSet<TargetName>> {
        let (marked, _) = self.inner.storage.children(Some(&Path::from("tombstones"))).await?;
        let mut targets: BTreeSet<_> = self.targets().await?.into_iter().collect();
        targets.extend(marked.into_iter().filter_map(|t| TargetName::new(t).ok()));
        Ok(targets)
    }

    /// One look. The order matters: marks, then the time, then leases, then commits. Whoever had a lease when a mark was
    /// made, and has none now, has ended its commit before the commits are listed.
    async fn look(&self, target: &TargetName, lease: &Lease) -> Result<Look> {
        let storage = &self.inner.storage;
        let folder = paths::tombstones(target);
        let mut marks = BTreeMap::new();
        for object in storage.list(&folder).await? {
            let file = object.location.filename().unwrap_or_default();
            if let Some(id) = file.strip_suffix(".json").and_then(|id| id.parse().ok()) {
                marks.insert(id, object.last_modified);
            }
        }
        let now = lease.prove().await?;
        let holders = lease::holders(storage, Some(lease.holder())).await?;
        let mut look = Look {
            marks,
            holders,
            now,
            committed: BTreeMap::new(),
            incomplete: BTreeSet::new(),
            unreadable: Vec::new(),
        };
        for (id, folder) in self.folders(target).await? {
            match folder {
                Folder::Committed(header) => {
                    look.committed.insert(id, *header);
                }
                Folder::Incomplete => {
                    look.incomplete.insert(id);
                }
                Folder::Unreadable(error) => look.unreadable.push((id, error.to_string())),
            }
        }
        Ok(look)
    }

    async fn sweep_target(
        &self,
        ctx: &OpContext,
        target: &TargetName,
        options: SweepOptions,
        lease: &Lease,
        report: &mut SweepReport,
    ) -> Result<()> {
        let look = ctx.run(self.look(target, lease)).await?;
        for (_, why) in &look.unreadable {
            report.problems.push(
                Finding::new(Level::Error, "sweep", format!("nothing of {target} is removed: {why}"))
                    .with_mend("mend or remove the unreadable commit; until then it may need any backup"),
            );
        }
        self.mark_interrupted(ctx, target, options, &look, report).await?;
        for (id, marked_at) in &look.marks {
            ctx.check()?;
            self.sweep_marked(target, *id, *marked_at, options, &look, lease, report).await?;
        }
        Ok(())
    }

    /// Marks folders without a commit that nobody works on, and commits whose ground was removed before they came.
    async fn mark_interrupted(
        &self,
        ctx: &OpContext,
        target: &TargetName,
        options: SweepOptions,
        look: &Look,
        report: &mut SweepReport,
    ) -> Result<()> {
        let lifetime = self.inner.lifetime();
        let mut doomed: Vec<(BackupId, &str)> = Vec::new();
        let named = |id: BackupId| look.holders.iter().any(|h| h.is_alive(look.now, lifetime) && h.names(id));
        for id in look.incomplete.iter().filter(|id| !look.marks.contains_key(id)) {
            if named(*id) {
                continue;
            }
            if let Some(lost) = ctx.run(self.lost_commit(target, *id)).await? {
                report.problems.push(lost);
                continue;
            }
            let objects = ctx.run(self.inner.storage.list(&paths::backup(target, *id))).await?;
            let newest = objects.iter().map(|o| o.last_modified).max();
            let journal = paths::journal(target, *id);
            let has_journal = objects.iter().any(|o| o.location.prefix_matches(&journal));
            let patience = if has_journal { JOURNAL_LIFE.max(20 * lifetime) } else { 2 * lifetime };
            if newest.is_some_and(|newest| look.now - newest > chrono_duration(patience)) {
                doomed.push((*id, "interrupted"));
            }
        }
        for (id, header) in look.committed.iter().filter(|(id, _)| !look.marks.contains_key(id)) {
            let groundless = header.references.iter().any(|r| {
                look.marks.contains_key(r) && !look.committed.contains_key(r) && !is_unreadable(look, *r)
            });
            if groundless && !named(*id) {
                doomed.push((*id, "withdrawn: its ground was deleted before it was committed"));
            }
        }
        for (id, reason) in doomed {
            if report.marked.contains(&id) {
                continue;
            }
            if !options.dry_run {
                // Looked at again: it may have been committed in between.
                if reason == "interrupted"
                    && ctx.run(self.inner.storage.exists(&paths::commit(target, id))).await?
                {
                    continue;
                }
                tombstone::mark(&self.inner.storage, ctx, target, id, reason).await?;
                report.waiting.push((id, "it was marked just now".into()));
            }
            report.marked.push(id);
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    async fn sweep_marked(
        &self,
        target: &TargetName,
        id: BackupId,
        marked_at: DateTime<Utc>,
        options: SweepOptions,
        look: &Look,
        lease: &Lease,
        report: &mut SweepReport,
    ) -> Result<()> {
        let storage = &self.inner.storage;
        let objects = storage.list(&paths::backup(target, id)).await?;
        if objects.is_empty() {
            let life = MARK_LIFE.max(10 * self.inner.lifetime());
            if look.now - marked_at > chrono_duration(life) && !options.dry_run {
                let mut keys = vec![paths::tombstone(target, id)];
                for family in [crate::format::PINS, crate::format::VERIFICATIONS, crate::holds::HOLDS] {
                    let folder = Path::from(format!("{family}/{target}/{id}"));
                    keys.extend(storage.list(&folder).await?.into_iter().map(|o| o.location));
                }
                keys.reverse();
                match storage.delete(keys).await {
                    Err(error) if error.kind() == ErrorKind::Denied => {}
                    deleted => deleted?,
                }
            }
            return Ok(());
        }
        if let Some(why) = self.must_wait(target, id, marked_at, look) {
            report.waiting.push((id, why));
            return Ok(());
        }
        let needed_by = look
            .committed
            .iter()
            .find(|(other, h)| !look.marks.contains_key(other) && h.references.contains(&id));
        if let Some((other, _)) = needed_by {
            if look.committed.contains_key(&id) {
                // The other was committed before it could see the mark, and nothing has been removed: the mark goes.
                if !options.dry_run
                    && let Err(error) = storage.delete(vec![paths::tombstone(target, id)]).await
                {
                    if error.kind() != ErrorKind::Denied {
                        return Err(error);
                    }
                    report.only_marks = true;
                    report
                        .waiting
                        .push((id, format!("backup {other} needs it; its mark cannot be taken away here")));
                    return Ok(());
                }
                report.unmarked.push(id);
            } else {
                report.waiting.push((id, format!("backup {other} names it and is going to be withdrawn")));
            }
            return Ok(());
        }
        let (number, bytes) = (objects.len() as u64, objects.iter().map(|o| o.size).sum::<u64>());
        if !options.dry_run {
            // A sweep that was stopped meanwhile has looked at a world that is no more.
            lease.prove().await?;
            match self.remove(target, id, objects).await {
                // An append-only store: the mark is all there will be.
                Err(error) if error.kind() == ErrorKind::Denied => {
                    report.only_marks = true;
                    report.waiting.push((id, ONLY_MARKED.into()));
                    return Ok(());
                }
                removed => removed?,
            }
        }
        report.objects += number;
        report.bytes += bytes;
        report.removed.push(id);
        Ok(())
    }

    /// Why a marked backup cannot be removed yet.
    fn must_wait(
        &self,
        target: &TargetName,
        id: BackupId,
        marked_at: DateTime<Utc>,
        look: &Look,
    ) -> Option<String> {
        if let Some((other, _)) = look.unreadable.iter().find(|(other, _)| *other != id) {
            return Some(format!("the commit of {other} cannot be read and may need it"));
        }
        if is_unreadable(look, id) {
            return Some("its own commit cannot be read".into());
        }
        who_may_read(&look.holders, target, marked_at, look.now, self.inner.lifetime())
    }

    /// Removes a backup's objects: the commit first, so that no reader sees a backup without its packs.
    async fn remove(&self, target: &TargetName, id: BackupId, objects: Vec<ObjectMeta>) -> Result<()> {
        let storage = &self.inner.storage;
        storage.delete(vec![paths::commit(target, id)]).await?;
        let rank =
            |key: &Path| match paths::inside(key, &paths::backup(target, id)).first().map(String::as_str) {
                Some("packs") => 0,
                Some("index") => 1,
                Some("keys") => 3,
                _ => 2,
            };
        let mut groups: BTreeMap<i32, Vec<Path>> = BTreeMap::new();
        for object in objects {
            groups.entry(rank(&object.location)).or_default().push(object.location);
        }
        for keys in groups.into_values() {
            storage.delete_all(keys).await?;
        }
        Ok(())
    }

    /// Removes leases and probes of programs that died long ago.
    async fn sweep_leases(&self, lease: &Lease) -> Result<()> {
        let storage = &self.inner.storage;
        let now = lease.prove().await?;
        let old = chrono_duration(self.inner.lifetime()) * 10;
        for holder in lease::holders(storage, Some(lease.holder())).await? {
            if now - holder.newest > old {
                lease::deleted(storage.delete(holder.keys).await)?;
            }
        }
        let probes = storage.list(&paths::probes()).await?;
        let dead = probes.into_iter().filter(|p| now - p.last_modified > old).map(|p| p.location).collect();
        match storage.delete(dead).await {
            Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Denied) => Err(error),
            _ => Ok(()),
        }
    }
}

/// Why what was marked at this time must stay: somebody may still rely on it.
pub(crate) fn who_may_read(
    holders: &[Holder],
    target: &TargetName,
    marked_at: DateTime<Utc>,
    now: DateTime<Utc>,
    lifetime: Duration,
) -> Option<String> {
    let lifetime = chrono_duration(lifetime);
    if now - marked_at < lifetime {
        return Some("it was marked less than a lease ago".into());
    }
    let holder = holders.iter().find(|h| {
        // Whoever came after the mark has seen it; whoever was there before must be gone, and well gone.
        h.concerns(target) && h.first <= marked_at && now - h.newest <= lifetime * 2
    })?;
    Some(match &holder.body {
        Some(body) => {
            format!("a program that was at work when it was marked is still there ({:?})", body.purpose)
        }
        None => "a lease that cannot be read was there when it was marked".into(),
    })
}

fn is_unreadable(look: &Look, id: BackupId) -> bool {
    look.unreadable.iter().any(|(other, _)| *other == id)
}

fn chrono_duration(duration: Duration) -> chrono::Duration {
    chrono::Duration::from_std(duration).unwrap_or(chrono::Duration::MAX)
}
