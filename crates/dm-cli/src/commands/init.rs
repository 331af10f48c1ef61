//! `dm init`: a commented configuration, and a key when asked for.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use data_manager::{AuditKey, Config, DataManager, Error, ErrorKind, NewKey, Result, redact_url};

use super::files;
use crate::args::{InitArgs, ResourceArgs};
use crate::exit::Exit;
use crate::session::{PASSPHRASE_VARIABLE, Session};

const VARIABLE: &str = "DATABASE_URL";

pub(crate) async fn run(session: &mut Session, args: &InitArgs) -> Result<Exit> {
    let path = session.folder.join(session.global.config.clone().unwrap_or_else(|| PathBuf::from("dm.toml")));
    let in_environment = session.env.get(VARIABLE).filter(|url| !url.is_empty()).cloned();
    let (url, written) = match (&args.url, in_environment) {
        (Some(url), _) => (url.clone(), url.clone()),
        (None, Some(url)) => (url, format!("${{{VARIABLE}}}")),
        (None, None) => {
            return Err(Error::invalid("which database? none is given, and DATABASE_URL is not set")
                .with_hint("dm init postgres://user@localhost/shop, or dm init ./shop.db"));
        }
    };
    // A URL that no engine understands should be said now, not by the first backup.
    DataManager::builder().engine("main", url.clone())?;

    let mut text = Config::template(&written);
    let from_environment = text.contains(&format!("${{{VARIABLE}}}\"")) || written.starts_with("${");
    create(&path, &text)?;
    let (audit, key) = match make_keys(session, &path, &url, args.encrypt).await {
        Ok(made) => made,
        Err(error) => {
            // The file of a moment ago would configure no key; nobody has read it yet.
            std::fs::remove_file(&path)
                .map_err(|e| files::error(&path, "the unfinished configuration cannot be removed", e))?;
            return Err(error);
        }
    };
    if let Some(key) = &key {
        text = encrypted(&text, key, session.env.contains_key(PASSPHRASE_VARIABLE))?;
        std::fs::write(&path, &text)
            .map_err(|e| files::error(&path, "the configuration cannot be written", e))?;
    }
    session.out.document(
        "init",
        &[
            ("path", &path),
            ("database", &redact_url(&url)),
            ("from_environment", &from_environment),
            ("key", &key),
            ("audit_key", &audit),
        ],
    )?;
    session.out.say(format!("wrote {} for {}", path.display(), redact_url(&url)))?;
    if from_environment {
        session.out.say(format!(
            "the address is taken from {VARIABLE} each time, so that no password stands in the file"
        ))?;
    }
    if let Some(key) = &key {
        super::backup::tell_key(session, key)?;
    }
    session.out.say(format!(
        "the audit trail is signed with {}; keep a copy of it elsewhere",
        audit.file.display()
    ))?;
    session.out.say(format!("whoever checks the trail needs its public key: {}", audit.vkey))?;
    session.out.say("")?;
    session.out.heading("What next")?;
    session.out.facts(&[
        ("dm doctor", "see whether everything is ready".to_owned()),
        ("dm backup run", "make the first backup".to_owned()),
    ])?;
    Ok(Exit::Done)
}

/// Writes a new file that only its owner may read; the URL in it may name hosts and users.
fn create(path: &Path, text: &str) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => Error::new(
            ErrorKind::AlreadyExists,
            "there is a configuration already, and it is never overwritten",
        )
        .about(path.display().to_string())
        .with_hint("edit it, or write another one: dm init --config other.toml"),
        _ => files::error(path, "the configuration cannot be written", e),
    })?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|e| files::error(path, "the configuration cannot be written", e))
}

/// The key that signs the audit trail, and one for the repository when asked for.
async fn make_keys(
    session: &mut Session,
    config: &Path,
    url: &str,
    encrypt: bool,
) -> Result<(AuditKey, Option<NewKey>)> {
    let passphrase = session.passphrase(None)?;
    let folder = config.parent().unwrap_or(Path::new("."));
    let given = session.global.config.replace(config.to_owned());
    let before = session.env.insert(VARIABLE.to_owned(), url.to_owned());
    let dm = session.manager(ResourceArgs::default(), (&[], None));
    session.global.config = given;
    match before {
        Some(before) => session.env.insert(VARIABLE.to_owned(), before),
        None => session.env.remove(VARIABLE),
    };
    let dm = dm?;
    let ctx = session.quiet_context(&dm);
    let made = async {
        let audit = dm.audit().key(&ctx).await?;
        let key = match encrypt {
            true => Some(dm.backup().new_key(&ctx, &folder.join("dm.key"), passphrase.as_ref()).await?),
            false => None,
        };
        Ok((audit, key))
    };
    let made = made.await;
    dm.close().await;
    made
}

/// The template with the key in force: the commented lines of `[repository]` that speak of keys are replaced.
fn encrypted(template: &str, key: &NewKey, with_passphrase: bool) -> Result<String> {
    let name = |path: &Path| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let mut lines = vec![
        ("recipients", format!("recipients = [\"{}\"]", key.recipient)),
        ("identity_files", format!("identity_files = [\"{}\"]", name(&key.path))),
        ("index_identity_file", format!("index_identity_file = \"{}\"", name(&key.index_path))),
    ];
    if with_passphrase {
        lines.push(("passphrase", format!("passphrase = \"${{{PASSPHRASE_VARIABLE}}}\"")));
    }
    let mut text = template.to_owned();
    for (setting, line) in lines {
        let start = format!("# {setting} = ");
        let commented = text.lines().find(|l| l.starts_with(&start)).map(str::to_owned);
        let Some(commented) = commented else {
            return Err(Error::internal(format!("the template has no line for {setting}")));
        };
        text = text.replacen(&commented, &line, 1);
    }
    Ok(text)
}
