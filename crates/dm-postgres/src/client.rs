//! Where a server is: one reading of the URL, handed to the driver and to the client tools.
//!
//! URLs come from applications, with parameters of their object mappers (`schema`, `connection_limit`, `pgbouncer`).
//! Those are honoured here and never reach libpq, which refuses what it does not know.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::time::Duration;

use dm_core::{Error, Finding, Level, Result, Secret};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::Url;

use crate::PostgresOptions;
use crate::sql::quote_conninfo;

/// A server, a database and how to get in.
#[derive(Clone)]
pub(crate) struct Client {
    host: String,
    port: u16,
    user: String,
    password: Option<Secret>,
    /// The database named in the URL; libpq's rule (the user's name) when it names none.
    pub(crate) database: String,
    ssl: BTreeMap<&'static str, String>,
    /// The `schema` of the URL: the first of the search path of statements.
    pub(crate) schema: Option<String>,
    /// Whether a transaction-pooling proxy stands between.
    pub(crate) pgbouncer: bool,
    /// The options with the URL's own put in.
    pub(crate) options: PostgresOptions,
}

impl Client {
    /// Whether somebody between here and the server could read or change what passes; `None` on this machine.
    pub(crate) fn transport(&self) -> Option<Finding> {
        let here = self.host.starts_with('/')
            || self.host == "localhost"
            || self.host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if here {
            return None;
        }
        let mode = self.ssl.get("sslmode").map_or("prefer", String::as_str);
        Some(match mode {
            "verify-full" => {
                Finding::new(Level::Ok, "transport", "encrypted, and the server's certificate is verified")
            }
            _ => Finding::new(
                Level::Warning,
                "transport",
                format!("with sslmode={mode} nobody verifies that it is the right server"),
            )
            .with_mend(
                "add sslmode=verify-full and sslrootcert=<the authority's certificate> to the engine's url",
            ),
        })
    }

    /// Reads a URL.
    pub(crate) fn parse(url: &Secret, options: PostgresOptions) -> Result<Self> {
        let bad = |why: String| {
            Error::invalid(format!("the postgres url cannot be used: {why}"))
                .with_hint("write it as postgres://user:password@host:5432/database")
        };
        let parsed = match Url::parse(url.expose()) {
            // libpq allows a user without a host (`postgres://me@/shop?host=/run/postgresql`), the URL standard does not.
            Err(url::ParseError::EmptyHost) => Url::parse(&url.expose().replacen("@/", "@localhost/", 1)),
            parsed => parsed,
        }
        .map_err(|e| bad(e.to_string()))?;
        if !matches!(parsed.scheme(), "postgres" | "postgresql") {
            return Err(bad(format!("its scheme is \"{}\"", parsed.scheme())));
        }
        let decode = |text: &str| percent_decode(text).ok_or_else(|| bad("it is not valid UTF-8".to_owned()));
        let mut client = Self {
            host: parsed.host_str().map(decode).transpose()?.filter(|h| !h.is_empty()).unwrap_or_default(),
            port: parsed.port().unwrap_or(5432),
            user: decode(parsed.username())?,
            password: parsed.password().map(decode).transpose()?.map(Secret::new),
            database: decode(parsed.path().trim_start_matches('/'))?,
            ssl: BTreeMap::new(),
            schema: None,
            pgbouncer: false,
            options,
        };
        // An IPv6 host stands in brackets in a URL and without them everywhere else.
        if let Some(inner) = client.host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            client.host = inner.to_owned();
        }
        for (key, value) in parsed.query_pairs() {
            client.parameter(&key, &value).map_err(bad)?;
        }
        if client.host.contains(',') {
            return Err(bad("it names several hosts".to_owned()).with_hint("name the primary alone"));
        }
        if client.host.is_empty() {
            "localhost".clone_into(&mut client.host);
        }
        if client.user.is_empty() {
            return Err(bad("it names no user".to_owned()));
        }
        if client.database.is_empty() {
            client.database.clone_from(&client.user);
        }
        Ok(client)
    }

    fn parameter(&mut self, key: &str, value: &str) -> Result<(), String> {
        let number = || value.parse::<u64>().map_err(|_| format!("{key} is not a whole number"));
        // In Prisma's URLs a timeout of 0 means none at all.
        let seconds =
            || number().map(|n| if n == 0 { Duration::from_secs(86_400) } else { Duration::from_secs(n) });
        match key {
            "host" | "hostaddr" => value.clone_into(&mut self.host),
            "port" => self.port = value.parse().map_err(|_| "port is not a port number".to_owned())?,
            "user" => value.clone_into(&mut self.user),
            "password" => self.password = Some(Secret::new(value)),
            "dbname" => value.clone_into(&mut self.database),
            "sslmode" => {
                value.parse::<PgSslMode>().map_err(|_| format!("\"{value}\" is not an sslmode"))?;
                self.ssl.insert("sslmode", value.to_owned());
            }
            "sslrootcert" => drop(self.ssl.insert("sslrootcert", value.to_owned())),
            "sslcert" => drop(self.ssl.insert("sslcert", value.to_owned())),
            "sslkey" => drop(self.ssl.insert("sslkey", value.to_owned())),
            "application_name" => value.clone_into(&mut self.options.application_name),
            "connect_timeout" => self.options.connect_timeout = seconds()?,
            "schema" => self.schema = Some(value.to_owned()),
            "connection_limit" => {
                self.options.pool_max = u32::try_from(number()?.max(1)).unwrap_or(u32::MAX);
            }
            "pool_timeout" => self.options.acquire_timeout = seconds()?,
            "socket_timeout" => self.options.query_timeout = Some(seconds()?),
            "pgbouncer" => self.pgbouncer = matches!(value, "true" | "1"),
            // Other mappers' parameters mean nothing here and must not stop a backup.
            _ => tracing::debug!(parameter = key, "a parameter of the postgres url is not used"),
        }
        Ok(())
    }

    /// A server of this machine by its socket.
    pub(crate) fn on_socket(
        folder: &std::path::Path,
        port: u16,
        user: &str,
        database: &str,
        options: PostgresOptions,
    ) -> Self {
        Self {
            host: folder.display().to_string(),
            port,
            user: user.to_owned(),
            password: None,
            database: database.to_owned(),
            ssl: BTreeMap::new(),
            schema: None,
            pgbouncer: false,
            options,
        }
    }

    /// The same server, another database.
    pub(crate) fn on_database(&self, database: &str) -> Self {
        Self { database: database.to_owned(), ..self.clone() }
    }

    /// The driver's form. Place, user, password and mode come from the URL alone, never from the environment.
    pub(crate) fn connect_options(&self) -> PgConnectOptions {
        let mode = self.ssl.get("sslmode").and_then(|m| m.parse().ok()).unwrap_or(PgSslMode::Prefer);
        let mut options = PgConnectOptions::new_without_pgpass()
            .port(self.port)
            .username(&self.user)
            .database(&self.database)
            .ssl_mode(mode)
            .application_name(&self.options.application_name);
        options = match self.host.starts_with('/') {
            true => options.socket(&self.host),
            false => options.host(&self.host),
        };
        // Set even when there is none, or the driver would take PGPASSWORD.
        options = options.password(self.password.as_ref().map_or("", Secret::expose));
        if let Some(path) = self.ssl.get("sslrootcert") {
            options = options.ssl_root_cert(path);
        }
        if let Some(path) = self.ssl.get("sslcert") {
            options = options.ssl_client_cert(path);
        }
        if let Some(path) = self.ssl.get("sslkey") {
            options = options.ssl_client_key(path);
        }
        if self.pgbouncer {
            options = options.statement_cache_capacity(0);
        }
        options
    }

    /// The environment of libpq's programs: all that they need, so that nothing secret is an argument.
    pub(crate) fn environment(&self) -> Vec<(&'static str, OsString)> {
        let mut pairs: Vec<(&'static str, OsString)> = vec![
            ("PGHOST", self.host.clone().into()),
            ("PGPORT", self.port.to_string().into()),
            ("PGUSER", self.user.clone().into()),
            ("PGDATABASE", self.database.clone().into()),
            ("PGAPPNAME", self.options.application_name.clone().into()),
            ("PGCONNECT_TIMEOUT", self.options.connect_timeout.as_secs().max(2).to_string().into()),
            ("PGCLIENTENCODING", "UTF8".into()),
        ];
        if let Some(password) = &self.password {
            pairs.push(("PGPASSWORD", password.expose().into()));
        }
        for (key, variable) in [
            ("sslmode", "PGSSLMODE"),
            ("sslrootcert", "PGSSLROOTCERT"),
            ("sslcert", "PGSSLCERT"),
            ("sslkey", "PGSSLKEY"),
        ] {
            if let Some(value) = self.ssl.get(key) {
                pairs.push((variable, value.into()));
            }
        }
        pairs
    }

    /// `dbname='…'` for a program's argument: a bare name with `=` in it would be read as a connection string.
    pub(crate) fn dbname_argument(&self) -> String {
        format!("dbname={}", quote_conninfo(&self.database))
    }

    /// The place, for people.
    pub(crate) fn location(&self) -> String {
        format!("{}/{}", self.server(), self.database)
    }

    /// The server, for people.
    pub(crate) fn server(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("postgres://{}@{host}:{}", self.user, self.port)
    }

    /// Who connects.
    pub(crate) fn user(&self) -> &str {
        &self.user
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.location()).finish()
    }
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        match (first, tail) {
            (b'%', [a, b, after @ ..]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => {
                bytes.extend(hex::decode([*a, *b]).ok()?);
                rest = after;
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Client> {
        Client::parse(&Secret::new(url), PostgresOptions::default())
    }

    #[test]
    fn an_unverified_server_elsewhere_is_worth_a_warning() {
        let level = |url: &str| parse(url).unwrap().transport().map(|f| f.level);
        assert_eq!(level("postgres://me@localhost/shop"), None);
        assert_eq!(level("postgres://me@127.0.0.1/shop"), None);
        assert_eq!(level("postgres://me@db.example/shop"), Some(Level::Warning));
        assert_eq!(level("postgres://me@db.example/shop?sslmode=require"), Some(Level::Warning));
        assert_eq!(level("postgres://me@db.example/shop?sslmode=verify-full"), Some(Level::Ok));
    }

    #[test]
    fn parameters_of_mappers_are_honoured_and_stripped() {
        let client = parse(
            "postgresql://me:p%40ss@db.example:6543/shop?schema=app&connection_limit=3&pool_timeout=7\
             &connect_timeout=4&sslmode=require&pgbouncer=true&unknown=1",
        )
        .unwrap();
        assert_eq!((client.options.pool_max, client.schema.as_deref()), (3, Some("app")));
        assert_eq!(client.options.acquire_timeout, Duration::from_secs(7));
        assert_eq!(client.location(), "postgres://me@db.example:6543/shop");
        let environment = client.environment();
        assert!(environment.contains(&("PGPASSWORD", "p@ss".into())));
        assert!(environment.contains(&("PGSSLMODE", "require".into())));
        assert!(!format!("{client:?} {}", client.location()).contains("p@ss"));
    }

    #[test]
    fn sockets_and_ipv6_are_hosts() {
        assert_eq!(parse("postgres://me@%2Frun%2Fpg/shop").unwrap().host, "/run/pg");
        assert_eq!(parse("postgres://me@/shop?host=/run/pg").unwrap().host, "/run/pg");
        assert_eq!(parse("postgres://me@[::1]:7/shop").unwrap().host, "::1");
        for bad in
            ["mysql://h/d", "postgres://a@h,i/d", "postgres://h/d", "nonsense", "postgres://a@h/d?sslmode=x"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
