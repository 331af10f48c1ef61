//! Asking before something is destroyed.

use std::io::BufRead;

use data_manager::{Error, ErrorKind, Result};

use crate::console::Console;
use crate::signals::Asking;

/// Who can be asked, and how.
pub(crate) struct Questions {
    pub(crate) input: Box<dyn BufRead + Send>,
    pub(crate) is_terminal: bool,
    pub(crate) console: Console,
    pub(crate) asking: Asking,
}

impl Questions {
    /// Asks a yes-or-no question. The plan was printed before.
    ///
    /// # Errors
    /// `ConfirmationNeeded` when there is nobody to ask, or the answer is no.
    pub(crate) fn confirm(&mut self, question: &str, yes: bool) -> Result<()> {
        if yes {
            return Ok(());
        }
        if !self.is_terminal {
            return Err(Error::new(
                ErrorKind::ConfirmationNeeded,
                format!("\"{question}\" needs an answer, and there is no terminal to ask on"),
            )
            .with_hint("read the plan, then add --yes; --dry-run prints only the plan"));
        }
        let answer = self.ask(&format!("{question} [y/N] "))?;
        if matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes") {
            return Ok(());
        }
        Err(Error::new(ErrorKind::ConfirmationNeeded, "not confirmed"))
    }

    /// Asks for a line of text.
    ///
    /// # Errors
    /// `ConfirmationNeeded` when the input ends.
    pub(crate) fn ask(&mut self, question: &str) -> Result<String> {
        self.console.prompt(question);
        let Self { input, asking, .. } = self;
        let mut line = String::new();
        let read = asking
            .during(|| input.read_line(&mut line))
            .map_err(|e| Error::new(ErrorKind::ConfirmationNeeded, "no answer can be read").with_source(e))?;
        if read == 0 {
            self.console.line("");
            return Err(Error::new(ErrorKind::ConfirmationNeeded, "the input ended before an answer"));
        }
        Ok(line.trim().to_owned())
    }
}
