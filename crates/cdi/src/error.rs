use std::path::PathBuf;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name that no device can have.
    #[error("{name:?} is not the name of a CDI device (vendor.com/class=device): {problem}")]
    Name {
        /// The name as it was given.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A device that the specification files do not have, or have twice.
    #[error("the CDI device {name} cannot be found: {problem}")]
    Unresolvable {
        /// The device's name.
        name: String,
        /// What was found, where.
        problem: String,
    },
    /// A device that the node does not have as its specification file says.
    #[error("the CDI device {name} of {} cannot be used on this node: {problem}", file.display())]
    Unusable {
        /// The device's name.
        name: String,
        /// The file that the edit is from.
        file: PathBuf,
        /// What is asked and what was found.
        problem: String,
    },
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
