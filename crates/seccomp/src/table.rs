//! The numbers of system calls.

use std::sync::LazyLock;

use syscalls::{aarch64, arm, riscv64, x86, x86_64};

use crate::architecture::Architecture;

/// What x32 adds to its numbers, which are otherwise those of x86_64 (`__X32_SYSCALL_BIT`).
pub(crate) const X32_BIT: u32 = 0x4000_0000;

/// The system calls of one architecture.
#[derive(Debug)]
pub(crate) struct Table {
    /// `AUDIT_ARCH_*`, as the kernel tells it to a filter.
    pub(crate) audit: u32,
    /// Whether arguments have 64 bits.
    pub(crate) wide: bool,
    /// In the order of the names.
    by_name: Vec<(&'static str, u32)>,
    /// In their own order.
    numbers: Vec<u32>,
}

impl Table {
    /// The table of an architecture, if there is one.
    pub(crate) fn of(architecture: Architecture) -> Option<&'static Self> {
        static X86_64: LazyLock<Table> =
            LazyLock::new(|| Table::new(0xc000_003e, true, x86_64_calls()));
        static X32: LazyLock<Table> = LazyLock::new(|| Table::new(0xc000_003e, true, x32_calls()));
        static X86: LazyLock<Table> = LazyLock::new(|| Table::new(0x4000_0003, false, x86_calls()));
        static AARCH64: LazyLock<Table> =
            LazyLock::new(|| Table::new(0xc000_00b7, true, aarch64_calls()));
        static ARM: LazyLock<Table> = LazyLock::new(|| Table::new(0x4000_0028, false, arm_calls()));
        static RISCV64: LazyLock<Table> =
            LazyLock::new(|| Table::new(0xc000_00f3, true, riscv64_calls()));
        Some(match architecture {
            Architecture::X86_64 => &X86_64,
            Architecture::X32 => &X32,
            Architecture::X86 => &X86,
            Architecture::Aarch64 => &AARCH64,
            Architecture::Arm => &ARM,
            Architecture::Riscv64 => &RISCV64,
            _ => return None,
        })
    }

    fn new(audit: u32, wide: bool, mut by_name: Vec<(&'static str, u32)>) -> Self {
        by_name.sort_unstable();
        let mut numbers: Vec<u32> = by_name.iter().map(|(_, number)| *number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        Self {
            audit,
            wide,
            by_name,
            numbers,
        }
    }

    /// The number of a call by its name.
    pub(crate) fn number(&self, name: &str) -> Option<u32> {
        let place = self
            .by_name
            .binary_search_by_key(&name, |(name, _)| name)
            .ok()?;
        Some(self.by_name[place].1)
    }

    /// All numbers that calls have, ascending.
    pub(crate) fn numbers(&self) -> &[u32] {
        &self.numbers
    }
}

macro_rules! calls {
    ($name:ident, $table:ident) => {
        fn $name() -> Vec<(&'static str, u32)> {
            (0..=$table::Sysno::last().id())
                .filter_map(|number| {
                    let number = u32::try_from(number).ok()?;
                    let call = $table::Sysno::new(usize::try_from(number).ok()?)?;
                    Some((call.name(), number))
                })
                .collect()
        }
    };
}

calls!(x86_64_calls, x86_64);
calls!(x86_calls, x86);
calls!(aarch64_calls, aarch64);
calls!(riscv64_calls, riscv64);
calls!(common_arm_calls, arm);

/// Beside the common ones, those that only ARM's kernel has (`arch/arm/include/uapi/asm/unistd.h`)
/// and the names that profiles use for others.
fn arm_calls() -> Vec<(&'static str, u32)> {
    const PRIVATE: &[(&str, u32)] = &[
        ("breakpoint", 0x000f_0001),
        ("cacheflush", 0x000f_0002),
        ("usr26", 0x000f_0003),
        ("usr32", 0x000f_0004),
        ("set_tls", 0x000f_0005),
        ("arm_fadvise64_64", 270),
        ("arm_sync_file_range", 341),
        ("sync_file_range2", 341),
    ];
    let mut calls = common_arm_calls();
    for call in PRIVATE {
        if !calls.contains(call) {
            calls.push(*call);
        }
    }
    calls
}

/// Those of x86_64, but for the ones whose structures have other sizes
/// (`arch/x86/entry/syscalls/syscall_64.tbl`, ABI "x32").
fn x32_calls() -> Vec<(&'static str, u32)> {
    const OWN_FROM: u32 = 512;
    const OWN: &[&str] = &[
        "rt_sigaction",
        "rt_sigreturn",
        "ioctl",
        "readv",
        "writev",
        "recvfrom",
        "sendmsg",
        "recvmsg",
        "execve",
        "ptrace",
        "rt_sigpending",
        "rt_sigtimedwait",
        "rt_sigqueueinfo",
        "sigaltstack",
        "timer_create",
        "mq_notify",
        "kexec_load",
        "waitid",
        "set_robust_list",
        "get_robust_list",
        "vmsplice",
        "move_pages",
        "preadv",
        "pwritev",
        "rt_tgsigqueueinfo",
        "recvmmsg",
        "sendmmsg",
        "process_vm_readv",
        "process_vm_writev",
        "setsockopt",
        "getsockopt",
        "io_setup",
        "io_submit",
        "execveat",
        "preadv2",
        "pwritev2",
    ];
    let own = OWN.iter().copied().zip(OWN_FROM..);
    let common = x86_64_calls()
        .into_iter()
        .filter(|(name, _)| !OWN.contains(name));
    common
        .chain(own)
        .map(|(name, number)| (name, number | X32_BIT))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernel() {
        let number = |architecture, name| Table::of(architecture).unwrap().number(name);
        assert_eq!(number(Architecture::X86_64, "read"), Some(0));
        assert_eq!(number(Architecture::X86_64, "file_setattr"), Some(469));
        assert_eq!(number(Architecture::X86_64, "uretprobe"), Some(335));
        assert_eq!(number(Architecture::X86_64, "waitpid"), None);
        assert_eq!(number(Architecture::X86, "waitpid"), Some(7));
        assert_eq!(number(Architecture::X86, "clone"), Some(120));
        assert_eq!(number(Architecture::X32, "read"), Some(X32_BIT));
        assert_eq!(number(Architecture::X32, "execve"), Some(X32_BIT + 520));
        assert_eq!(number(Architecture::X32, "pwritev2"), Some(X32_BIT + 547));
        assert_eq!(number(Architecture::Aarch64, "openat"), Some(56));
        assert_eq!(number(Architecture::Arm, "set_tls"), Some(0x000f_0005));
        assert_eq!(number(Architecture::Riscv64, "riscv_hwprobe"), Some(258));
        assert_eq!(number(Architecture::X86_64, "no_such_call"), None);
    }
}
