//! The section `linux.seccomp` of the OCI runtime specification.

use serde::{Deserialize, Serialize};

use crate::architecture::Architecture;
use crate::error::{Error, Result};

/// What a container's system calls are answered with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Filter {
    /// For calls that no rule is about.
    pub default_action: Action,
    /// The error of a [default action](Self::default_action) that has one; `EPERM` where it is
    /// missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_errno_ret: Option<u32>,
    /// Whose system calls are filtered, beside the machine's own; those of others end the process.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub architectures: Vec<Architecture>,
    /// How the kernel is to install the filter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<Flag>,
    /// The rules. Where several are about a call, one without conditions decides, else the first
    /// whose conditions hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub syscalls: Vec<Rule>,
}

/// What some system calls are answered with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// The calls.
    pub names: Vec<String>,
    /// The answer.
    pub action: Action,
    /// The error of an action that has one; `EPERM` where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno_ret: Option<u32>,
    /// Conditions that must all hold; but where two are about the same argument, any of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Condition>,
}

/// A condition on one argument of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// The argument, from 0 to 5.
    pub index: u32,
    /// What it is compared with; the mask of [`Operator::MaskedEqual`].
    pub value: u64,
    /// What [`Operator::MaskedEqual`] compares with.
    #[serde(default)]
    pub value_two: u64,
    /// How it is compared.
    pub op: Operator,
}

/// A comparison of unsigned numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operator {
    /// Not equal.
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    /// Less.
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    /// Less or equal.
    #[serde(rename = "SCMP_CMP_LE")]
    LessOrEqual,
    /// Equal.
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    /// Greater or equal.
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterOrEqual,
    /// Greater.
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    /// The bits of a mask are equal.
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

/// What the kernel does with a call (seccomp(2), "Filter return values").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Kills the thread.
    #[serde(rename = "SCMP_ACT_KILL_THREAD", alias = "SCMP_ACT_KILL")]
    KillThread,
    /// Kills the process.
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    /// Sends `SIGSYS`.
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    /// Answers with an error.
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    /// Tells a listener.
    #[serde(rename = "SCMP_ACT_NOTIFY")]
    Notify,
    /// Tells a tracer, with the error's number as its message.
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    /// Carries it out and logs it.
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    /// Carries it out.
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
}

/// How a filter is installed (seccomp(2), `SECCOMP_SET_MODE_FILTER`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "they are called what the kernel calls them")]
pub enum Flag {
    #[serde(rename = "SECCOMP_FILTER_FLAG_TSYNC")]
    ThreadSync,
    #[serde(rename = "SECCOMP_FILTER_FLAG_LOG")]
    Log,
    #[serde(rename = "SECCOMP_FILTER_FLAG_SPEC_ALLOW")]
    SpecAllow,
    #[serde(rename = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV")]
    WaitKillableReceive,
}

const EPERM: u32 = 1;
const MAX_ERRNO: u32 = 4095;

impl Action {
    /// The kernel's number for it.
    pub(crate) fn answer(self, errno: Option<u32>) -> Result<u32> {
        let errno = errno.unwrap_or(EPERM);
        if errno > MAX_ERRNO {
            return Err(Error::Errno { errno });
        }
        Ok(match self {
            Self::KillThread => 0,
            Self::KillProcess => 0x8000_0000,
            Self::Trap => 0x0003_0000,
            Self::Errno => 0x0005_0000 | errno,
            Self::Notify => return Err(Error::Notify),
            Self::Trace => 0x7ff0_0000 | errno,
            Self::Log => 0x7ffc_0000,
            Self::Allow => 0x7fff_0000,
        })
    }

    /// Whether a call is, or may be, carried out.
    pub(crate) fn permits(self) -> bool {
        matches!(self, Self::Allow | Self::Log | Self::Trace)
    }
}
