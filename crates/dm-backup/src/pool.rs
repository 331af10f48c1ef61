//! Several pieces of work at once, each on a task of its own, with one end.
//!
//! The first error stops the rest through the child context, and nobody returns before every task has ended: whoever owns
//! what the tasks share can then take it back. Dropping the future aborts the tasks.

use std::future::Future;

use dm_core::{Error, ErrorKind, OpContext, Result};
use tokio::task::JoinSet;
use tracing::Instrument;

/// Runs `work` over the items, at most `jobs` at once, starting them in order.
pub(crate) async fn each<T, F, W>(ctx: &OpContext, jobs: usize, items: Vec<T>, work: F) -> Result<()>
where
    F: Fn(OpContext, T) -> W,
    W: Future<Output = Result<()>> + Send + 'static,
{
    let group = ctx.child();
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    let mut items = items.into_iter();
    let mut first: Option<Error> = None;
    loop {
        while first.is_none() && tasks.len() < jobs.max(1) {
            let Some(item) = items.next() else { break };
            let (task_ctx, task) = (group.clone(), work(group.clone(), item));
            tasks.spawn(async move { task_ctx.run(task).await }.in_current_span());
        }
        let Some(ended) = tasks.join_next().await else { break };
        let result = match ended {
            Ok(result) => result,
            Err(join) => Err(panicked(join)),
        };
        if let Err(error) = result {
            group.cancellation().cancel();
            // Those that were stopped because of the first one say only that they were stopped.
            if first.as_ref().is_none_or(|f| f.kind() == ErrorKind::Interrupted) {
                first = Some(error);
            }
        }
    }
    match first {
        // Cancelled from outside: that is the story, whatever the tasks made of it.
        Some(_) if ctx.cancellation().is_cancelled() => Err(Error::interrupted()),
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// A panic is a defect of ours or of an adapter; it ends the operation like any error.
fn panicked(join: tokio::task::JoinError) -> Error {
    let message = match join.try_into_panic() {
        Ok(payload) => {
            let text = payload
                .downcast_ref::<&str>()
                .map(|s| (*s).to_owned())
                .or_else(|| payload.downcast_ref::<String>().cloned());
            format!("a task panicked: {}", text.as_deref().unwrap_or("no message"))
        }
        Err(_) => "a task was aborted".to_owned(),
    };
    Error::internal(message).with_hint("this is a defect of the program: please report it with the log")
}

/// A context for putting things back in order: not stopped by what stopped the work, but not without end either.
pub(crate) fn cleanup(ctx: &OpContext) -> OpContext {
    ctx.clone().with_cancellation(Default::default()).with_timeout(std::time::Duration::from_secs(60))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use dm_core::Actor;

    use super::*;

    fn ctx() -> OpContext {
        OpContext::new(Actor::local_user("test"))
    }

    #[tokio::test]
    async fn no_more_than_asked_for_at_once() {
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        each(&ctx(), 3, (0..20).collect(), |_, _: u32| {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            }
        })
        .await
        .unwrap();
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn the_first_error_stops_the_rest() {
        let error = each(&ctx(), 4, (0..8).collect(), |ctx, i: u32| async move {
            if i == 2 {
                return Err(Error::corrupt("the second"));
            }
            ctx.cancellation().cancelled().await;
            Err(Error::interrupted())
        })
        .await
        .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error() {
        let error = each(&ctx(), 2, vec![1], |_, _: u32| async move { panic!("boom") }).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert!(error.to_string().contains("boom"));
    }
}
