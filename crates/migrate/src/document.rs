//! The files of a node, read with positions.
//!
//! All readers work on a [`Source`], which keeps the bytes of its file. What they return has
//! ranges of those bytes: evidence names their line, and an edit ([`Source::edited`]) replaces a
//! range and leaves all other bytes as they were.

mod decoded;
mod env;
mod json;
mod source;
mod toml;
mod tree;
mod unit;
mod yaml;

pub use decoded::{Decoded, Word};
pub use env::{Assignment, EnvFile};
pub use source::{Edit, Malformed, Place, Source};
pub use tree::{Entry, Node, Value};
pub use unit::{Setting, UnitFile};

/// The formats that are read as a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON value (RFC 8259).
    Json,
    /// YAML 1.2 documents.
    Yaml,
    /// TOML 1.
    Toml,
}

/// Reads a file as trees: one for each document, which only YAML has more than one of.
///
/// # Errors
///
/// The first place where the file is not what its format allows.
pub fn read(source: &Source, format: Format) -> Result<Vec<Node>, Malformed> {
    match format {
        Format::Json => json::read(source).map(|node| vec![node]),
        Format::Yaml => yaml::read(source),
        Format::Toml => toml::read(source).map(|node| vec![node]),
    }
}
