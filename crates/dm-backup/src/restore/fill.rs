//! Filling the sealed place: stages one after the other, the members of a stage at once, every byte counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dm_core::{
    BlockStream, Error, Layout, MemberSpec, OpContext, Progress, RestoreContent, RestoreManifest,
    RestorePreview, RestoreRequest, RestoreSession, Result,
};
use dm_repository::BackupReader;
use futures::{StreamExt, TryFutureExt};
use tokio::sync::oneshot;

use crate::pool;

/// Writes the members, stage by stage.
pub(super) async fn fill(
    ctx: &OpContext,
    reader: &BackupReader,
    session: &Arc<Box<dyn RestoreSession>>,
    manifest: &RestoreManifest,
    preview: &RestorePreview,
    request: &RestoreRequest,
    bytes: &Arc<AtomicU64>,
) -> Result<()> {
    ctx.progress(Progress::Phase { name: "restoring", total_bytes: Some(preview.bytes) });
    for stage in session.stages() {
        let members: Vec<(MemberSpec, u64)> = stage
            .iter()
            .map(|i| {
                manifest.members.get(*i).cloned().ok_or_else(|| {
                    Error::internal(format!("the engine asks for member {i} of {}", manifest.members.len()))
                })
            })
            .collect::<Result<_>>()?;
        pool::each(ctx, request.jobs, members, |task, (member, size)| {
            let source = Source::of(reader, &task, &member.name, request.delta);
            write_member(task, Arc::clone(session), member, size, source, Arc::clone(bytes))
        })
        .await?;
    }
    Ok(())
}

/// Where a member's content comes from. Nothing is fetched before it is polled.
struct Source {
    whole: RestoreContent,
    /// What differs, and where to hand in what it is compared with.
    delta: Option<(oneshot::Sender<BlockStream>, RestoreContent)>,
}

impl Source {
    fn of(reader: &BackupReader, ctx: &OpContext, member: &str, delta: bool) -> Self {
        let differing = || {
            let (hand_in, handed_in) = oneshot::channel::<BlockStream>();
            let present = async move {
                handed_in.await.map_err(|_| Error::internal("nothing was given to compare with"))
            };
            (hand_in, reader.content_except(ctx, member, present.try_flatten_stream().boxed()))
        };
        Self { whole: reader.content(ctx, member), delta: delta.then(differing) }
    }
}

async fn write_member(
    ctx: OpContext,
    session: Arc<Box<dyn RestoreSession>>,
    member: MemberSpec,
    size: u64,
    source: Source,
    bytes: Arc<AtomicU64>,
) -> Result<()> {
    let mut content = source.whole;
    // Of what differs nobody knows how much it is; of all of a stream everybody does.
    let mut whole = true;
    if let Some((hand_in, differing)) = source.delta
        && let Some(present) = session.present(&ctx, &member).await.map_err(|e| e.about(&member.name))?
        && hand_in.send(present).is_ok()
    {
        (content, whole) = (differing, false);
    }
    let ended = Arc::new(AtomicBool::new(false));
    let content = watched(ctx.clone(), &member, (size, whole), content, Arc::clone(&ended), bytes);
    session.write(&ctx, &member, content).await.map_err(|e| e.about(&member.name))?;
    if !ended.load(Ordering::Acquire) {
        return Err(Error::internal("the engine did not read the member to its end").about(&member.name));
    }
    ctx.progress(Progress::Item(member.name));
    Ok(())
}

/// The content, counted; an end before the recorded size is an error, never a success cut short.
fn watched(
    ctx: OpContext,
    member: &MemberSpec,
    (size, whole): (u64, bool),
    content: RestoreContent,
    ended: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
) -> RestoreContent {
    // A member of pages may end in a hole; a stream has none.
    let stream = whole && member.layout == Layout::Stream;
    let state = (content, 0u64, false);
    futures::stream::unfold(state, move |(mut content, end, over)| {
        let (ctx, ended, bytes) = (ctx.clone(), Arc::clone(&ended), Arc::clone(&bytes));
        async move {
            if over {
                return None;
            }
            match content.next().await {
                Some(Ok(block)) => {
                    let length = block.bytes.len() as u64;
                    bytes.fetch_add(length, Ordering::Relaxed);
                    ctx.progress(Progress::Bytes(length));
                    let end = block.offset + length;
                    Some((Ok(block), (content, end, false)))
                }
                Some(Err(error)) => Some((Err(error), (content, end, true))),
                None if end > size || (stream && end < size) => {
                    let error = Error::corrupt(format!("{end} bytes came back of a member of {size}"));
                    Some((Err(error), (content, end, true)))
                }
                None => {
                    ended.store(true, Ordering::Release);
                    None
                }
            }
        }
    })
    .boxed()
}
