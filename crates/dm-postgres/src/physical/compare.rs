//! How a backup finds what did not change since its base.

use std::ops::Range;
use std::sync::Arc;

use dm_core::{BackupMode, BaseBackup, EngineKind, Error, ErrorKind, MemberSpec, OpContext, Result};
use sqlx::postgres::PgConnection;

use super::Lsn;
use super::changes::{Changed, Changes, summarized};
use super::files::{Fork, RelationFile};
use super::plan::Plan;
use super::server::Server;
use super::timeline::TimelineHistory;

/// The way out when a base is none.
const TAKE_FULL: &str = "take a full backup (kind full); the next ones can rest on it";

/// Small files that are no relations are read in one go, whatever their size is by then.
const REPLACEABLE_BYTES: u64 = 1 << 20;

/// Against what, and by what.
pub(super) enum Comparison {
    /// Everything is read, and compared elsewhere if at all.
    Nothing,
    /// By the server's summaries of its log: what did not change is not read.
    Summaries {
        /// What the base has.
        base: Arc<dyn BaseBackup>,
        /// What was changed since.
        changes: Changes,
    },
    /// By the pages' own LSN: everything is read.
    PageLsn {
        /// What the base has.
        base: Arc<dyn BaseBackup>,
        /// Where the base began.
        before: Lsn,
    },
}

/// What came of looking for changes.
pub(super) struct Compared {
    pub(super) comparison: Comparison,
    pub(super) warnings: Vec<String>,
}

impl Comparison {
    /// How the manifest calls it.
    pub(super) fn name(&self) -> Option<&'static str> {
        match self {
            Self::Nothing => None,
            Self::Summaries { .. } => Some("wal_summaries"),
            Self::PageLsn { .. } => Some("page_lsn"),
        }
    }

    /// Finds the best way to compare with a base.
    pub(super) async fn with(
        base: Arc<dyn BaseBackup>,
        connection: &mut PgConnection,
        server: &Server,
        history: &TimelineHistory,
        history_text: Option<&str>,
        start: Lsn,
    ) -> Result<Compared> {
        let facts = BaseFacts::of(base.as_ref(), server, history, history_text, start)?;
        let mut warnings = Vec::new();
        if server.version.major >= 17 && server.facts.summarize_wal {
            match summarized(connection, history, facts.start, start).await? {
                Ok(changes) => {
                    return Ok(Compared { comparison: Self::Summaries { base, changes }, warnings });
                }
                Err(why) => warnings.push(format!("{why}: everything was read")),
            }
        }
        // Without logged hint bits a page can change and keep its LSN: then only its content tells.
        let comparison = match server.facts.hints_logged && facts.hints_logged {
            true => Self::PageLsn { base, before: facts.start },
            false => {
                warnings.push(
                    "the server has neither data checksums nor wal_log_hints: everything was read and compared by content".to_owned(),
                );
                Self::Nothing
            }
        };
        Ok(Compared { comparison, warnings })
    }

    /// What is read of a member.
    pub(super) async fn plan(
        &self,
        ctx: &OpContext,
        spec: &MemberSpec,
        relation: Option<RelationFile>,
        server: &Server,
    ) -> Result<Plan> {
        let size = spec.size_hint.unwrap_or(0);
        let Some(relation) = relation else {
            return Ok(match size <= REPLACEABLE_BYTES {
                true => Plan::replaceable(size),
                false => Plan::whole(size),
            });
        };
        let base = match self {
            Self::Nothing => return Ok(Plan::whole(size)),
            Self::Summaries { base, .. } | Self::PageLsn { base, .. } => base,
        };
        let page = u64::from(server.block_bytes());
        // That a bit of the visibility map was cleared is in no summary; the free space map is not logged at all.
        if relation.fork != Fork::Main || size == 0 || !size.is_multiple_of(page) {
            return Ok(Plan::whole(size));
        }
        let there = base.member(ctx, &spec.name).await?.filter(|(there, _)| there.layout == spec.layout);
        let Some((_, base_size)) = there else { return Ok(Plan::whole(size)) };
        let base_end = base_size - base_size % page;
        Ok(match self {
            Self::Nothing => Plan::whole(size),
            Self::PageLsn { before, .. } => Plan { older: Some((*before, base_end)), ..Plan::whole(size) },
            Self::Summaries { changes, .. } if changes.is_other_database(&relation) => Plan::whole(size),
            Self::Summaries { changes, .. } => {
                let first = server.first_block(relation.segment);
                let nothing = Changed::default();
                let changed = changes.of(&relation).unwrap_or(&nothing);
                let pages = changed_pages(changed, first, blocks(size / page), blocks(base_end / page));
                plan_of(&pages, blocks(size / page), page)
            }
        })
    }
}

/// Blocks of one file: it is far smaller than all that a relation may have.
fn blocks(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Which pages of a file may differ from the base's, in order; a gap of one page is bridged, as that is cheaper than another
/// piece.
fn changed_pages(changed: &Changed, first: u32, pages: u32, base_pages: u32) -> Vec<Range<u32>> {
    // From here on the base has nothing, or nothing that counts.
    let known =
        changed.limit.map_or(u32::MAX, |limit| limit.saturating_sub(first)).min(base_pages).min(pages);
    let mut ranges: Vec<Range<u32>> = Vec::new();
    let mut add = |range: Range<u32>| match ranges.last_mut() {
        Some(last) if range.start <= last.end + 1 => last.end = range.end,
        _ => ranges.push(range),
    };
    for block in changed.blocks.range(first..first.saturating_add(known)) {
        add(block - first..block - first + 1);
    }
    if known < pages {
        add(known..pages);
    }
    ranges
}

fn plan_of(ranges: &[Range<u32>], pages: u32, page_bytes: u64) -> Plan {
    let size = u64::from(pages) * page_bytes;
    let read: u64 = ranges.iter().map(|r| u64::from(r.end - r.start)).sum();
    if read * 10 > u64::from(pages) * 9 {
        return Plan::whole(size);
    }
    let bytes = |page: u32| u64::from(page) * page_bytes;
    Plan { reads: ranges.iter().map(|r| bytes(r.start)..bytes(r.end)).collect(), size, older: None }
}

/// What a base must tell to be compared with.
struct BaseFacts {
    start: Lsn,
    hints_logged: bool,
}

impl BaseFacts {
    /// Reads them, and refuses a base that is not in this server's past.
    fn of(
        base: &dyn BaseBackup,
        server: &Server,
        history: &TimelineHistory,
        history_text: Option<&str>,
        start: Lsn,
    ) -> Result<Self> {
        let source = base.source();
        let attribute = |name: &str| source.attributes.get(name).cloned().unwrap_or_default();
        let no_base = |why: &str| {
            Error::new(ErrorKind::Conflict, format!("the earlier backup cannot be built on: {why}"))
                .on_engine(EngineKind::Postgres)
                .with_hint(TAKE_FULL)
        };
        if source.engine != EngineKind::Postgres || source.mode != BackupMode::Physical {
            return Err(no_base("it is no physical backup of postgres"));
        }
        if attribute("physical_format") != 1 {
            return Err(Error::unsupported(
                "the earlier backup was written by a newer version of this program",
            )
            .with_hint(TAKE_FULL));
        }
        if source.system_identifier.as_deref() != Some(server.facts.system_identifier.as_str()) {
            return Err(no_base("it is of another cluster"));
        }
        if source.version.major != server.version.major {
            return Err(no_base("it is of another major version of the server"));
        }
        if attribute("block_bytes") != server.block_bytes() {
            return Err(no_base("its pages have another size"));
        }
        if attribute("data_checksums") != server.facts.data_checksums {
            return Err(no_base("data checksums were switched on or off since"));
        }
        let place = |name: &str| -> Result<Lsn> {
            attribute(name)
                .as_str()
                .unwrap_or_default()
                .parse()
                .map_err(|_| no_base("it does not tell its place"))
        };
        let timeline = |name: &str| -> Result<u32> {
            let number = attribute(name).as_u64().and_then(|n| u32::try_from(n).ok());
            number.ok_or_else(|| no_base("it does not tell its timeline"))
        };
        let (begin, begin_timeline) = (place("start_lsn")?, timeline("start_timeline")?);
        let (end, end_timeline) = (place("stop_lsn")?, timeline("timeline")?);
        // A standby makes no checkpoint for a backup: it may begin before the last one ended.
        let from = if server.facts.in_recovery { begin } else { end };
        if !history.contains(begin_timeline, begin) || !history.contains(end_timeline, end) || from > start {
            return Err(no_base(
                "it is not in the past of the server, which was recovered to an earlier point since, or is a copy that went its own way",
            ));
        }
        // A timeline's number may have been given twice, to branches that do not know of each other.
        let recorded = attribute("timeline_history");
        let other = match (recorded.as_str(), history_text) {
            (Some(then), Some(now)) if end_timeline == history.timeline => then != now,
            _ => false,
        };
        if other {
            return Err(no_base("its timeline is another one under the same number"));
        }
        Ok(Self { start: begin, hints_logged: attribute("hints_logged") == true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(limit: Option<u32>, blocks: &[u32]) -> Changed {
        Changed { limit, blocks: blocks.iter().copied().collect() }
    }

    #[test]
    fn pages_that_may_differ() {
        let all = |changed: &Changed, first, pages, base| -> Vec<(u32, u32)> {
            changed_pages(changed, first, pages, base).into_iter().map(|r| (r.start, r.end)).collect()
        };
        assert_eq!(all(&changed(None, &[]), 0, 10, 10), []);
        assert_eq!(all(&changed(None, &[1, 3, 6]), 0, 10, 10), [(1, 4), (6, 7)], "a gap of one is bridged");
        assert_eq!(all(&changed(None, &[1]), 0, 10, 8), [(1, 2), (8, 10)], "the base is shorter");
        assert_eq!(all(&changed(None, &[1]), 0, 10, 12), [(1, 2)], "the base is longer");
        assert_eq!(all(&changed(Some(4), &[1]), 0, 10, 10), [(1, 2), (4, 10)], "cut and grown again");
        assert_eq!(all(&changed(Some(4), &[1]), 8, 10, 10), [(0, 10)], "a limit before this file voids it");
        assert_eq!(all(&changed(Some(12), &[1, 9]), 8, 10, 10), [(1, 2), (4, 10)]);
        assert_eq!(all(&changed(Some(100), &[]), 8, 10, 10), []);
    }

    #[test]
    fn a_file_that_changed_almost_everywhere_is_read_whole() {
        assert_eq!(plan_of(&[0..50, 52..97], 100, 8192), Plan::whole(100 * 8192));
        let plan = plan_of(&[3..5, 90..100], 100, 8192);
        assert_eq!(plan.reads, [3 * 8192..5 * 8192, 90 * 8192..100 * 8192]);
        assert_eq!(plan.size, 100 * 8192);
    }
}
