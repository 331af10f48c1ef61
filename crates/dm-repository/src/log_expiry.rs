//! Expiry of shipped log (§12.1): a mark says from where on a timeline's log stays, and hides at once what lies before; the
//! sweep removes that when nobody who came before the mark can still be reading it.
//!
//! Nothing here decides what may go: that is the caller's, who knows the backups. Marks only ever move forward, and needs no key.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use dm_core::{OpContext, Result, TargetName};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use crate::lease::{self, Lease};
use crate::logs::{LogListing, LogPlace, Named, hex_number, timeline_number, understand, window_number};
use crate::repository::Repository;
use crate::sweep::{SweepOptions, SweepReport, who_may_read};
use crate::{document, paths};

/// Format name of a mark.
const FORMAT: &str = "dm-log-expiry";
/// Folders listed at once.
const LISTS: usize = 8;
/// Objects removed between two looks at our own lease.
const BATCH: usize = 500;

/// What stays of a timeline's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LogFloor {
    /// The timeline.
    pub timeline: u32,
    /// Pieces and gaps that end here or before are expired, and quiet times before it.
    pub position: u64,
    /// Whether the record of how the timeline began is expired as well.
    pub history: bool,
}

/// The document of a mark. The key tells everything that counts.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Mark {
    at: DateTime<Utc>,
    by: String,
}

/// What is expired of a log, by timeline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expired {
    positions: BTreeMap<u32, u64>,
    histories: BTreeSet<u32>,
}

/// A mark by its name: `<timeline>-<position>.json`, or `<timeline>-history.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ExpiryMark {
    Position(u32, u64),
    History(u32),
}

impl ExpiryMark {
    fn file(self) -> String {
        match self {
            Self::Position(timeline, position) => format!("{timeline:08X}-{position:016X}.json"),
            Self::History(timeline) => format!("{timeline:08X}-history.json"),
        }
    }

    pub(crate) fn parse(file: &str) -> Option<Self> {
        let (timeline, what) = file.strip_suffix(".json")?.split_once('-')?;
        let timeline = timeline_number(timeline)?;
        match what {
            "history" => Some(Self::History(timeline)),
            position => Some(Self::Position(timeline, hex_number(position, 16)?)),
        }
    }

    fn key(self, log: &LogPlace) -> Path {
        log.key(&format!("expired/{}", self.file()))
    }
}

impl Expired {
    pub(crate) fn add(&mut self, mark: ExpiryMark) {
        match mark {
            ExpiryMark::Position(timeline, position) => {
                let known = self.positions.entry(timeline).or_default();
                *known = (*known).max(position);
            }
            ExpiryMark::History(timeline) => {
                self.histories.insert(timeline);
            }
        }
    }

    /// Whether a name of the log means something that is expired.
    fn covers(&self, named: &Named) -> bool {
        let position = |timeline: u32| self.positions.get(&timeline).copied().unwrap_or(0);
        match named {
            Named::Piece(piece) => piece.end <= position(piece.timeline),
            Named::Gap(gap) => gap.end <= position(gap.timeline),
            Named::Quiet(quiet) => quiet.position < position(quiet.timeline),
            Named::History(timeline) => self.histories.contains(timeline),
            Named::Expired(_) | Named::Unknown(_) => false,
        }
    }

    /// Hides what is expired.
    pub(crate) fn hide(&self, named: &mut Vec<Named>) {
        if *self != Self::default() {
            named.retain(|name| !self.covers(name));
        }
    }

    pub(crate) fn floors(&self) -> Vec<LogFloor> {
        let timelines: BTreeSet<u32> = self.positions.keys().chain(&self.histories).copied().collect();
        let floor = |timeline| LogFloor {
            timeline,
            position: self.positions.get(&timeline).copied().unwrap_or(0),
            history: self.histories.contains(&timeline),
        };
        timelines.into_iter().map(floor).collect()
    }
}

/// What the marks among the keys of a target's logs hide, stream by stream; for a copy, which must not bring back what its
/// place was told to forget.
pub(crate) struct Forgotten(BTreeMap<String, Expired>);

impl Forgotten {
    /// The marks below `logs/<target>`.
    pub(crate) fn of<'a>(folder: &Path, keys: impl Iterator<Item = &'a Path>) -> Self {
        let mut streams: BTreeMap<String, Expired> = BTreeMap::new();
        for key in keys {
            if let [stream, kind, file] = paths::inside(key, folder).as_slice()
                && kind == "expired"
                && let Some(mark) = ExpiryMark::parse(file)
            {
                streams.entry(stream.clone()).or_default().add(mark);
            }
        }
        Self(streams)
    }

    /// Whether an object is a mark, or something that one hides.
    pub(crate) fn covers(&self, target: &TargetName, folder: &Path, key: &Path, size: u64) -> bool {
        let parts = paths::inside(key, folder);
        let Some((stream, rest)) = parts.split_first() else { return false };
        if rest.first().is_some_and(|kind| kind == "expired") {
            return true;
        }
        let Some(expired) = self.0.get(stream) else { return false };
        LogPlace::new(target, stream).is_ok_and(|place| expired.covers(&understand(&place, key, size)))
    }
}

impl Repository {
    /// Marks the beginning of a log as expired: it is not listed any more, and the next sweeps remove it when that is safe.
    /// Marking again, or less, is no error and changes nothing. Needs no key.
    ///
    /// # Errors
    /// `Invalid` stream; the store's. What was marked before stays marked.
    pub async fn expire_log(
        &self,
        ctx: &OpContext,
        target: &TargetName,
        stream: &str,
        floors: &[LogFloor],
    ) -> Result<()> {
        let place = LogPlace::new(target, stream)?;
        let mark = Mark { at: ctx.now(), by: ctx.actor().name.clone() };
        let document = document::write(FORMAT, &mark)?;
        for floor in floors {
            let position = ExpiryMark::Position(floor.timeline, floor.position);
            let history = floor.history.then_some(ExpiryMark::History(floor.timeline));
            for mark in (floor.position > 0).then_some(position).into_iter().chain(history) {
                ctx.run(self.inner.storage.create(&mark.key(&place), document.clone())).await?;
            }
        }
        Ok(())
    }

    /// The targets that have logs.
    ///
    /// # Errors
    /// The store's.
    pub async fn log_targets(&self, ctx: &OpContext) -> Result<Vec<TargetName>> {
        ctx.run(self.logged_targets()).await
    }

    /// The same, under the caller's cancellation.
    pub(crate) async fn logged_targets(&self) -> Result<Vec<TargetName>> {
        let (folders, _) = self.inner.storage.children(Some(&Path::from("logs"))).await?;
        Ok(folders.into_iter().filter_map(|folder| TargetName::new(folder).ok()).collect())
    }

    /// Removes what marks hide, of every log of a target, as soon as nobody can be reading it.
    pub(crate) async fn sweep_logs(
        &self,
        ctx: &OpContext,
        target: &TargetName,
        options: SweepOptions,
        lease: &Lease,
        report: &mut SweepReport,
    ) -> Result<()> {
        for stream in self.log_streams(ctx, target).await? {
            let Ok(place) = LogPlace::new(target, &stream) else { continue };
            ctx.run(self.sweep_log(target, &stream, &place, options, lease, report)).await?;
        }
        Ok(())
    }

    async fn sweep_log(
        &self,
        target: &TargetName,
        stream: &str,
        place: &LogPlace,
        options: SweepOptions,
        lease: &Lease,
        report: &mut SweepReport,
    ) -> Result<()> {
        // Marks, then the time, then leases: whoever lists the log after a mark does not see what it hides, and whoever
        // listed it before has a lease from before.
        let marks = self.expiry_marks(place).await?;
        if marks.is_empty() {
            return Ok(());
        }
        let now = lease.prove().await?;
        let holders = lease::holders(&self.inner.storage, Some(lease.holder())).await?;
        let lifetime = self.inner.lifetime();
        let (mut ripe, mut superseded, mut waiting) = (Expired::default(), Vec::new(), None);
        let mut latest: BTreeMap<u32, ExpiryMark> = BTreeMap::new();
        for (mark, marked_at) in marks {
            match who_may_read(&holders, target, marked_at, now, lifetime) {
                Some(why) => waiting = Some(why),
                None => {
                    ripe.add(mark);
                    if let ExpiryMark::Position(timeline, _) = mark {
                        superseded.extend(latest.insert(timeline, mark));
                    }
                }
            }
        }
        let doomed = self.expired_objects(place, &ripe).await?;
        report.log_objects += doomed.len() as u64;
        report.log_bytes += doomed.iter().map(|(_, size)| size).sum::<u64>();
        if let Some(why) = waiting {
            report.log_waiting.push((format!("{target}/{stream}"), why));
        }
        if options.dry_run {
            return Ok(());
        }
        let keys: Vec<Path> = doomed.into_iter().map(|(key, _)| key).collect();
        for batch in keys.chunks(BATCH) {
            // A sweep that was stopped meanwhile has looked at a world that is no more.
            lease.prove().await?;
            self.inner.storage.delete_all(batch.to_vec()).await?;
        }
        // The furthest mark of a timeline stays: it keeps a copy from bringing back what it hides.
        self.inner.storage.delete(superseded.iter().map(|mark| mark.key(place)).collect()).await
    }

    /// The marks of a log with the store's times, in the order of their names.
    async fn expiry_marks(&self, place: &LogPlace) -> Result<Vec<(ExpiryMark, DateTime<Utc>)>> {
        let folder = place.key("expired");
        let named = self.inner.storage.list_as(&folder, |object| {
            let mark = ExpiryMark::parse(object.location.filename().unwrap_or_default())?;
            Some((mark, object.last_modified))
        });
        let mut marks: Vec<_> = named.await?.into_iter().flatten().collect();
        marks.sort_unstable();
        Ok(marks)
    }

    /// Objects that are expired, without listing what is not: of each timeline only the folders before its mark.
    async fn expired_objects(&self, place: &LogPlace, expired: &Expired) -> Result<Vec<(Path, u64)>> {
        let storage = &self.inner.storage;
        let mut folders = vec![place.key("gaps"), place.key("quiet")];
        let mut found = Vec::new();
        for floor in expired.floors() {
            let folder = place.timeline(floor.timeline);
            let (windows, files) = storage.children(Some(&folder)).await?;
            let before = |w: &&String| window_number(w).is_some_and(|start| start < floor.position);
            folders.extend(windows.iter().filter(before).map(|w| folder.clone().join(w.as_str())));
            // Of a history nothing but its name counts.
            found.extend(files.iter().map(|file| (folder.clone().join(file.as_str()), 0)));
        }
        let lists = folders.iter().map(|folder| storage.list_as(folder, |o| (o.location, o.size)));
        let listed: Vec<Vec<(Path, u64)>> =
            stream::iter(lists.collect::<Vec<_>>()).buffered(LISTS).try_collect().await?;
        found.extend(listed.into_iter().flatten());
        found.retain(|(key, size)| expired.covers(&understand(place, key, *size)));
        found.sort();
        Ok(found)
    }
}

impl LogListing {
    /// From where on a timeline is listed; 0 when nothing of it was expired.
    #[must_use]
    pub fn floor(&self, timeline: u32) -> u64 {
        self.expired.iter().find(|f| f.timeline == timeline).map_or(0, |f| f.position)
    }
}
