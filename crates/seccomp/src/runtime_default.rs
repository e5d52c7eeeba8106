//! The profile that containers get which ask for the runtime's default: what ordinary programs
//! need, and with a capability what that is for.
//!
//! It allows what the other runtimes' default allows, so that a pod can move to this one. Not in it
//! are calls that reach beyond a container (kernel modules, the clock, other namespaces, keyrings,
//! which are not divided by namespaces), those with a history of holes (`io_uring_*`, `bpf`,
//! `userfaultfd`, `perf_event_open`, sockets of `AF_VSOCK` and `AF_ALG`), and obsolete ones.

use std::sync::LazyLock;

use crate::architecture::Architecture;
use crate::filter::{Action, Condition, Operator};
use crate::profile::{ArchitectureFamily, Circumstances, KernelVersion, Profile, ProfileRule};

/// Allowed to everybody.
const ALWAYS: &[&str] = &[
    // Files by path.
    "access chdir chmod chown chown32 creat faccessat faccessat2 fchmodat fchmodat2 \
     fchownat fstatat64 futimesat getcwd lchown lchown32 link linkat listmount lstat \
     lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 \
     readlink readlinkat rename renameat renameat2 rmdir stat stat64 statfs statfs64 \
     statmount statx symlink symlinkat truncate truncate64 umask unlink unlinkat utime \
     utimensat utimensat_time64 utimes",
    // Extended attributes.
    "fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr \
     listxattrat llistxattr lremovexattr lsetxattr removexattr removexattrat setxattr \
     setxattrat",
    // Open files.
    "_llseek cachestat close close_range copy_file_range dup dup2 dup3 fadvise64 \
     fadvise64_64 fallocate fchdir fchmod fchown fchown32 fcntl fcntl64 fdatasync flock \
     fstat fstat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 getdents getdents64 ioctl \
     lseek pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readv \
     sendfile sendfile64 splice sync sync_file_range syncfs tee vmsplice write writev",
    // Waiting for files.
    "_newselect epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 \
     epoll_wait epoll_wait_old eventfd eventfd2 fanotify_mark inotify_add_watch \
     inotify_init inotify_init1 inotify_rm_watch poll ppoll ppoll_time64 pselect6 \
     pselect6_time64 select",
    // Asynchronous input and output.
    "io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup \
     io_submit ioprio_get ioprio_set",
    // Memory.
    "brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 \
     mlockall mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc \
     pkey_free pkey_mprotect remap_file_pages",
    // Processes and threads.
    "execve execveat exit exit_group fork futex futex_requeue futex_time64 futex_wait \
     futex_waitv futex_wake get_robust_list get_thread_area getcpu getpgid getpgrp getpid \
     getppid getsid gettid kill pidfd_open pidfd_send_signal prctl process_mrelease \
     restart_syscall rseq set_robust_list set_thread_area set_tid_address setpgid setsid \
     tgkill tkill uretprobe vfork wait4 waitid waitpid",
    // Signals.
    "pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn \
     rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack \
     signalfd signalfd4 sigprocmask sigreturn",
    // Scheduling and limits.
    "getpriority getrlimit getrusage prlimit64 sched_get_priority_max \
     sched_get_priority_min sched_getaffinity sched_getattr sched_getparam \
     sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 \
     sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield \
     setpriority setrlimit ugetrlimit",
    // Users, groups and capabilities.
    "capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups \
     getgroups32 getresgid getresgid32 getresuid getresuid32 getuid getuid32 setfsgid \
     setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setregid \
     setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setuid \
     setuid32",
    // Time.
    "adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 \
     clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 getitimer \
     gettimeofday nanosleep setitimer time timer_create timer_delete timer_getoverrun \
     timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create \
     timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times",
    // Sockets; `socket` itself has conditions.
    "accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom \
     recvmmsg recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown \
     socketcall socketpair",
    // System V and POSIX inter-process communication.
    "ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 \
     mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget \
     semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget",
    // What a program may take from itself.
    "landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp",
    // The system.
    "getrandom riscv_hwprobe sysinfo uname",
];

/// Allowed on machines of these architectures only.
const OF_ARCHITECTURES: &[(&[&str], &str)] = &[
    (
        &["arm", "arm64"],
        "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
    ),
    (&["amd64", "x32"], "arch_prctl"),
    (&["amd64", "x32", "x86"], "modify_ldt"),
    (&["riscv64"], "riscv_flush_icache"),
];

/// Allowed with a capability.
const WITH_CAPABILITY: &[(&str, &str)] = &[
    ("CAP_BPF", "bpf"),
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    ("CAP_PERFMON", "perf_event_open"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie \
         lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount \
         open_tree open_tree_attr perf_event_open quotactl quotactl_fd setdomainname sethostname \
         setns syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module finit_module init_module"),
    (
        "CAP_SYS_NICE",
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    ("CAP_SYS_PACCT", "acct"),
    (
        "CAP_SYS_PTRACE",
        "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    ),
    ("CAP_SYS_RAWIO", "ioperm iopl"),
    (
        "CAP_SYS_TIME",
        "clock_settime clock_settime64 settimeofday stime",
    ),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYSLOG", "syslog"),
];

/// Tracing could be used to get around a filter before (seccomp(2), "CAVEATS").
const TRACING: &str = "process_vm_readv process_vm_writev ptrace";
const TRACING_SINCE: KernelVersion = KernelVersion { major: 4, minor: 8 };

const SYS_ADMIN: &str = "CAP_SYS_ADMIN";

/// `CLONE_NEWNS`, `NEWCGROUP`, `NEWUTS`, `NEWIPC`, `NEWUSER`, `NEWPID` and `NEWNET`.
const NEW_NAMESPACES: u64 = 0x7e02_0000;

/// personality(2): Linux, with `UNAME26` or without, `PER_LINUX32` or not, and the question.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// `AF_ALG` and `AF_VSOCK`, and the one family between them.
const AF_ALG: u64 = 38;
const AF_KCM: u64 = 39;
const AF_VSOCK: u64 = 40;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

impl Profile {
    /// The profile of containers that ask for the runtime's default.
    pub fn runtime_default() -> &'static Self {
        static PROFILE: LazyLock<Profile> = LazyLock::new(build);
        &PROFILE
    }
}

fn build() -> Profile {
    let mut syscalls: Vec<ProfileRule> = ALWAYS.iter().map(|names| allow(names)).collect();
    syscalls.push(ProfileRule {
        includes: Some(Circumstances {
            min_kernel: Some(TRACING_SINCE),
            ..Circumstances::default()
        }),
        ..allow(TRACING)
    });
    for (operator, family) in [
        (Operator::Less, AF_ALG),
        (Operator::Equal, AF_KCM),
        (Operator::Greater, AF_VSOCK),
    ] {
        syscalls.push(allow_where("socket", operator, family, 0));
    }
    for personality in PERSONALITIES {
        syscalls.push(allow_where("personality", Operator::Equal, personality, 0));
    }
    for (architectures, names) in OF_ARCHITECTURES {
        let arches = architectures.iter().map(|&name| name.to_owned()).collect();
        syscalls.push(ProfileRule {
            includes: Some(Circumstances {
                arches,
                ..Circumstances::default()
            }),
            ..allow(names)
        });
    }
    for (capability, names) in WITH_CAPABILITY {
        syscalls.push(ProfileRule {
            includes: Some(with_capability(capability)),
            ..allow(names)
        });
    }
    syscalls.push(ProfileRule {
        excludes: Some(with_capability(SYS_ADMIN)),
        ..allow_where("clone", Operator::MaskedEqual, NEW_NAMESPACES, 0)
    });
    // Its flags lie in memory, where a filter cannot look: programs fall back to clone.
    syscalls.push(ProfileRule {
        action: Action::Errno,
        errno_ret: Some(ENOSYS),
        excludes: Some(with_capability(SYS_ADMIN)),
        ..allow("clone3")
    });
    let family = |architecture: Architecture| ArchitectureFamily {
        architecture,
        sub_architectures: architecture.narrower().to_vec(),
    };
    Profile {
        default_action: Action::Errno,
        default_errno_ret: Some(EPERM),
        architectures: Vec::new(),
        arch_map: [
            Architecture::X86_64,
            Architecture::Aarch64,
            Architecture::Riscv64,
        ]
        .map(family)
        .to_vec(),
        flags: Vec::new(),
        syscalls,
    }
}

fn allow(names: &str) -> ProfileRule {
    ProfileRule {
        name: String::new(),
        names: names.split_ascii_whitespace().map(str::to_owned).collect(),
        action: Action::Allow,
        errno_ret: None,
        args: Vec::new(),
        includes: None,
        excludes: None,
    }
}

fn allow_where(name: &str, op: Operator, value: u64, value_two: u64) -> ProfileRule {
    ProfileRule {
        args: vec![Condition {
            index: 0,
            value,
            value_two,
            op,
        }],
        ..allow(name)
    }
}

fn with_capability(name: &str) -> Circumstances {
    Circumstances {
        caps: vec![name.to_owned()],
        ..Circumstances::default()
    }
}
