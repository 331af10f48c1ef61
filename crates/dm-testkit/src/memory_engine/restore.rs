//! Being restored into: a sealed database, then a visible one.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::{Buf as _, Bytes};
use dm_core::{
    Comparison, Destination, EngineKind, Error, ErrorKind, Finding, Layout, Level, MemberKind, MemberSpec,
    OpContext, RestoreContent, RestoreManifest, RestorePreview, RestoreRequest, RestoreSession,
    RestoreTarget, Restored, Result, TableComparison, TableFacts,
};
use futures::TryStreamExt as _;

use super::backup::matches;
use super::{Contents, MemoryEngine, OWN, Pages, facts, no_tenants};

#[async_trait]
impl RestoreTarget for MemoryEngine {
    async fn preview(
        &self,
        ctx: &OpContext,
        request: &RestoreRequest,
        manifest: &RestoreManifest,
    ) -> Result<RestorePreview> {
        ctx.check()?;
        no_tenants(request.tenant.as_ref())?;
        if manifest.source.engine != EngineKind::Memory {
            let message = format!("a backup of {} does not go into memory", manifest.source.engine);
            return Err(Error::unsupported(message));
        }
        let state = self.open_state()?;
        let table_of = |member: &MemberSpec| member.table.clone().unwrap_or_default();
        let wanted = |member: &MemberSpec| {
            request.tables.is_empty() || request.tables.iter().any(|p| matches(p, &table_of(member)))
        };
        for pattern in &request.tables {
            if !manifest.members.iter().any(|(member, _)| matches(pattern, &table_of(member))) {
                return Err(Error::not_found(format!("the backup holds no table \"{pattern}\"")));
            }
        }
        let members: Vec<usize> =
            (0..manifest.members.len()).filter(|i| wanted(&manifest.members[*i].0)).collect();
        let mut consequences = Vec::new();
        let mut findings = Vec::new();
        let location = match &request.destination {
            Destination::New(name) => {
                let name = name.clone().unwrap_or_else(|| format!("restored-{}", state.made + 1));
                if state.databases.get(&name).is_some_and(|there| *there != Contents::default()) {
                    let message = format!("\"{name}\" is not empty");
                    findings.push(
                        Finding::new(Level::Error, "destination", message).with_mend("choose another name"),
                    );
                }
                name
            }
            Destination::InPlace => {
                consequences.push(format!("what stands in \"{OWN}\" is kept under another name"));
                OWN.to_owned()
            }
        };
        let bytes = members.iter().map(|i| manifest.members[*i].1).sum();
        Ok(RestorePreview { location, consequences, findings, members, bytes, ..RestorePreview::default() })
    }

    async fn open(
        &self,
        ctx: &OpContext,
        request: &RestoreRequest,
        manifest: &RestoreManifest,
        preview: &RestorePreview,
    ) -> Result<Box<dyn RestoreSession>> {
        ctx.check()?;
        let mut state = self.open_state()?;
        if request.destination != Destination::InPlace {
            not_taken(&state.databases, &preview.location)?;
        }
        state.made += 1;
        let sealed = format!("sealed-{}-{}", state.made, preview.location);
        let mut contents = Contents::default();
        for (member, _) in preview.members.iter().filter_map(|i| manifest.members.get(*i)) {
            // Also of an empty member, of which no block comes, something must be there afterwards.
            if let Some(table) = member.name.strip_prefix("data/") {
                contents.tables.insert(table.to_owned(), Vec::new());
            }
        }
        state.sealed.insert(sealed.clone(), contents);
        let of = |kind: MemberKind| {
            let is = |i: &usize| manifest.members.get(*i).is_some_and(|(member, _)| member.kind == kind);
            preview.members.iter().copied().filter(is).collect::<Vec<_>>()
        };
        Ok(Box::new(Session {
            engine: self.clone(),
            sealed,
            location: preview.location.clone(),
            in_place: request.destination == Destination::InPlace,
            digest_key: request.digest_key,
            stages: vec![of(MemberKind::File), of(MemberKind::Rows)],
        }))
    }
}

fn not_taken(databases: &BTreeMap<String, Contents>, name: &str) -> Result<()> {
    if databases.get(name).is_some_and(|there| *there != Contents::default()) {
        return Err(Error::new(ErrorKind::AlreadyExists, format!("\"{name}\" is not empty")));
    }
    Ok(())
}

struct Session {
    engine: MemoryEngine,
    sealed: String,
    location: String,
    in_place: bool,
    digest_key: [u8; 32],
    stages: Vec<Vec<usize>>,
}

impl Session {
    fn with_place<T>(&self, work: impl FnOnce(&mut Contents) -> Result<T>) -> Result<T> {
        let mut state = self.engine.open_state()?;
        let place = state.sealed.get_mut(&self.sealed);
        work(place.ok_or_else(|| Error::internal(format!("{} is gone", self.sealed)))?)
    }
}

#[async_trait]
impl RestoreSession for Session {
    fn stages(&self) -> Vec<Vec<usize>> {
        self.stages.clone()
    }

    fn location(&self) -> Option<String> {
        Some(self.sealed.clone())
    }

    async fn write(&self, ctx: &OpContext, member: &MemberSpec, mut content: RestoreContent) -> Result<()> {
        let mut bytes = Vec::new();
        while let Some(block) = content.try_next().await? {
            ctx.check()?;
            let offset = usize::try_from(block.offset).map_err(|_| Error::invalid("an offset too large"))?;
            if offset < bytes.len() {
                return Err(Error::invalid("a block that goes back"));
            }
            // Only members of pages have holes; the gap is zeros.
            bytes.resize(offset, 0);
            bytes.extend_from_slice(&block.bytes);
        }
        let faults = self.engine.state().faults.clone();
        if faults.write_fails.as_ref() == Some(&member.name) {
            return Err(Error::new(ErrorKind::Exhausted, "the disk is full").about(&self.sealed));
        }
        let bytes = Bytes::from(bytes);
        if let Some(table) = member.name.strip_prefix("data/") {
            let mut rows = rows_of(bytes)?;
            if faults.restore_loses_a_row_of.as_deref() == Some(table) && !rows.is_empty() {
                rows.remove(0);
            }
            return self.with_place(|place| {
                place.tables.insert(table.to_owned(), rows);
                Ok(())
            });
        }
        let (Some(name), Layout::Pages { page_bytes }) = (member.name.strip_prefix("files/"), member.layout)
        else {
            return Err(Error::invalid(format!("\"{}\" is no member of mine", member.name)));
        };
        self.with_place(|place| {
            place.files.insert(name.to_owned(), Pages { page_bytes, bytes });
            Ok(())
        })
    }

    async fn finish(&self, ctx: &OpContext) -> Result<()> {
        ctx.check()?;
        self.with_place(|_| Ok(()))
    }

    async fn compare(&self, ctx: &OpContext, expected: &[TableFacts]) -> Result<Comparison> {
        ctx.check()?;
        let there = self.with_place(|place| Ok(facts(place, self.digest_key)))?;
        let tables = expected
            .iter()
            .map(|expected| {
                let found = there.iter().find(|found| found.table == expected.table).cloned();
                let equal = found.as_ref().is_some_and(|found| {
                    found.rows == expected.rows
                        && (expected.digest.is_none() || found.digest == expected.digest)
                });
                TableComparison { expected: expected.clone(), found, equal }
            })
            .collect();
        Ok(Comparison { tables, checks: vec![Finding::new(Level::Ok, "memory", "all rows are readable")] })
    }

    async fn release(self: Box<Self>, ctx: &OpContext) -> Result<Restored> {
        ctx.check()?;
        let mut state = self.engine.open_state()?;
        if !self.in_place {
            not_taken(&state.databases, &self.location)?;
        }
        let contents = state
            .sealed
            .remove(&self.sealed)
            .ok_or_else(|| Error::internal(format!("{} is gone", self.sealed)))?;
        let previous = state.databases.insert(self.location.clone(), contents);
        let kept = previous.filter(|_| self.in_place).map(|previous| {
            let name = format!("{}-before-{}", self.location, state.made);
            state.databases.insert(name.clone(), previous);
            name
        });
        Ok(Restored { location: self.location.clone(), previous: kept, ..Restored::default() })
    }

    async fn discard(self: Box<Self>, _: &OpContext) -> Result<()> {
        // Also of a cancelled run: what it left must go.
        self.engine.open_state()?.sealed.remove(&self.sealed);
        Ok(())
    }
}

fn rows_of(mut bytes: Bytes) -> Result<Vec<Bytes>> {
    let mut rows = Vec::new();
    while bytes.has_remaining() {
        let length =
            bytes.try_get_u32_le().map_err(|_| Error::corrupt("a row's length is cut off"))? as usize;
        if bytes.remaining() < length {
            return Err(Error::corrupt("a row is cut off"));
        }
        rows.push(bytes.split_to(length));
    }
    Ok(rows)
}
