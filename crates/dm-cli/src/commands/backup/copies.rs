//! `dm backup export` and `dm backup key new`: what leaves the repository as files of its own.

use data_manager::backup::{ExportFormat, ExportedFile};
use data_manager::{BackupId, DataManager, NewKey, Result};
use serde::Serialize;

use super::views::short;
use crate::args::{ExportArgs, FormatArg, NewKeyArgs};
use crate::exit::Exit;
use crate::output::text;
use crate::session::Session;

/// The document `dm.export/1`.
#[derive(Serialize)]
struct Export<'a> {
    backup_id: BackupId,
    folder: String,
    bytes: u64,
    files: &'a [ExportedFile],
}

pub(super) async fn export(session: &mut Session, dm: &DataManager, args: ExportArgs) -> Result<Exit> {
    let folder = session.folder.join(&args.dir);
    let format = match args.format {
        FormatArg::Files => ExportFormat::Files,
        FormatArg::Basetar => ExportFormat::BaseTar,
    };
    let progress = session.progress();
    let ctx = session.context(dm, &progress);
    let report = dm.backup().export(&ctx, args.target.target.as_ref(), &args.backup, &folder, format).await?;
    drop(progress);
    let document = Export {
        backup_id: report.backup.id,
        folder: report.folder.display().to_string(),
        bytes: report.bytes,
        files: &report.files,
    };
    session.out.document("export", &[("run_id", &ctx.run_id()), ("export", &document)])?;
    session.out.say(format!(
        "{} of {}: {}, {} in {}",
        short(report.backup.id),
        report.backup.target,
        text::count(report.files.len() as u64, "file"),
        text::bytes(report.bytes),
        report.folder.display()
    ))?;
    session.out.say("the files are not encrypted")?;
    Ok(Exit::Done)
}

pub(super) async fn new_key(session: &mut Session, dm: &DataManager, args: NewKeyArgs) -> Result<Exit> {
    let passphrase = session.passphrase(args.passphrase_file.as_deref())?;
    let ctx = session.quiet_context(dm);
    let key = dm.backup().new_key(&ctx, &session.folder.join(&args.out), passphrase.as_ref()).await?;
    session.out.document("key", &[("key", &key)])?;
    tell_key(session, &key)?;
    session.out.say("")?;
    session.out.heading("For the configuration")?;
    session.out.say("  [repository]")?;
    session.out.say(format!("  recipients = [\"{}\"]", key.recipient))?;
    session.out.say(format!("  index_identity_file = \"{}\"", key.index_path.display()))?;
    session
        .out
        .say(format!("  identity_files = [\"{}\"]    # only where restores are made", key.path.display()))?;
    Ok(Exit::Done)
}

/// Where the key is, and what to do with it.
pub(crate) fn tell_key(session: &mut Session, key: &NewKey) -> Result<()> {
    let protected =
        if key.protected { "protected by the passphrase" } else { "not protected by a passphrase" };
    session.out.facts(&[
        ("secret key", format!("{} ({protected})", key.path.display())),
        ("index key", key.index_path.display().to_string()),
        ("public key", key.recipient.to_string()),
    ])?;
    session.out.say("Every restore needs the secret key: keep a copy of it where the database is not.")
}
