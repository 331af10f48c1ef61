//! Uploads in parts, troubled like the rest.

use async_trait::async_trait;
use futures::FutureExt as _;
use object_store::path::Path;
use object_store::{MultipartUpload, PutPayload, PutResult, Result, UploadPart};

use super::store::{FaultStore, Trouble, damage_payload, finish};
use super::{Fault, Operation};

/// An upload whose parts, completion and abortion count as calls.
#[derive(Debug)]
pub(super) struct FaultUpload {
    pub(super) inner: Box<dyn MultipartUpload>,
    pub(super) path: Path,
    pub(super) store: FaultStore,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl MultipartUpload for FaultUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        // A part's place in the object is the order of these calls, so the inner one is made here and now; only its
        // future waits for what delays it.
        let fault = self.store.decide(Operation::PutPart, &self.path);
        let part = match fault {
            Some(Fault::Fail | Fault::Deny | Fault::FullDisk) => None,
            Some(Fault::Truncate) => Some(
                self.inner.put_part(damage_payload(data, Trouble { truncate: true, ..Trouble::default() })),
            ),
            Some(Fault::Corrupt) => Some(
                self.inner.put_part(damage_payload(data, Trouble { corrupt: true, ..Trouble::default() })),
            ),
            Some(Fault::LoseAnswer | Fault::Repeat | Fault::Delay(_) | Fault::Hold) | None => {
                Some(self.inner.put_part(data))
            }
        };
        let (store, path) = (self.store.clone(), self.path.clone());
        async move {
            let trouble = store.suffer(fault, &path).await?;
            match part {
                Some(part) => finish(trouble, part.await),
                None => Ok(()),
            }
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let fault = self.store.decide(Operation::Complete, &self.path);
        let trouble = self.store.suffer(fault, &self.path).await?;
        finish(trouble, self.inner.complete().await)
    }

    async fn abort(&mut self) -> Result<()> {
        let fault = self.store.decide(Operation::Abort, &self.path);
        let trouble = self.store.suffer(fault, &self.path).await?;
        finish(trouble, self.inner.abort().await)
    }
}
