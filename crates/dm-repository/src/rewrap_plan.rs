//! What a rewrap would do: whom the repository is sealed to then, what has to be sealed anew, and what nobody here opens.

use dm_core::{BackupId, Error, OpContext, Result};
use serde::{Deserialize, Serialize};

use crate::recipients::{listed, same};
use crate::repository::Repository;
use crate::rewrap::{is_of_one, left};
use crate::{LeftBackup, Recipient};

/// Whom the repository is to be sealed to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RewrapRequest {
    /// All recipients; the present ones when empty.
    pub recipients: Vec<Recipient>,
    /// Recipients that are added to those.
    pub add: Vec<Recipient>,
    /// Recipients that are taken out of them.
    pub remove: Vec<Recipient>,
    /// Makes a new generation, also where the recipients stay the same.
    pub renew: bool,
    /// Deletes the key objects of earlier generations, so that removed keys open nothing that is still in the store.
    pub delete_old: bool,
    /// Why; stands in the record.
    pub reason: String,
}

/// What a rewrap would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RewrapPlan {
    /// What was asked for.
    pub request: RewrapRequest,
    /// The generation that counts at present.
    pub current: u32,
    /// The generation that will count; the same where the recipients stay.
    pub generation: u32,
    /// Its recipients.
    pub recipients: Vec<Recipient>,
    /// Those that the present generation lacks.
    pub added: Vec<Recipient>,
    /// Those of the present generation that it lacks.
    pub removed: Vec<Recipient>,
    /// Backups whose key will be sealed to it.
    pub backups: Vec<BackupId>,
    /// Backups that are sealed to it already.
    pub present: u64,
    /// Backups that none of the keys here opens: they stay as they are.
    pub left: Vec<LeftBackup>,
    /// Keys of the log that will be sealed to it.
    pub log_keys: u64,
    /// Keys of the log that none of the keys here opens.
    pub log_keys_left: u64,
    /// What a person should know before.
    pub warnings: Vec<String>,
}

impl RewrapPlan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.generation == self.current
            && self.backups.is_empty()
            && self.log_keys == 0
            && !self.request.delete_old
    }
}

impl Repository {
    /// Says what changing the recipients would do. Opens every key that is to be sealed anew, and changes nothing.
    ///
    /// # Errors
    /// `Unsupported` in an unencrypted repository; `Denied` without a private key, or when those given open nothing; `Invalid` recipients;
    /// `Corrupt`; the store's.
    pub async fn plan_rewrap(&self, ctx: &OpContext, request: &RewrapRequest) -> Result<RewrapPlan> {
        self.check_rewrap().await?;
        let history = ctx.run(self.inner.history()).await?;
        let current = history.current();
        let recipients = self.wanted(request, &current.recipients)?;
        let changes = request.renew || !same(&recipients, &current.recipients);
        let generation = if changes { current.generation + 1 } else { current.generation };
        let without = |list: &[Recipient], of: &[Recipient]| -> Vec<Recipient> {
            of.iter().filter(|r| !list.contains(r)).cloned().collect()
        };
        let (added, removed) =
            (without(&current.recipients, &recipients), without(&recipients, &current.recipients));
        let mut plan = RewrapPlan {
            request: request.clone(),
            current: current.generation,
            generation,
            added,
            removed,
            recipients,
            backups: Vec::new(),
            present: 0,
            left: Vec::new(),
            log_keys: 0,
            log_keys_left: 0,
            warnings: Vec::new(),
        };
        for wrapped in self.wrapped(ctx).await? {
            if wrapped.generations.contains(&generation) {
                plan.present += 1;
                continue;
            }
            let header = &wrapped.header;
            match ctx.run(self.inner.backup_key(&header.target, header.id)).await {
                Ok(_) => plan.backups.push(header.id),
                Err(error) if is_of_one(&error) => plan.left.push(left(header, &error)),
                Err(error) => return Err(error),
            }
        }
        let opened = ctx.run(self.inner.opened_log_keys()).await?;
        for (id, generations) in ctx.run(self.inner.log_key_objects()).await? {
            if generations.contains(&generation) {
                continue;
            }
            *(if opened.contains_key(&id) { &mut plan.log_keys } else { &mut plan.log_keys_left }) += 1;
        }
        if plan.backups.is_empty() && plan.present == 0 && !plan.left.is_empty() {
            let message = "none of the identities given opens any backup";
            return Err(self.inner.no_identity(message, &[current.generation]).await);
        }
        self.warn(&mut plan);
        Ok(plan)
    }

    pub(crate) async fn check_rewrap(&self) -> Result<()> {
        if !self.is_encrypted() {
            return Err(Error::unsupported("the repository is not encrypted: there is nothing to rewrap")
                .with_hint("an encrypted repository is made anew, with recipients in its configuration"));
        }
        if self.inner.options.identities.is_empty() {
            let error = self
                .inner
                .no_identity("a rewrap opens every backup's key, and no private key was given", &[]);
            return Err(error.await);
        }
        Ok(())
    }

    fn wanted(&self, request: &RewrapRequest, current: &[Recipient]) -> Result<Vec<Recipient>> {
        let base = if request.recipients.is_empty() { current } else { &request.recipients };
        if let Some(unknown) = request.remove.iter().find(|r| !base.contains(r)) {
            return Err(Error::invalid(format!("{unknown} cannot be removed: it is no recipient"))
                .with_hint(format!("the recipients are: {}", listed(base))));
        }
        if let Some(both) = request.add.iter().find(|r| request.remove.contains(r)) {
            return Err(Error::invalid(format!("{both} is to be added and removed at once")));
        }
        let mut wanted: Vec<Recipient> = Vec::new();
        for recipient in base.iter().chain(&request.add) {
            if !request.remove.contains(recipient) && !wanted.contains(recipient) {
                wanted.push(recipient.clone());
            }
        }
        if wanted.is_empty() {
            return Err(Error::invalid("nobody would be left who can read the backups")
                .with_hint("add another recipient in the same step, with --add"));
        }
        let index = self.inner.description.encryption.as_ref().map(|e| &e.index_recipient);
        if let Some(index) = wanted.iter().find(|r| Some(*r) == index) {
            return Err(Error::invalid(format!(
                "{index} is the index key of this repository: it cannot be a recipient"
            ))
            .with_hint("hosts that back up hold the index key; what it opens is no secret from them"));
        }
        Ok(wanted)
    }

    fn warn(&self, plan: &mut RewrapPlan) {
        let options = &self.inner.options;
        if !plan.recipients.iter().any(|r| options.identities.iter().any(|i| i.recipient() == *r)) {
            plan.warnings.push(
                "none of the private keys here will open what is made from now on: make sure that somebody has the new one, and keep the old one until a restore was tried".to_owned(),
            );
        }
        if plan.generation != plan.current && options.index_identity.is_none() {
            plan.warnings.push(
                "the index key is not here to prove the change: every host that backs up must name the new recipients in its configuration".to_owned(),
            );
        }
        if !plan.removed.is_empty() {
            plan.warnings.push(
                "whoever had a removed key and read the store before may have kept what it opens: a removed key opens nothing new, but what it could open once cannot be called back".to_owned(),
            );
            if !plan.request.delete_old {
                plan.warnings.push(
                    "the older key objects stay, and a removed key still opens the backups that were made before: --delete-old removes them when the new ones are in place".to_owned(),
                );
            }
        }
    }
}
