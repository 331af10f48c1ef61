//! The server on the restored files, for as long as it is asked.

use dm_core::{Error, ErrorKind, OpContext, Result};

use super::super::programs::Programs;
use super::super::recovery::{self, Control};
use super::super::server::{Sealed, Trouble};
use super::Session;
use crate::client::Client;
use crate::error::reading;
use crate::session::{close, open};

impl Session {
    /// Starts it, with more settings than those that keep it to itself.
    pub(super) async fn start(
        &self,
        ctx: &OpContext,
        programs: &Programs,
        more: Vec<(String, String)>,
    ) -> Result<Result<(), Trouble>> {
        let mut settings = recovery::quiet(self.source.major, self.plan.libraries.as_deref());
        let control = Control::read(ctx, programs, &self.plan, &self.data).await?;
        // At least what the source had: less would stop the recovery.
        settings.extend(control.limits().into_iter().map(|(n, v)| (n.to_owned(), v)));
        settings.extend(more);
        let mut running = self.server.lock().await;
        let server = running
            .insert(Sealed::start(ctx, programs, self.plan.user.as_ref(), &self.data, &settings).await?);
        let answer = server.ready(ctx).await?;
        if answer.is_err() {
            *running = None;
        }
        Ok(answer)
    }

    /// A connection to the sealed server, which is started again when it was stopped for a check.
    pub(super) async fn client(&self, ctx: &OpContext, database: Option<&str>) -> Result<Client> {
        let programs =
            self.programs().ok_or_else(|| Error::unsupported("nothing runs on the restored files"))?;
        if self.server.lock().await.is_none() {
            self.start(ctx, programs, Vec::new()).await?.map_err(|t| t.error)?;
        }
        let role = self.role(ctx).await?;
        let running = self.server.lock().await;
        let server = running.as_ref().ok_or_else(|| Error::internal("the restored server is gone"))?;
        Ok(server.client(&role, database.unwrap_or("template1"), &self.options))
    }

    /// A superuser who may log in: whoever connects finds all of them.
    pub(super) async fn role(&self, ctx: &OpContext) -> Result<String> {
        if let Some(role) = self.state().role.clone() {
            return Ok(role);
        }
        let running = self.server.lock().await;
        let server = running.as_ref().ok_or_else(|| Error::internal("the restored server is gone"))?;
        let own = self.plan.user.as_ref().map(|u| u.name.clone());
        let candidates = self.roles.iter().cloned().chain(own);
        let mut refused = None;
        for candidate in candidates {
            let client = server.client(&candidate, "template1", &self.options);
            let mut connection = match open(ctx, &client).await {
                Ok(connection) => connection,
                Err(error) => {
                    ctx.check()?;
                    refused = Some(error);
                    continue;
                }
            };
            let found: Option<String> = ctx
                .run(async {
                    sqlx::query_scalar(
                        "SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolsuper AND rolcanlogin ORDER BY oid LIMIT 1",
                    )
                    .fetch_optional(&mut connection)
                    .await
                    .map_err(reading)
                })
                .await?;
            close(connection).await;
            if let Some(role) = found {
                self.state().role = Some(role.clone());
                return Ok(role);
            }
        }
        let error =
            Error::new(ErrorKind::Denied, "no superuser of the restored cluster is known who may log in");
        Err(match refused {
            Some(refused) => error.with_source(refused),
            None => error,
        })
    }

    pub(super) async fn stop(&self, ctx: &OpContext) -> Result<()> {
        let pools = std::mem::take(&mut self.state().pools);
        for pool in pools {
            pool.close().await;
        }
        match self.server.lock().await.take() {
            Some(server) => server.stop(ctx).await,
            None => Ok(()),
        }
    }
}
