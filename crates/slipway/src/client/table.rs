//! Tables without borders, as kubectl and crictl print them.

use std::fmt::Write;

use clap::builder::styling::{AnsiColor, Style};
use unicode_width::UnicodeWidthStr;

const GAP: usize = 3;

/// One field of a table.
pub(crate) struct Cell {
    text: String,
    colour: Option<AnsiColor>,
}

impl Cell {
    /// A field in a colour.
    pub(crate) fn coloured(text: impl AsRef<str>, colour: AnsiColor) -> Self {
        Self {
            text: printable(text.as_ref()),
            colour: Some(colour),
        }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self {
            text: printable(text.as_ref()),
            colour: None,
        }
    }
}

/// Names, labels and files come from whoever made the container or the node: none of them may steer
/// the terminal of whoever looks at it.
pub(crate) fn printable(text: &str) -> String {
    let shown = |letter: char| {
        if letter.is_control() {
            '\u{fffd}'
        } else {
            letter
        }
    };
    text.chars().map(shown).collect()
}

/// The same for text of several lines, with its tabs.
pub(crate) fn printable_lines(text: &str) -> String {
    let parts = text.split_inclusive(['\n', '\t']);
    let shown = parts.map(|part| match part.strip_suffix(['\n', '\t']) {
        Some(rest) => printable(rest) + &part[rest.len()..],
        None => printable(part),
    });
    shown.collect()
}

/// Rows under headings.
pub(crate) struct Table {
    headings: Vec<Cell>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(headings: [&str; N]) -> Self {
        Self {
            headings: headings.map(Cell::from).into(),
            rows: Vec::new(),
        }
    }

    /// Adds a row, which has a field for each heading.
    pub(crate) fn push<const N: usize>(&mut self, row: [Cell; N]) {
        debug_assert_eq!(N, self.headings.len());
        self.rows.push(row.into());
    }

    /// The table as lines of text. Nothing is cut; the last column is not padded.
    pub(crate) fn render(&self, colours: bool) -> String {
        let mut widths = vec![0; self.headings.len()];
        for row in std::iter::once(&self.headings).chain(&self.rows) {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.width());
            }
        }
        let mut text = String::new();
        for row in std::iter::once(&self.headings).chain(&self.rows) {
            let mut padding = 0;
            for (cell, width) in row.iter().zip(&widths) {
                if !cell.text.is_empty() {
                    let _ = write!(text, "{:padding$}", "");
                    padding = 0;
                    match cell.colour.filter(|_| colours) {
                        Some(colour) => {
                            let style = Style::new().fg_color(Some(colour.into()));
                            let _ = write!(text, "{style}{}{style:#}", cell.text);
                        }
                        None => text.push_str(&cell.text),
                    }
                }
                padding += width + GAP - cell.text.width();
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_by_what_a_terminal_shows() {
        let mut table = Table::new(["NAME", "STATE", "POD"]);
        table.push(["日本".into(), "Running".into(), "a".into()]);
        table.push(["x".into(), "".into(), "long name".into()]);
        table.push(["y".into(), "Exited".into(), "".into()]);
        assert_eq!(
            table.render(false),
            "NAME   STATE     POD\n日本   Running   a\nx                long name\ny      Exited\n"
        );
    }

    #[test]
    fn colours_take_no_width() {
        let mut table = Table::new(["STATE", "POD"]);
        table.push([Cell::coloured("Ready", AnsiColor::Green), "a".into()]);
        assert_eq!(
            table.render(true),
            "STATE   POD\n\u{1b}[32mReady\u{1b}[0m   a\n"
        );
        assert_eq!(table.render(false), "STATE   POD\nReady   a\n");
    }

    #[test]
    fn lines_keep_their_ends_and_tabs() {
        assert_eq!(
            printable_lines("a\tb\u{1b}[m\r\nc\n\n"),
            "a\tb\u{fffd}[m\u{fffd}\nc\n\n"
        );
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        let mut table = Table::new(["NAME"]);
        table.push(["a\u{1b}[2Jb\nc".into()]);
        assert_eq!(table.render(false), "NAME\na\u{fffd}[2Jb\u{fffd}c\n");
    }
}
