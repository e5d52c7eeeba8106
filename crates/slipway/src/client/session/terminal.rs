//! The terminal that this client was started on.

use std::io::IsTerminal;

use anyhow::Context;
use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Whether standard input is a terminal.
pub(super) fn is_input() -> bool {
    std::io::stdin().is_terminal()
}

/// Columns and rows of the terminal; none where there is none.
pub(super) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(stdout()).or_else(|_| tcgetwinsize(stdin()));
    size.ok()
        .map(|size| (size.ws_col, size.ws_row))
        .filter(|(width, height)| *width > 0 && *height > 0)
}

/// A terminal that passes on every key as it is typed. Dropping it gives back what it was.
pub(super) struct RawMode {
    before: Termios,
}

impl RawMode {
    pub(super) fn enter() -> anyhow::Result<Self> {
        let before = tcgetattr(stdin()).context("look at the terminal")?;
        let mut raw = before.clone();
        raw.make_raw();
        // A panic ends the process without dropping anything.
        let (hook, kept) = (std::panic::take_hook(), before.clone());
        std::panic::set_hook(Box::new(move |panic| {
            restore(&kept);
            hook(panic);
        }));
        let mode = Self { before };
        tcsetattr(stdin(), OptionalActions::Drain, &raw)
            .context("put the terminal into raw mode")?;
        Ok(mode)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore(&self.before);
    }
}

fn restore(before: &Termios) {
    // A terminal that has gone needs nothing.
    let _ = tcsetattr(stdin(), OptionalActions::Drain, before);
}
