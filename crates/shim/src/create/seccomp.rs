//! The filter over a process's system calls (seccomp(2)).
//!
//! Compiling one takes tables and time, which this small program has not: whoever writes
//! `config.json` writes the compiled program beside it.

use std::fs;
use std::path::Path;

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::config::{Seccomp, Spec};
use crate::failure::{Explain, Outcome};
use crate::protocol::{Failure, SECCOMP_PROGRAM};
use crate::syscall;

/// The size of `struct sock_filter`, in bytes.
const INSTRUCTION: usize = 8;

/// A filter to be loaded.
#[derive(Debug)]
pub(crate) struct Filter {
    program: Vec<libc::sock_filter>,
    flags: libc::c_ulong,
}

impl Filter {
    /// Reads the filter of a bundle; none where its configuration has none.
    pub(crate) fn read(spec: &Spec, bundle: &Path) -> Outcome<Option<Self>> {
        let Some(seccomp) = &spec.linux.seccomp else {
            return Ok(None);
        };
        let path = bundle.join(SECCOMP_PROGRAM);
        let doing = || {
            format!(
                "read {}, the compiled linux.seccomp of config.json",
                path.display()
            )
        };
        let bytes = fs::read(&path).invalid(doing)?;
        let program = parse(&bytes)
            .ok_or_else(|| Failure::invalid(format!("{}: it is no program", doing())))?;
        let flags = flags(seccomp)?;
        Ok(Some(Self { program, flags }))
    }

    fn load(&self) -> Outcome<()> {
        syscall::set_seccomp_filter(&self.program, self.flags).map_err(|error| {
            let reason = match error {
                Errno::ACCESS => {
                    "it takes CAP_SYS_ADMIN, which slipway has not, or no_new_privs".to_owned()
                }
                Errno::INVAL => "the kernel knows no such filter, or none of its flags".to_owned(),
                other => other.to_string(),
            };
            Failure::system(format!("load the seccomp filter: {reason}"))
        })
    }
}

fn parse(bytes: &[u8]) -> Option<Vec<libc::sock_filter>> {
    let instructions = bytes.chunks_exact(INSTRUCTION);
    if bytes.is_empty() || !instructions.remainder().is_empty() {
        return None;
    }
    let instruction = |bytes: &[u8]| {
        Some(libc::sock_filter {
            code: u16::from_ne_bytes(bytes[..2].try_into().ok()?),
            jt: bytes[2],
            jf: bytes[3],
            k: u32::from_ne_bytes(bytes[4..].try_into().ok()?),
        })
    };
    instructions.map(instruction).collect()
}

fn flags(seccomp: &Seccomp) -> Outcome<libc::c_ulong> {
    let flag = |name: &String| match name.as_str() {
        // The process has one thread.
        "SECCOMP_FILTER_FLAG_TSYNC" => Ok(0),
        "SECCOMP_FILTER_FLAG_LOG" => Ok(libc::SECCOMP_FILTER_FLAG_LOG),
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Ok(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW),
        _ => Err(Failure::invalid(format!(
            "linux.seccomp.flags has {name}, which is not supported"
        ))),
    };
    let mut each = seccomp.flags.iter().map(flag);
    each.try_fold(0, |flags, flag| Ok(flags | flag?))
}

/// A filter, and what has to be done around loading it. It is loaded as the last thing before
/// execve(2), so that it need not allow what slipway does before.
#[derive(Debug)]
pub(crate) enum Armed {
    /// Nothing is filtered.
    Unfiltered,
    /// Anybody who can gain no privileges may load a filter.
    WithoutNewPrivileges(Filter),
    /// Others need `CAP_SYS_ADMIN` for it, which is kept until then; afterwards they have only
    /// what they are to have.
    AsAdministrator(Filter, CapabilitySets),
}

impl Armed {
    /// Loads the filter, if there is one.
    pub(super) fn load(&self) -> Outcome<()> {
        match self {
            Self::Unfiltered => Ok(()),
            Self::WithoutNewPrivileges(filter) => filter.load(),
            Self::AsAdministrator(filter, afterwards) => {
                let doing = || "set the capabilities around loading the seccomp filter";
                let mut now = rustix::thread::capabilities(None).system(doing)?;
                now.effective |= now.permitted & CapabilitySet::SYS_ADMIN;
                rustix::thread::set_capabilities(None, now).system(doing)?;
                filter.load()?;
                rustix::thread::set_capabilities(None, *afterwards).system(doing)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_whole_instructions() {
        let mut bytes = 0x0006_u16.to_ne_bytes().to_vec();
        bytes.extend([1, 2]);
        bytes.extend(0x7fff_0000_u32.to_ne_bytes());
        let program = parse(&bytes).unwrap();
        assert_eq!(program.len(), 1);
        assert_eq!(
            (program[0].code, program[0].jt, program[0].jf, program[0].k),
            (6, 1, 2, 0x7fff_0000)
        );
        assert!(parse(&[]).is_none());
        assert!(parse(&bytes[..7]).is_none());
    }

    #[test]
    fn flags_are_known_or_refused() {
        let of = |names: &[&str]| {
            flags(&Seccomp {
                flags: names.iter().map(|&name| name.to_owned()).collect(),
            })
        };
        assert_eq!(of(&[]).unwrap(), 0);
        assert_eq!(
            of(&["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"]).unwrap(),
            libc::SECCOMP_FILTER_FLAG_LOG
        );
        assert!(of(&["SECCOMP_FILTER_FLAG_NEW"]).is_err());
    }
}
