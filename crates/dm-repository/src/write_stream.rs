//! Writing a stream: one block, one frame; a block that the parent has anywhere in the member is not stored again (§6).

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use dm_core::{Block, BlockStream, Error, MemberSpec, OpContext, Progress, Result};
use futures::{StreamExt, TryStreamExt};

use crate::cpu::{MAX_FRAME_CONTENT, compress, short_digest};
use crate::map::{DoneMember, MapBuilder, MemberDigest, span_of};
use crate::member_summary::MemberSummary;
use crate::page::{Extent, PackId, SHORT_DIGEST};
use crate::parent::{BlockPlace, ParentMember};
use crate::writer::Shared;

struct Encoded {
    offset: u64,
    length: u32,
    digest: [u8; SHORT_DIGEST],
    place: Place,
}

enum Place {
    Known(BlockPlace),
    Frame(Vec<u8>),
}

pub(crate) async fn write(
    ctx: &OpContext,
    shared: &Arc<Shared>,
    spec: MemberSpec,
    parent: Option<ParentMember>,
    blocks: BlockStream,
) -> Result<(DoneMember, MemberSummary)> {
    let mut known = match (&parent, &shared.parent) {
        (Some(member), Some(parent)) => member.blocks(&parent.pages).await?,
        _ => HashMap::new(),
    };
    if let Some(resumed) = &shared.resumed {
        for (digest, place) in ctx.run(resumed.blocks(&spec.name)).await? {
            known.entry(digest).or_insert(place);
        }
    }
    let known = Arc::new(known);
    let cpu = shared.cpu();
    let key = shared.hash_key;
    let mut at = 0;
    // Blocks are hashed and compressed several at a time and come out in order.
    let mut encoded = blocks
        .map(|block| {
            let checked = block.and_then(|block| check(block, &mut at));
            let known = Arc::clone(&known);
            let cpu = cpu.clone();
            async move {
                match checked? {
                    None => Ok(None),
                    Some((offset, bytes)) => {
                        let level = cpu.level;
                        let length = bytes.len();
                        cpu.run_on(length, move || encode(offset, &bytes, &key, &known, level))
                            .await?
                            .map(Some)
                    }
                }
            }
        })
        .buffered(cpu.ahead + 1);
    let mut map = MapBuilder::new(Arc::clone(shared), parent);
    let mut digest = MemberDigest::new(&key);
    let mut lane = shared.packs.lane(&spec);
    let mut summary = MemberSummary::default();
    let mut span = 0;
    while let Some(block) = ctx.run(encoded.try_next()).await? {
        let Some(block) = block else { continue };
        let mut extent = [Extent {
            offset: block.offset,
            length: block.length,
            // A new frame's place is known when it has been appended.
            pack: PackId { backup: shared.backup, n: 0 },
            frame_offset: 0,
            frame_length: 0,
            inner: 0,
            digests: block.digest.to_vec(),
        }];
        match block.place {
            Place::Known(place) => {
                summary.found(shared, place.pack, block.length);
                place.fill(&mut extent[0]);
            }
            Place::Frame(frame) => {
                ctx.run(lane.append(&frame, &mut extent)).await?;
                summary.stored_bytes += frame.len() as u64;
            }
        }
        // A block belongs to the span that it begins in.
        if span_of(block.offset) != span {
            map.end_span(span, false).await?;
            span = span_of(block.offset);
        }
        digest.add(block.offset, &block.digest);
        let [extent] = extent;
        map.add(extent);
        summary.size = block.offset + u64::from(block.length);
        ctx.progress(Progress::Bytes(block.length.into()));
    }
    map.end_span(span, false).await?;
    let done = map.finish(spec, summary.size, digest.finish(summary.size)).await?;
    Ok((done, summary))
}

pub(crate) fn length(bytes: usize) -> Result<u32> {
    u32::try_from(bytes).map_err(|_| Error::internal("a frame of more than 4 GiB"))
}

/// A block must begin where the one before ended; an empty one is none.
fn check(block: Block, at: &mut u64) -> Result<Option<(u64, Bytes)>> {
    let Block::Data { offset, bytes } = block else {
        return Err(Error::internal("a stream has no unchanged pages"));
    };
    if offset != *at {
        return Err(Error::internal(format!("a block begins at {offset}, the stream is at {at}")));
    }
    if bytes.len() > MAX_FRAME_CONTENT {
        return Err(Error::internal(format!("a block of {} bytes is too large", bytes.len())));
    }
    *at += bytes.len() as u64;
    Ok((!bytes.is_empty()).then_some((offset, bytes)))
}

fn encode(
    offset: u64,
    bytes: &[u8],
    key: &[u8; 32],
    known: &HashMap<[u8; SHORT_DIGEST], BlockPlace>,
    level: i32,
) -> Result<Encoded> {
    let digest = short_digest(key, bytes);
    let length = length(bytes.len())?;
    let place = match known.get(&digest) {
        Some(place) if place.length == length => Place::Known(*place),
        _ => Place::Frame(compress(bytes, level)?),
    };
    Ok(Encoded { offset, length, digest, place })
}
