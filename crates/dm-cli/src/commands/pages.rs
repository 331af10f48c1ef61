//! `dm completions` and `dm man`: from the same definitions as the help.

use std::path::Path;

use data_manager::{Error, Result};

use super::files;
use crate::args::{self, CompletionsArgs, ManArgs, Program, ProgramArg, TASKS};
use crate::exit::Exit;
use crate::session::Session;

pub(crate) fn completions(session: &mut Session, args: &CompletionsArgs) -> Result<Exit> {
    let program = match args.program {
        ProgramArg::Dm => Program::All,
        ProgramArg::DmBackup => Program::Task("backup"),
        ProgramArg::DmRestore => Program::Task("restore"),
        ProgramArg::DmLog => Program::Task("log"),
        ProgramArg::DmAudit => Program::Task("audit"),
    };
    let mut definition = args::definition(program);
    let name = definition.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut definition, name, &mut script);
    session.out.stdout().bytes(&script)?;
    Ok(Exit::Done)
}

pub(crate) fn man(session: &mut Session, args: &ManArgs) -> Result<Exit> {
    let Some(folder) = &args.out else {
        let mut page = Vec::new();
        clap_mangen::Man::new(args::definition(Program::All))
            .render(&mut page)
            .map_err(|e| Error::internal("the manual page cannot be made").with_source(e))?;
        session.out.stdout().bytes(&page)?;
        return Ok(Exit::Done);
    };
    let folder = session.folder.join(folder);
    let pages =
        write_pages(&folder).map_err(|e| files::error(&folder, "the manual pages cannot be written", e))?;
    session.out.document("man", &[("folder", &folder), ("pages", &pages)])?;
    session.out.say(format!("{} pages in {}", pages.len(), folder.display()))?;
    Ok(Exit::Done)
}

/// Every command's page; those of `dm backup` are those of `dm-backup` too.
fn write_pages(folder: &Path) -> std::io::Result<Vec<String>> {
    std::fs::create_dir_all(folder)?;
    clap_mangen::generate_to(args::definition(Program::All), folder)?;
    for (task, _) in TASKS {
        clap_mangen::generate_to(args::definition(Program::Task(task)), folder)?;
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".1") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
