//! `dm backup export`: what leaves the repository as files of its own.

use data_manager::backup::{ExportFormat, ExportedFile};
use data_manager::{BackupId, DataManager, Result};
use serde::Serialize;

use super::views::short;
use crate::args::{ExportArgs, FormatArg};
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
