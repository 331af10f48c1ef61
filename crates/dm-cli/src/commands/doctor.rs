//! `dm doctor`.

use data_manager::{DataManager, DoctorReport, Level, Result};

use crate::exit::Exit;
use crate::output::{Table, text};
use crate::session::Session;

pub(crate) async fn run(session: &mut Session, dm: &DataManager) -> Result<Exit> {
    let progress = session.progress();
    let ctx = session.context(dm, &progress);
    let report = dm.doctor(&ctx).await?;
    drop(progress);
    let file = dm.config().file.as_ref().map(|f| f.display().to_string());
    session.out.document(
        "doctor",
        &[
            ("ok", &(report.worst() < Level::Error)),
            ("worst", &report.worst()),
            ("config_file", &file),
            ("profile", &dm.config().profile),
            ("sections", &report.sections),
            ("settings", &report.settings),
        ],
    )?;
    let from = file.unwrap_or_else(|| "no file; the environment and the defaults".to_owned());
    let profile = dm.config().profile.clone().unwrap_or_else(|| "none".to_owned());
    session.out.facts(&[("configuration", from), ("profile", profile)])?;
    tell(session, &report)?;
    Ok(if report.worst() >= Level::Error { Exit::CheckFailed } else { Exit::Done })
}

fn tell(session: &mut Session, report: &DoctorReport) -> Result<()> {
    for section in &report.sections {
        session.out.say("")?;
        session.out.heading(&text::printable(&section.name))?;
        session.out.findings(&section.findings)?;
    }
    session.out.say("")?;
    if session.global.verbose > 0 {
        session.out.heading("settings")?;
        let mut table = Table::new(["setting", "value", "from"]).indented(2);
        for setting in &report.settings {
            table.row([setting.key.clone(), setting.value.clone(), setting.source.to_string()]);
        }
        session.out.table(&table)?;
        session.out.say("")?;
    }
    let count =
        |level| report.sections.iter().flat_map(|s| &s.findings).filter(|f| f.level == level).count() as u64;
    let (errors, warnings) = (count(Level::Error), count(Level::Warning));
    session.out.heading(&match (errors, warnings) {
        (0, 0) => "everything is ready".to_owned(),
        (0, n) => format!("ready, with {}", text::count(n, "warning")),
        (n, 0) => format!("{} to mend", text::count(n, "error")),
        (n, m) => format!("{} and {} to mend", text::count(n, "error"), text::count(m, "warning")),
    })
}
