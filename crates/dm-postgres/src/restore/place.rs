//! The sealed database: making it, renaming it, removing it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use dm_core::{Error, ErrorKind, OpContext, Result};
use sqlx::Executor;
use sqlx::postgres::{PgConnection, PgPool};
use tokio::time::Instant;

use crate::catalog::DatabaseProperties;
use crate::client::Client;
use crate::error::{reading, sqlstate, writing};
use crate::selection::listed;
use crate::session::{close, open_pinned};
use crate::sql::{dynamic, quote_ident, quote_literal};

/// How long our own connections may take to go, once closed.
const FAREWELL: Duration = Duration::from_secs(5);

/// The longest name of anything in PostgreSQL, in bytes.
const LONGEST_NAME: usize = 63;

/// A name for a database beside another: `shop_restored_20260102030405`, cut to what PostgreSQL keeps.
pub(super) fn beside(database: &str, word: &str, at: DateTime<Utc>) -> String {
    let end = format!("_{word}_{}", at.format("%Y%m%d%H%M%S"));
    let mut cut = database.len().min(LONGEST_NAME - end.len());
    while !database.is_char_boundary(cut) {
        cut -= 1;
    }
    format!("{}{end}", database.get(..cut).unwrap_or_default())
}

/// Whether there is a database of this name.
pub(super) async fn exists(control: &mut PgConnection, name: &str) -> Result<bool> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = $1)")
        .bind(name)
        .fetch_one(control)
        .await
        .map_err(reading)
}

/// Whether nothing was ever made in a database.
pub(super) async fn is_empty(ctx: &OpContext, client: &Client) -> Result<bool> {
    let mut connection = open_pinned(ctx, client).await?;
    let empty = sqlx::query_scalar(
        "SELECT NOT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                             WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
                               AND n.nspname !~ '^pg_(toast_)?temp_')
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
                             WHERE n.nspname NOT IN ('pg_catalog', 'information_schema'))
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
                             WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast'))
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_namespace
                             WHERE nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'public')
                               AND nspname !~ '^pg_(toast_)?temp_')
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata)",
    )
    .fetch_one(&mut connection)
    .await
    .map_err(reading)?;
    close(connection).await;
    Ok(empty)
}

/// Who is connected to a database, one line each.
pub(super) async fn sessions(control: &mut PgConnection, database: &str) -> Result<Vec<String>> {
    sqlx::query_scalar(
        "SELECT pg_catalog.format('%s (%s, pid %s)', COALESCE(usename, 'unknown'),
                       COALESCE(NULLIF(application_name, ''), 'no application name'), pid)
           FROM pg_catalog.pg_stat_activity
          WHERE datname = $1 AND pid <> pg_catalog.pg_backend_pid() AND backend_type = 'client backend'
          ORDER BY pid",
    )
    .bind(database)
    .fetch_all(control)
    .await
    .map_err(reading)
}

/// Runs a command that changes something.
pub(super) async fn command(control: &mut PgConnection, text: impl Into<String>) -> Result<()> {
    control.execute(sqlx::raw_sql(dynamic(text))).await.map(drop).map_err(writing)
}

/// Makes a database like the source's and closes it to everybody but its owner and superusers.
pub(super) async fn create(
    control: &mut PgConnection,
    name: &str,
    database: &DatabaseProperties,
    major: u32,
) -> Result<()> {
    create_like(control, name, database, major).await?;
    command(control, format!("REVOKE CONNECT ON DATABASE {} FROM PUBLIC", quote_ident(name))).await
}

/// Makes an empty database with another's encoding and locale.
pub(crate) async fn create_like(
    control: &mut PgConnection,
    name: &str,
    database: &DatabaseProperties,
    major: u32,
) -> Result<()> {
    let mut text = format!(
        "CREATE DATABASE {} TEMPLATE template0 ENCODING {}",
        quote_ident(name),
        quote_literal(&database.encoding)
    );
    if !database.collate.is_empty() {
        text.push_str(&format!(" LC_COLLATE {}", quote_literal(&database.collate)));
    }
    if !database.ctype.is_empty() {
        text.push_str(&format!(" LC_CTYPE {}", quote_literal(&database.ctype)));
    }
    if major >= 15 {
        match (database.locale_provider.as_str(), &database.locale) {
            ("i", Some(locale)) => {
                text.push_str(&format!(" LOCALE_PROVIDER icu ICU_LOCALE {}", quote_literal(locale)));
                if let (Some(rules), true) = (&database.icu_rules, major >= 16) {
                    text.push_str(&format!(" ICU_RULES {}", quote_literal(rules)));
                }
            }
            ("b", Some(locale)) if major >= 17 => {
                text.push_str(&format!(" LOCALE_PROVIDER builtin BUILTIN_LOCALE {}", quote_literal(locale)));
            }
            _ => text.push_str(" LOCALE_PROVIDER libc"),
        }
    }
    control.execute(sqlx::raw_sql(dynamic(text))).await.map_err(|e| {
        let locale = matches!(sqlstate(&e).as_deref(), Some("22023" | "42809"));
        let error = writing(e).about(name);
        match locale {
            true => error.with_hint(format!(
                "the server must know the source's locale {} and encoding {}",
                database.collate, database.encoding
            )),
            false => error,
        }
    })?;
    Ok(())
}

/// Removes a database, with whoever is connected.
pub(super) async fn drop_database(control: &mut PgConnection, name: &str, major: u32) -> Result<()> {
    let quoted = quote_ident(name);
    let text = match major >= 13 {
        true => format!("DROP DATABASE IF EXISTS {quoted} WITH (FORCE)"),
        false => {
            sqlx::query(
                "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE datname = $1",
            )
            .bind(name)
            .execute(&mut *control)
            .await
            .map_err(writing)?;
            format!("DROP DATABASE IF EXISTS {quoted}")
        }
    };
    command(control, text).await.map_err(|e| e.about(format!("the sealed database {name}")))
}

/// Closes the engine's idle connections and waits until nobody is connected to a database.
pub(super) async fn vacate(
    ctx: &OpContext,
    control: &mut PgConnection,
    pool: &PgPool,
    database: &str,
) -> Result<()> {
    while let Some(connection) = pool.try_acquire() {
        close(connection.detach()).await;
    }
    let deadline = Instant::now() + FAREWELL;
    loop {
        let there = sessions(control, database).await?;
        if there.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Error::new(ErrorKind::Busy, format!("{database} is in use by {}", listed(&there)))
                .with_hint("stop the application that is connected, then restore again"));
        }
        // A backend goes some moments after its connection.
        ctx.run(async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(())
        })
        .await?;
    }
}

/// Gives the sealed database what the source's had besides its content, opens it, and gives it its name — all or nothing.
pub(super) async fn unseal(
    control: &mut PgConnection,
    sealed: &str,
    name: &str,
    kept_as: Option<&str>,
    database: &DatabaseProperties,
    plan_owners: bool,
) -> Result<()> {
    let known: Vec<(String, bool)> = sqlx::query_as(
        "SELECT rolname::text, pg_catalog.pg_has_role(oid, 'MEMBER') FROM pg_catalog.pg_roles",
    )
    .fetch_all(&mut *control)
    .await
    .map_err(reading)?;
    let is_role = |role: &str| known.iter().any(|(r, _)| r == role);
    let is_ours = |role: &str| known.iter().any(|(r, ours)| r == role && *ours);
    let quoted = quote_ident(sealed);
    let mut commands = vec!["BEGIN".to_owned()];
    // Also where the source had none: one that was kept sealed has its marker there.
    let comment = database.comment.as_ref().map_or_else(|| "NULL".to_owned(), |c| quote_literal(c));
    commands.push(format!("COMMENT ON DATABASE {quoted} IS {comment}"));
    commands.push(format!("ALTER DATABASE {quoted} CONNECTION LIMIT {}", database.connection_limit.max(-1)));
    for setting in &database.settings {
        let role = match &setting.role {
            Some(role) if is_role(role) => format!("ROLE {} IN DATABASE {quoted}", quote_ident(role)),
            Some(_) => continue,
            None => format!("DATABASE {quoted}"),
        };
        for pair in &setting.settings {
            if let Some((name, value)) = pair.split_once('=') {
                commands.push(format!(
                    "ALTER {role} SET {} TO {}",
                    setting_name(name),
                    setting_value(name, value)
                ));
            }
        }
    }
    match &database.grants {
        None => commands.push(format!("GRANT CONNECT, TEMPORARY ON DATABASE {quoted} TO PUBLIC")),
        Some(grants) => {
            commands.push(format!("REVOKE ALL ON DATABASE {quoted} FROM PUBLIC"));
            for grant in grants {
                let to = match &grant.grantee {
                    None => "PUBLIC".to_owned(),
                    Some(role) if is_role(role) => quote_ident(role),
                    Some(_) => continue,
                };
                if let "CONNECT" | "CREATE" | "TEMPORARY" = grant.privilege.as_str() {
                    let option = if grant.grantable { " WITH GRANT OPTION" } else { "" };
                    commands.push(format!("GRANT {} ON DATABASE {quoted} TO {to}{option}", grant.privilege));
                }
            }
        }
    }
    if plan_owners && is_ours(&database.owner) {
        commands.push(format!("ALTER DATABASE {quoted} OWNER TO {}", quote_ident(&database.owner)));
    }
    if let Some(kept) = kept_as {
        commands.push(format!("ALTER DATABASE {} RENAME TO {}", quote_ident(name), quote_ident(kept)));
    }
    commands.push(format!("ALTER DATABASE {quoted} RENAME TO {}", quote_ident(name)));
    commands.push("COMMIT".to_owned());
    for text in commands {
        if let Err(error) = command(control, text).await {
            if let Err(again) = command(control, "ROLLBACK").await {
                tracing::debug!(error = %again, "the transaction of a release was not rolled back in good order");
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Names the sealed database that an error leaves behind.
pub(super) fn kept(error: Error, sealed: &str) -> Error {
    let hint = match error.hint() {
        Some(hint) => format!("{hint}; the restored database is kept, closed to others, as {sealed}"),
        None => format!("the restored database is kept, closed to others, as {sealed}"),
    };
    error.with_hint(hint)
}

/// A setting's name; one of an extension has a dot, each side is a name of its own.
fn setting_name(name: &str) -> String {
    name.split('.').map(quote_ident).collect::<Vec<_>>().join(".")
}

/// A setting's value. Of settings that are lists of names each item is a literal of its own.
fn setting_value(name: &str, value: &str) -> String {
    const LISTS: [&str; 6] = [
        "search_path",
        "temp_tablespaces",
        "local_preload_libraries",
        "session_preload_libraries",
        "shared_preload_libraries",
        "unix_socket_directories",
    ];
    if !LISTS.contains(&name.to_ascii_lowercase().as_str()) {
        return quote_literal(value);
    }
    let items = list_items(value);
    match items.is_empty() {
        true => "''".to_owned(),
        false => items.iter().map(|i| quote_literal(i)).collect::<Vec<_>>().join(", "),
    }
}

/// Splits `"$user", public` as the server does.
fn list_items(value: &str) -> Vec<String> {
    let mut items = Vec::new();
    let mut letters = value.chars().peekable();
    loop {
        while letters.next_if(|c| c.is_whitespace() || *c == ',').is_some() {}
        let Some(first) = letters.peek().copied() else { return items };
        let mut item = String::new();
        if first == '"' {
            letters.next();
            while let Some(c) = letters.next() {
                if c == '"' && letters.next_if_eq(&'"').is_none() {
                    break;
                }
                item.push(c);
            }
        } else {
            while let Some(c) = letters.next_if(|c| *c != ',') {
                item.push(c);
            }
            item.truncate(item.trim_end().len());
        }
        items.push(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_not_their_ends() {
        let at = DateTime::from_timestamp(0, 0).unwrap();
        assert_eq!(beside("shop", "restored", at), "shop_restored_19700101000000");
        let long = beside(&"ü".repeat(31), "before_restore", at);
        assert!(long.len() <= 63 && long.ends_with("_before_restore_19700101000000"));
    }

    #[test]
    fn lists_are_split_as_the_server_splits() {
        assert_eq!(list_items("\"$user\", public"), ["$user", "public"]);
        assert_eq!(list_items("\"a\"\"b\",c d , e"), ["a\"b", "c d", "e"]);
        assert_eq!(setting_value("search_path", "\"$user\", public"), "'$user', 'public'");
        assert_eq!(setting_value("work_mem", "64MB"), "'64MB'");
        assert_eq!(setting_name("myapp.user"), "\"myapp\".\"user\"");
    }
}
