//! What can be wrong with a profile.

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no JSON, or not a profile; the source has the line and column.
    #[error("it is not a seccomp profile: {0}")]
    Syntax(#[from] serde_json::Error),
    /// `architectures` and `archMap` are both there.
    #[error("it has both architectures and archMap; a profile has one of them")]
    ArchitecturesTwice,
    /// A rule says neither `name` nor `names`, or both.
    #[error("rule {rule} of syscalls (counted from 1) must have either name or names")]
    Names {
        /// The rule, counted from 1.
        rule: usize,
    },
    /// A condition looks at an argument that system calls do not have.
    #[error("a rule for {syscall} looks at argument {index}; system calls have 0 to 5")]
    Argument {
        /// The system call.
        syscall: String,
        /// The argument.
        index: u32,
    },
    /// An error number that the kernel cannot answer with.
    #[error("errnoRet {errno} is no error number (0 to 4095)")]
    Errno {
        /// The number.
        errno: u32,
    },
    /// An action for which there would have to be a listener.
    #[error(
        "it uses SCMP_ACT_NOTIFY, for which a program has to listen; slipway starts containers \
         without one"
    )]
    Notify,
    /// The kernel takes no program this long.
    #[error("it makes {length} instructions; the kernel takes 4096")]
    Length {
        /// What there would be, in instructions.
        length: usize,
    },
    /// The machine has no table of system calls here.
    #[error("slipway knows no system calls of this machine")]
    Machine,
}

/// A result with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;
