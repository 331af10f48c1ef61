//! What a restore into tables that are in use would do, as far as that can be known without the rows.

use std::collections::{BTreeMap, BTreeSet};

use dm_core::{
    Error, ErrorKind, Finding, Level, OpContext, RestoreManifest, RestorePreview, RestoreRequest, Result,
};

use super::unit::{Unit, examine, units};
use crate::backup::{self, SEQUENCES};
use crate::catalog;
use crate::client::Client;
use crate::restore::plan::{Kind, Plan, TableMember};
use crate::selection::listed;
use crate::session::{close, open_pinned};

/// Looks. Nothing when none of the tables is there: then they are made.
pub(in crate::restore) async fn look(
    ctx: &OpContext,
    client: &Client,
    request: &RestoreRequest,
    manifest: &RestoreManifest,
    chosen: &BTreeSet<String>,
    members: &BTreeMap<String, TableMember>,
) -> Result<Option<RestorePreview>> {
    let mut connection = match open_pinned(ctx, client).await {
        Ok(connection) => connection,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(Error::not_found(format!("there is no database {}", client.database)).with_hint(
                "restore single tables or a tenant into a new database, or the whole database in place",
            ));
        }
        Err(error) => return Err(error),
    };
    let wanted: BTreeMap<String, TableMember> = members
        .iter()
        .filter(|(name, _)| chosen.contains(*name))
        .map(|(name, member)| (name.clone(), member.clone()))
        .collect();
    let relations = catalog::relations(&mut connection).await?;
    let (mut missing, mut other) = (Vec::new(), Vec::new());
    let mut units = units(&relations, &wanted, &mut missing, &mut other);
    if missing.len() == wanted.len() && request.tenant.is_none() {
        close(connection).await;
        return Ok(None);
    }
    let mut findings = examine(&mut connection, &mut units).await?;
    let mut stop = |names: &[String], what: &str, mend: &str| {
        if !names.is_empty() {
            let message = format!("{} {what}", listed(names));
            findings.push(Finding::new(Level::Error, "destination", message).with_mend(mend));
        }
    };
    stop(
        &missing,
        "are not there, and others that were chosen are",
        "restore the missing tables and those that are there in two steps, first those that others refer to",
    );
    stop(
        &other,
        "have other columns than when the backup was made",
        "restore into a new database, and bring the rows over by hand",
    );
    let conditional: Vec<String> =
        wanted.iter().filter(|(_, m)| !m.condition.is_empty()).map(|(name, _)| name.clone()).collect();
    stop(
        &conditional,
        "belong to an extension, and only some of their rows are in the backup",
        "leave them out",
    );
    findings.push(backup::connections(&mut connection, 1).await?);
    close(connection).await;
    let plan = Plan {
        kind: Kind::Merge,
        database: client.database.clone(),
        kept_as: None,
        tables: Some(wanted.keys().cloned().collect()),
        existing: BTreeSet::new(),
        owners: false,
        privileges: false,
        tenant: request.tenant.clone(),
    };
    let members: Vec<usize> = manifest
        .members
        .iter()
        .enumerate()
        .filter(|(_, (spec, _))| match &spec.table {
            Some(table) => plan.wants(table),
            None => spec.name == SEQUENCES,
        })
        .map(|(i, _)| i)
        .collect();
    let bytes = members.iter().filter_map(|i| manifest.members.get(*i)).map(|(_, size)| size).sum();
    let mut attributes = BTreeMap::new();
    plan.store(&mut attributes)?;
    Ok(Some(RestorePreview {
        location: client.location(),
        consequences: consequences(client, request, &units),
        findings,
        members,
        bytes,
        attributes,
        ..RestorePreview::default()
    }))
}

fn consequences(client: &Client, request: &RestoreRequest, units: &[Unit]) -> Vec<String> {
    let names: Vec<String> = units.iter().map(|u| u.display.clone()).collect();
    let keyless: Vec<String> = units.iter().filter(|u| u.key.is_empty()).map(|u| u.display.clone()).collect();
    let triggers = units.iter().map(|u| u.triggers.len()).sum::<usize>();
    let mut consequences = vec![match &request.tenant {
        Some(tenant) => format!(
            "the rows of the tenant {tenant} in {} tables of {} become those of the backup; rows of others stay as they are",
            names.len(),
            client.database
        ),
        None => format!("the rows of {} in {} become those of the backup", listed(&names), client.database),
    }];
    consequences.push(
        "rows that the backup does not have are deleted, those that differ are changed, missing ones are inserted: in one \
         transaction, or not at all"
            .to_owned(),
    );
    if !keyless.is_empty() {
        consequences.push(format!("rows without a key are deleted and inserted again: {}", listed(&keyless)));
    }
    if triggers > 0 {
        consequences.push(format!("{triggers} triggers of these tables do not fire meanwhile"));
    }
    consequences.push(
        "whoever writes to these tables, or to those that refer to them, waits until it is done".to_owned(),
    );
    consequences
}
