//! Who can read what: recipients by generation, and the backups that each of them opens. Needs no key.

use dm_core::{BackupId, OpContext, Result, TargetName};
use serde::Serialize;

use crate::recipients::RecipientsGeneration;
use crate::repository::Repository;
use crate::{Identity, Recipient};

/// One public key, and what it opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecipientStatus {
    /// The key.
    pub recipient: Recipient,
    /// The first generation that names it.
    pub since: u32,
    /// The first generation behind that which does not name it any more; `None` while what is new is sealed to it.
    pub removed_in: Option<u32>,
    /// How many backups it opens.
    pub opens: u64,
    /// Whether its private half was given here.
    pub here: bool,
}

/// A backup that is not sealed to the newest recipients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BehindBackup {
    /// Its target.
    pub target: TargetName,
    /// The backup.
    pub id: BackupId,
    /// The newest generation that it is sealed to; `None` when it has no key object at all.
    pub generation: Option<u32>,
}

/// The keys of a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KeyList {
    /// Whether there are any.
    pub encrypted: bool,
    /// The generation that counts.
    pub generation: u32,
    /// Every generation, oldest first.
    pub generations: Vec<RecipientsGeneration>,
    /// Every key that ever was a recipient.
    pub recipients: Vec<RecipientStatus>,
    /// The key that opens maps.
    pub index_recipient: Option<Recipient>,
    /// Whether its private half was given here.
    pub index_here: bool,
    /// Private keys given here that no generation names.
    pub foreign: Vec<Recipient>,
    /// Encrypted backups.
    pub backups: u64,
    /// Those of them that the newest recipients cannot all read.
    pub behind: Vec<BehindBackup>,
    /// Keys of the log.
    pub log_keys: u64,
    /// Those of them that are not sealed to the newest recipients.
    pub log_keys_behind: u64,
    /// What the configuration names instead of the recipients that count, when those differ.
    pub expected: Option<Vec<Recipient>>,
}

impl Repository {
    /// Lists the recipients and what they open. Looks at the names of objects only, one listing for each backup.
    ///
    /// # Errors
    /// `Corrupt` when a record of recipients is damaged, missing or forged; the store's.
    pub async fn key_list(&self, ctx: &OpContext) -> Result<KeyList> {
        let mut list = KeyList { encrypted: self.is_encrypted(), ..KeyList::default() };
        let Some(encryption) = &self.inner.description.encryption else { return Ok(list) };
        list.generations = self.recipients(ctx).await?;
        let newest = list.generations.len().saturating_sub(1);
        list.generation = u32::try_from(newest).unwrap_or(u32::MAX);
        let options = &self.inner.options;
        list.index_recipient = Some(encryption.index_recipient.clone());
        list.index_here = options.index_identity.is_some();
        let mine: Vec<Recipient> = options.identities.iter().map(Identity::recipient).collect();
        for generation in &list.generations {
            for recipient in &generation.recipients {
                if list.recipients.iter().all(|known| known.recipient != *recipient) {
                    list.recipients.push(RecipientStatus {
                        recipient: recipient.clone(),
                        since: generation.generation,
                        removed_in: None,
                        opens: 0,
                        here: mine.contains(recipient),
                    });
                }
            }
        }
        for status in &mut list.recipients {
            let last = list.generations.iter().rfind(|g| g.recipients.contains(&status.recipient));
            status.removed_in = last.map(|g| g.generation + 1).filter(|next| *next <= list.generation);
        }
        list.foreign =
            mine.into_iter().filter(|m| list.recipients.iter().all(|r| r.recipient != *m)).collect();
        for wrapped in self.wrapped(ctx).await? {
            list.backups += 1;
            for status in &mut list.recipients {
                let opens = list.generations.iter().any(|g| {
                    wrapped.generations.contains(&g.generation) && g.recipients.contains(&status.recipient)
                });
                status.opens += u64::from(opens);
            }
            if !wrapped.generations.contains(&list.generation) {
                list.behind.push(BehindBackup {
                    target: wrapped.header.target,
                    id: wrapped.header.id,
                    generation: wrapped.generations.last().copied(),
                });
            }
        }
        for generations in ctx.run(self.inner.log_key_objects()).await?.into_values() {
            list.log_keys += 1;
            list.log_keys_behind += u64::from(!generations.contains(&list.generation));
        }
        let expected = &options.expected_recipients;
        let differs = list
            .generations
            .last()
            .is_some_and(|g| !expected.is_empty() && !crate::recipients::same(expected, &g.recipients));
        list.expected = differs.then(|| expected.clone());
        Ok(list)
    }
}
