//! From a URL to an engine: the one place that knows which adapters there are.

use std::sync::Arc;

use dm_core::{
    Destination, Engine, EngineId, EngineKind, Error, MigrationTarget, Result, Secret, redact_url,
};
use dm_store::StorePlace;

use crate::config::EngineConfig;

/// Which adapter a URL asks for.
pub(crate) fn kind_of(url: &str) -> Result<EngineKind> {
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    match scheme {
        "postgres" | "postgresql" => Ok(EngineKind::Postgres),
        "sqlite" | "file" | "" => Ok(EngineKind::Sqlite),
        // A path without a scheme (`./shop.db`); a single letter is a drive.
        _ if scheme.len() == 1 || scheme.contains(['/', '.']) => Ok(EngineKind::Sqlite),
        other => Err(Error::unsupported(format!("no engine speaks \"{other}:\" ({})", redact_url(url)))
            .with_hint("use postgres://user@host/database, sqlite://path or a path")),
    }
}

/// Makes an engine; connects to nothing yet.
pub(crate) fn open(id: &EngineId, config: &EngineConfig) -> Result<Arc<dyn Engine>> {
    let url = config.url.expose();
    match kind_of(url)? {
        #[cfg(feature = "sqlite")]
        EngineKind::Sqlite => sqlite(id, config),
        #[cfg(feature = "postgres")]
        EngineKind::Postgres => postgres(id, config),
        kind => Err(Error::unsupported(format!("this program was built without the {kind} engine"))
            .with_hint(format!("build data-manager with the feature \"{kind}\""))),
    }
}

#[cfg(feature = "sqlite")]
fn sqlite(id: &EngineId, config: &EngineConfig) -> Result<Arc<dyn Engine>> {
    let options = dm_sqlite::SqliteOptions {
        max_connections: usize::try_from(config.pool_max).unwrap_or(usize::MAX),
        query_timeout: config.query_timeout,
        ..dm_sqlite::SqliteOptions::default()
    };
    let location = dm_sqlite::SqliteLocation::parse(config.url.expose())?;
    Ok(Arc::new(dm_sqlite::SqliteEngine::open(id.clone(), location, options)?))
}

#[cfg(feature = "postgres")]
fn postgres(id: &EngineId, config: &EngineConfig) -> Result<Arc<dyn Engine>> {
    // "No limit" of the configuration is a limit nobody lives to see.
    const FOREVER: std::time::Duration = std::time::Duration::from_secs(10 * 365 * 24 * 3600);
    let options = dm_postgres::PostgresOptions {
        pool_max: config.pool_max,
        acquire_timeout: config.acquire_timeout.unwrap_or(FOREVER),
        connect_timeout: config.connect_timeout.unwrap_or(FOREVER),
        query_timeout: config.query_timeout,
        idle_timeout: config.idle_timeout.unwrap_or(FOREVER),
        bin_dir: config.bin_dir.clone(),
        ..dm_postgres::PostgresOptions::default()
    };
    let url = with_schema(&config.url, config.schema.as_deref());
    Ok(Arc::new(dm_postgres::PostgresEngine::connect(id.clone(), &url, options)?))
}

/// The adapter takes the schema from the URL, where Prisma's users have it.
#[cfg(feature = "postgres")]
fn with_schema(url: &Secret, schema: Option<&str>) -> Secret {
    match (schema, url::Url::parse(url.expose())) {
        (Some(schema), Ok(mut parsed)) if parsed.query_pairs().all(|(key, _)| key != "schema") => {
            parsed.query_pairs_mut().append_pair("schema", schema);
            Secret::new(parsed.to_string())
        }
        _ => url.clone(),
    }
}

/// What brings the schema of the system's own state up to date: the migrations of the engine that the state is on.
pub(crate) fn of_store(place: &StorePlace) -> Result<Arc<dyn MigrationTarget>> {
    let id = EngineId::new("store")?;
    let config = match (place.server(), place.file()) {
        (Some((url, schema)), _) => {
            EngineConfig { schema: Some(schema.to_owned()), ..EngineConfig::for_url(url.clone()) }
        }
        (None, file) => {
            // In full, so that no part of it is taken for a scheme.
            let path = file
                .map(std::path::absolute)
                .transpose()
                .map_err(|e| Error::not_found("the store's folder cannot be found").with_source(e))?;
            EngineConfig::for_url(Secret::new(path.unwrap_or_default().display().to_string()))
        }
    };
    migrations(&open(&id, &config)?)
}

/// The migrations of an engine.
pub(crate) fn migrations(engine: &Arc<dyn Engine>) -> Result<Arc<dyn MigrationTarget>> {
    engine.migrations().ok_or_else(|| {
        Error::unsupported(format!("{} databases take no migrations", engine.kind())).on_engine(engine.kind())
    })
}

/// Where `--to` points: an engine of its own for a URL of a server, and the destination there.
pub(crate) fn destination(to: &str) -> Result<(Option<EngineConfig>, Destination)> {
    if matches!(kind_of(to), Ok(EngineKind::Postgres)) {
        let url = url::Url::parse(to).map_err(|e| {
            Error::invalid(format!("\"{}\" is not a connection URL", redact_url(to))).with_source(e)
        })?;
        let database = url.path().trim_start_matches('/');
        if database.is_empty() {
            return Err(Error::invalid(format!("{} names no database", redact_url(to)))
                .with_hint("write postgres://host/new_database_name"));
        }
        let name = percent_decode(database);
        return Ok((Some(EngineConfig::for_url(Secret::new(to))), Destination::New(Some(name))));
    }
    let bare = to.strip_prefix("sqlite://").or_else(|| to.strip_prefix("sqlite:")).unwrap_or(to);
    Ok((None, Destination::New(Some(bare.split('?').next().unwrap_or(bare).to_owned()))))
}

/// The database on a server of several that an engine's URL names.
pub(crate) fn database_of(config: &EngineConfig) -> Option<String> {
    let url = config.url.expose();
    if !matches!(kind_of(url), Ok(EngineKind::Postgres)) {
        return None;
    }
    let url = url::Url::parse(url).ok()?;
    let name = percent_decode(url.path().trim_start_matches('/'));
    (!name.is_empty()).then_some(name)
}

fn percent_decode(text: &str) -> String {
    // `query_pairs` decodes by the same rule; a path segment has no `+` for a blank, so those are kept apart.
    url::form_urlencoded::parse(text.replace('+', "%2B").as_bytes())
        .next()
        .map_or_else(String::new, |(k, _)| k.into_owned())
}
