//! The bpf(2) system call, as far as it takes to guard a cgroup's devices.
//!
//! All `unsafe` of this crate is here.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::device_program::Instruction;

/// Commands of `enum bpf_cmd`.
const PROGRAM_LOAD: libc::c_int = 5;
const PROGRAM_ATTACH: libc::c_int = 8;
const PROGRAM_FD_BY_ID: libc::c_int = 13;
const OBJECT_INFO_BY_FD: libc::c_int = 15;
const PROGRAM_QUERY: libc::c_int = 16;

/// `BPF_PROG_TYPE_CGROUP_DEVICE`.
const TYPE_CGROUP_DEVICE: u32 = 15;
/// `BPF_CGROUP_DEVICE`.
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// `BPF_F_ALLOW_MULTI` and `BPF_F_REPLACE`.
const ALLOW_MULTI: u32 = 2;
const REPLACE: u32 = 4;
/// The most programs that the kernel attaches to one cgroup.
const MOST_PROGRAMS: usize = 64;

/// The name by which a program is known as this crate's, in the 16 bytes that the kernel keeps.
const NAME: &[u8; 16] = b"slipway_devices\0";
/// No helper is called, so the kernel does not ask for a particular one.
const LICENSE: &CStr = c"Apache-2.0";

/// Loads a program; the kernel's verifier has accepted it when this returns.
pub(crate) fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        program_type: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
    }
    let instruction_count = u32::try_from(program.len()).map_err(io::Error::other)?;
    let mut attributes = Attributes {
        program_type: TYPE_CGROUP_DEVICE,
        instruction_count,
        instructions: program.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: *NAME,
    };
    // SAFETY: `instructions` points to `instruction_count` of them and `license` to a string that
    // ends with a zero; both outlive the call, which only reads them. The command returns a new
    // descriptor.
    unsafe { descriptor(bpf(PROGRAM_LOAD, &mut attributes)?) }
}

/// Attaches a program to a cgroup's directory, beside those of others; `old` goes in the same
/// step.
pub(crate) fn attach(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    old: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        target: i32,
        program: i32,
        attach_type: u32,
        flags: u32,
        replaced: i32,
    }
    let mut attributes = Attributes {
        target: cgroup.as_raw_fd(),
        program: program.as_raw_fd(),
        attach_type: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI | if old.is_some() { REPLACE } else { 0 },
        replaced: old.map_or(0, |old| old.as_raw_fd()),
    };
    // SAFETY: the attributes hold no pointers, and the descriptors are borrowed for the call.
    unsafe { bpf(PROGRAM_ATTACH, &mut attributes) }.map(drop)
}

/// The program of this crate that is attached to a cgroup's directory itself, if there is one.
pub(crate) fn attached(cgroup: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    for id in attached_ids(cgroup)? {
        match program(id) {
            Ok(program) if &name(program.as_fd())? == NAME => return Ok(Some(program)),
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The numbers of all programs attached to a cgroup's directory itself.
pub(crate) fn attached_ids(cgroup: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    #[repr(C)]
    struct Attributes {
        target: i32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        padding: u32,
    }
    let mut ids = [0_u32; MOST_PROGRAMS];
    let mut attributes = Attributes {
        target: cgroup.as_raw_fd(),
        attach_type: ATTACH_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: 64,
        padding: 0,
    };
    // SAFETY: `ids` points to room for `count` numbers, which the kernel fills during the call.
    unsafe { bpf(PROGRAM_QUERY, &mut attributes)? };
    Ok(ids.into_iter().take(attributes.count as usize).collect())
}

/// A descriptor of the program with this number.
fn program(id: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        id: u32,
        next_id: u32,
        flags: u32,
    }
    let mut attributes = Attributes {
        id,
        next_id: 0,
        flags: 0,
    };
    // SAFETY: the attributes hold no pointers. The command returns a new descriptor.
    unsafe { descriptor(bpf(PROGRAM_FD_BY_ID, &mut attributes)?) }
}

/// The name under which a program was loaded.
fn name(program: BorrowedFd<'_>) -> io::Result<[u8; 16]> {
    /// The beginning of `struct bpf_prog_info`, up to and including its name.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        before: [u64; 8],
        name: [u8; 16],
    }
    #[repr(C)]
    struct Attributes {
        program: i32,
        length: u32,
        info: u64,
    }
    let mut info = Info::default();
    let mut attributes = Attributes {
        program: program.as_raw_fd(),
        length: 80,
        info: (&raw mut info) as u64,
    };
    // SAFETY: `info` points to `length` bytes, zeroed, so that the kernel finds no request for
    // further data in them; it fills them during the call.
    unsafe { bpf(OBJECT_INFO_BY_FD, &mut attributes)? };
    Ok(info.name)
}

/// bpf(2). The kernel breaks the verification off with `EAGAIN` when a signal arrives; it is begun
/// again a few times, as libbpf does.
///
/// # Safety
///
/// `attributes` must be the member of `union bpf_attr` that belongs to `command`, or a beginning of
/// it, and the pointers in it must be good for what the command does with them.
unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_long> {
    let mut tries = 5;
    loop {
        // SAFETY: the caller vouches for the attributes, whose size goes with them.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
        let error = match result {
            0.. => return Ok(result),
            _ => io::Error::last_os_error(),
        };
        tries -= 1;
        if error.raw_os_error() != Some(libc::EAGAIN) || tries == 0 {
            return Err(error);
        }
    }
}

/// Takes what a command returned into possession.
///
/// # Safety
///
/// `result` must be a new descriptor that nothing else owns.
unsafe fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    let number = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the caller vouches for it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
