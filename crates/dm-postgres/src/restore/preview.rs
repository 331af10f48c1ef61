//! What a restore would do, and what stands in its way. Reads only.

use std::collections::{BTreeMap, BTreeSet};

use dm_core::{
    Destination, Error, Finding, Level, MemberKind, OpContext, RestoreManifest, RestorePreview,
    RestoreRequest, Result, TenantFilter,
};
use sqlx::postgres::PgConnection;

use super::merge::preview as merge;
use super::place;
use super::plan::{Kind, Plan, Source, TableMember, table_members};
use crate::backup;
use crate::catalog;
use crate::client::Client;
use crate::error::reading;
use crate::selection::listed;
use crate::session::{close, open_control, open_pinned};
use crate::tools::ClientTools;

/// Looks.
pub(super) async fn preview(
    ctx: &OpContext,
    client: &Client,
    request: &RestoreRequest,
    manifest: &RestoreManifest,
) -> Result<RestorePreview> {
    let source = Source::read(manifest)?;
    let tables = table_members(manifest)?;
    let partial = manifest.source.tenant()?;
    let choice = choose(request, partial.as_ref(), &source, &tables)?;
    if let (Destination::InPlace, Some(chosen)) = (&request.destination, &choice.tables)
        && let Some(mut preview) = merge::look(ctx, client, request, manifest, chosen, &tables).await?
    {
        if partial.is_some() && request.tenant.is_none() {
            preview.findings.push(partial_in_place());
        }
        return Ok(preview);
    }
    let mut control = open_control(ctx, client, &[]).await?;
    let mut findings = Vec::new();
    if partial.is_some() && request.destination == Destination::InPlace {
        findings.push(partial_in_place());
    }
    let mut consequences = Vec::new();

    let version = catalog::version(&mut control).await?;
    let from = &manifest.source.version;
    if version.major < from.major {
        findings.push(
            Finding::new(
                Level::Warning,
                "server_version",
                format!(
                    "the backup is of PostgreSQL {}, the server is PostgreSQL {}",
                    from.major, version.major
                ),
            )
            .with_mend("what only the newer version knows cannot be restored; use a server at least as new"),
        );
    } else {
        findings.push(Finding::new(Level::Ok, "server_version", format!("PostgreSQL {}", version.text)));
    }
    findings.push(match ClientTools::at_least(ctx, client, source.tool_major, "pg_restore").await {
        Ok(tools) => {
            Finding::new(Level::Ok, "client_tools", format!("pg_restore {} will be used", tools.version))
        }
        Err(error) => {
            let finding = Finding::new(Level::Error, "client_tools", error.to_string());
            match error.hint() {
                Some(hint) => finding.with_mend(hint),
                None => finding,
            }
        }
    });
    findings.extend(extensions(&mut control, &source).await?);
    let (owners, privileges) = roles(&mut control, &source, &mut findings).await?;

    let into_tables = request.destination == Destination::InPlace && choice.tables.is_some();
    let mut plan = Plan {
        kind: if into_tables { Kind::Tables } else { Kind::Database },
        database: final_name(ctx, client, request, manifest),
        kept_as: None,
        tables: choice.tables,
        existing: BTreeSet::new(),
        owners,
        privileges,
        tenant: choice.tenant,
    };
    match plan.kind {
        Kind::Tables => into_existing(ctx, client, &mut plan, &mut findings, &mut consequences).await?,
        Kind::Merge | Kind::Database => {
            findings.push(may_create(&mut control, client).await?);
            let in_place = request.destination == Destination::InPlace;
            new_database(ctx, client, &mut control, &mut plan, in_place, &mut findings, &mut consequences)
                .await?;
        }
    }
    findings.push(backup::connections(&mut control, request.jobs).await?);
    close(control).await;
    match (&plan.tenant, &plan.tables) {
        (Some(tenant), _) => consequences
            .push(format!("only the rows of the tenant {tenant} are restored, and what they refer to")),
        (None, Some(_)) if plan.kind == Kind::Database => {
            consequences.push("foreign keys to tables that are not restored are left out".to_owned());
        }
        _ => {}
    }
    if manifest.members.iter().any(|(m, _)| m.kind == MemberKind::Globals) {
        findings.push(Finding::new(
            Level::Info,
            "globals",
            "roles of the source's server are in the backup (globals.sql) and are not made by a restore",
        ));
    }
    let members = members(manifest, &plan);
    let bytes = members.iter().filter_map(|i| manifest.members.get(*i)).map(|(_, size)| size).sum();
    let mut attributes = BTreeMap::new();
    plan.store(&mut attributes)?;
    Ok(RestorePreview {
        location: client.on_database(&plan.database).location(),
        consequences,
        findings,
        members,
        bytes,
        attributes,
        ..RestorePreview::default()
    })
}

fn final_name(
    ctx: &OpContext,
    client: &Client,
    request: &RestoreRequest,
    manifest: &RestoreManifest,
) -> String {
    match &request.destination {
        Destination::InPlace => client.database.clone(),
        Destination::New(Some(name)) => name.clone(),
        Destination::New(None) => place::beside(&manifest.source.database, "restored", ctx.now()),
    }
}

/// What is written: everything but the roles; of single tables their rows and what all need.
fn members(manifest: &RestoreManifest, plan: &Plan) -> Vec<usize> {
    let wanted = |spec: &dm_core::MemberSpec| match (&spec.table, spec.kind) {
        (_, MemberKind::Globals) => false,
        (Some(table), _) => plan.wants(table),
        (None, MemberKind::LargeObjects) => plan.tables.is_none() && plan.tenant.is_none(),
        (None, _) => true,
    };
    manifest.members.iter().enumerate().filter(|(_, (spec, _))| wanted(spec)).map(|(i, _)| i).collect()
}

async fn extensions(control: &mut PgConnection, source: &Source) -> Result<Vec<Finding>> {
    let available: Vec<String> =
        sqlx::query_scalar("SELECT name::text FROM pg_catalog.pg_available_extensions")
            .fetch_all(control)
            .await
            .map_err(reading)?;
    let missing: Vec<String> = source
        .database
        .extensions
        .iter()
        .filter(|e| !available.contains(&e.name))
        .map(|e| e.name.clone())
        .collect();
    Ok(match missing.is_empty() {
        true => Vec::new(),
        false => vec![
            Finding::new(
                Level::Error,
                "extensions",
                format!("the server lacks the extensions {}", listed(&missing)),
            )
            .with_mend("install their packages on the server, for example postgresql-contrib"),
        ],
    })
}

/// Which of owners and privileges can be restored.
async fn roles(
    control: &mut PgConnection,
    source: &Source,
    findings: &mut Vec<Finding>,
) -> Result<(bool, bool)> {
    let names: Vec<String> = source.database.roles.iter().map(|r| r.name.clone()).collect();
    // A role that may not be taken on cannot be made an owner.
    let rows: Vec<(String, bool)> = sqlx::query_as(
        "SELECT rolname::text, pg_catalog.pg_has_role(oid, 'MEMBER') FROM pg_catalog.pg_roles
          WHERE rolname = ANY ($1::text[])",
    )
    .bind(names)
    .fetch_all(control)
    .await
    .map_err(reading)?;
    let known: BTreeMap<String, bool> = rows.into_iter().collect();
    let used = |how: &str, bad: &dyn Fn(&str) -> bool| -> Vec<String> {
        let mut names: Vec<String> = source
            .database
            .roles
            .iter()
            .filter(|r| r.used == how && bad(&r.name))
            .map(|r| r.name.clone())
            .collect();
        names.dedup();
        names
    };
    let missing = |name: &str| !known.contains_key(name);
    let not_ours = |name: &str| !known.get(name).copied().unwrap_or(false);
    let owners = used("o", &not_ours);
    let grantees = used("a", &missing);
    let policies = used("r", &missing);
    let mut warn = |what: &str, names: &[String], outcome: &str| {
        findings.push(
            Finding::new(Level::Warning, "roles", format!("{what} {}: {outcome}", listed(names)))
                .with_mend("make the roles first (globals.sql of the backup) and restore as a superuser"),
        );
    };
    if !owners.is_empty() {
        warn("objects cannot be given to", &owners, "they will belong to the restoring role");
    }
    if !grantees.is_empty() {
        warn("there are no roles", &grantees, "privileges are not restored");
    }
    if !policies.is_empty() {
        findings.push(
            Finding::new(
                Level::Error,
                "roles",
                format!("row security policies name missing roles {}", listed(&policies)),
            )
            .with_mend("make the roles first (globals.sql of the backup)"),
        );
    }
    Ok((owners.is_empty(), grantees.is_empty()))
}

async fn may_create(control: &mut PgConnection, client: &Client) -> Result<Finding> {
    let may: bool = sqlx::query_scalar(
        "SELECT rolsuper OR rolcreatedb FROM pg_catalog.pg_roles WHERE rolname = current_user",
    )
    .fetch_one(control)
    .await
    .map_err(reading)?;
    let user = client.user();
    Ok(match may {
        true => Finding::new(Level::Ok, "create_database", format!("{user} may create databases")),
        false => Finding::new(Level::Error, "create_database", format!("{user} may not create databases"))
            .with_mend(format!("ALTER ROLE {user} CREATEDB")),
    })
}

async fn new_database(
    ctx: &OpContext,
    client: &Client,
    control: &mut PgConnection,
    plan: &mut Plan,
    in_place: bool,
    findings: &mut Vec<Finding>,
    consequences: &mut Vec<String>,
) -> Result<()> {
    let name = plan.database.clone();
    if name.is_empty() || name.len() > 63 || name.contains('\0') {
        findings.push(
            Finding::new(Level::Error, "destination", format!("\"{name}\" is not a database's name"))
                .with_mend("use 1 to 63 bytes"),
        );
        return Ok(());
    }
    if !place::exists(control, &name).await? {
        consequences.push(format!("the database {name} is made"));
        return Ok(());
    }
    let kept = place::beside(&name, "before_restore", ctx.now());
    if in_place {
        consequences
            .push(format!("the database {name} is kept as {kept} and the restored one takes its name"));
        let sessions = place::sessions(control, &name).await?;
        if !sessions.is_empty() {
            findings.push(
                Finding::new(
                    Level::Warning,
                    "sessions",
                    format!("{name} is in use by {}; it cannot be renamed while it is", listed(&sessions)),
                )
                .with_mend("stop the application before the restore ends"),
            );
        }
    } else if place::is_empty(ctx, &client.on_database(&name)).await? {
        consequences
            .push(format!("the empty database {name} is kept as {kept} and the restored one takes its name"));
    } else {
        findings.push(
            Finding::new(Level::Error, "destination", format!("the database {name} exists and is not empty"))
                .with_mend("name another database, drop it first, or restore in place"),
        );
        return Ok(());
    }
    plan.kept_as = Some(kept);
    Ok(())
}

/// What is restored: everything, some tables, or one tenant.
struct Choice {
    tables: Option<BTreeSet<String>>,
    /// To be picked out of what is restored; `None` when the backup holds nothing else.
    tenant: Option<TenantFilter>,
}

fn choose(
    request: &RestoreRequest,
    partial: Option<&TenantFilter>,
    source: &Source,
    members: &BTreeMap<String, TableMember>,
) -> Result<Choice> {
    let Some(tenant) = &request.tenant else {
        return Ok(Choice { tables: source.select(&request.tables, members)?, tenant: None });
    };
    if !request.tables.is_empty() {
        return Err(Error::invalid("either tables are restored or a tenant, not both").with_hint(
            "a tenant's rows hang together across tables; restore the tenant into a new database to take single tables of it",
        ));
    }
    if partial.is_some_and(|t| t != tenant) {
        return Err(Error::not_found("the backup holds the rows of another tenant only")
            .with_hint("choose a backup of the whole database, or of this tenant"));
    }
    if partial.is_some() && request.destination != Destination::InPlace {
        return Ok(Choice { tables: None, tenant: None });
    }
    let needed = source.needed(&tenant.column, members)?;
    Ok(Choice { tables: Some(needed), tenant: Some(tenant.clone()) })
}

fn partial_in_place() -> Finding {
    Finding::new(
        Level::Error,
        "tenant",
        "the backup holds the rows of one tenant only: everybody else's would be lost",
    )
    .with_mend("restore it to a new database, or choose the tenant: its rows alone then take their place")
}

/// Tables that are made: none of those with rows is there.
async fn into_existing(
    ctx: &OpContext,
    client: &Client,
    plan: &mut Plan,
    findings: &mut Vec<Finding>,
    consequences: &mut Vec<String>,
) -> Result<()> {
    let mut connection = open_pinned(ctx, client).await?;
    let there: BTreeSet<String> =
        catalog::relations(&mut connection).await?.into_iter().map(|r| r.display).collect();
    close(connection).await;
    for table in plan.tables.iter().flatten() {
        if there.contains(table) {
            findings.push(
                Finding::new(
                    Level::Error,
                    "destination",
                    format!("{table} is there, and what belongs to it is not"),
                )
                .with_mend("rename or drop it first, or restore the tables into a new database"),
            );
        } else {
            consequences.push(format!("the table {table} is made in {}", client.database));
        }
    }
    plan.existing = there;
    Ok(())
}
