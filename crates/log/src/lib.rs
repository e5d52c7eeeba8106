//! Container logs in the format that CRI sets out, `<RFC 3339 time> stdout|stderr P|F <line>`, and
//! the files that they are appended to.
#![forbid(unsafe_code)]

mod file;
mod line;

pub use file::{Cut, append, open, open_existing};
pub use line::{Stream, Tag, write_line};
