//! Tables of plain text: columns aligned, numbers to the right, nothing a terminal could mistake for a command.

use super::text::printable;

/// A table under construction.
pub(crate) struct Table {
    head: Vec<String>,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
    indent: usize,
}

impl Table {
    /// A table with these columns; a name that begins with `>` is aligned to the right.
    pub(crate) fn new<S: AsRef<str>>(columns: impl IntoIterator<Item = S>) -> Self {
        let columns: Vec<S> = columns.into_iter().collect();
        let right = columns.iter().map(|c| c.as_ref().starts_with('>')).collect();
        let head = columns.iter().map(|c| printable(c.as_ref().trim_start_matches('>'))).collect();
        Self { head, right, rows: Vec::new(), indent: 0 }
    }

    /// The same without a head, moved to the right.
    pub(crate) fn indented(mut self, by: usize) -> Self {
        self.indent = by;
        self
    }

    /// Adds a row.
    pub(crate) fn row<S: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(|c| printable(c.as_ref())).collect());
    }

    /// Whether nothing stands in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether the first line is a head.
    pub(crate) fn has_head(&self) -> bool {
        self.head.iter().any(|name| !name.is_empty())
    }

    /// The lines, without ends.
    pub(crate) fn lines(&self) -> Vec<String> {
        let heads = self.has_head().then_some(&self.head);
        let all: Vec<&Vec<String>> = heads.into_iter().chain(&self.rows).collect();
        let columns = all.iter().map(|row| row.len()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|i| all.iter().filter_map(|row| row.get(i)).map(|c| c.chars().count()).max().unwrap_or(0))
            .collect();
        all.iter().map(|row| self.line(row, &widths)).collect()
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let mut line = " ".repeat(self.indent);
        for (i, (cell, width)) in row.iter().zip(widths).enumerate() {
            if i > 0 {
                line.push_str("  ");
            }
            if self.right.get(i).copied().unwrap_or(false) {
                line.push_str(&format!("{cell:>width$}"));
            } else {
                line.push_str(&format!("{cell:width$}"));
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_escapes_do_not_get_through() {
        let mut table = Table::new(["name", ">bytes"]);
        table.row(["é", "1"]);
        table.row(["long\u{1b}[2J", "1000"]);
        assert_eq!(table.lines(), ["name           bytes", "é                  1", "long\\u{1b}[2J   1000"]);
    }
}
