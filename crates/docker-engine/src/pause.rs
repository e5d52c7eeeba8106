//! The program and the image of the container that holds a pod's namespaces.
//!
//! The program is written here in machine code, a hundred bytes of it, so that a node without a
//! registry can run pods, and without a compiler for each of its architectures. It blocks SIGCHLD,
//! SIGTERM and SIGINT and waits for them: it reaps what is orphaned where a pod shares its PID
//! namespace, and ends with code 0 on the other two.

use bytes::Bytes;
use slipway_engine::{Error, Result};

/// The built-in image. Its tag changes with its program.
pub(crate) const IMAGE: &str = "slipway/pause:1";

/// Where the program is in the image.
pub(crate) const PATH: &str = "/pause";

/// Where it is put in memory: as linkers do.
const ADDRESS: u64 = 0x40_0000;
/// The lengths of an ELF header and of one program header (elf(5)).
const HEADERS: u16 = 64 + 56;

/// x86-64, as objdump shows it.
const X86_64: &[u8] = &[
    0x68, 0x02, 0x40, 0x01, 0x00, // push 0x14002: SIGCHLD, SIGTERM, SIGINT
    0x31, 0xff, // xor edi,edi: SIG_BLOCK
    0x48, 0x89, 0xe6, // mov rsi,rsp
    0x31, 0xd2, // xor edx,edx
    0x6a, 0x08, // push 8
    0x41, 0x5a, // pop r10: the size of a set
    0xb8, 0x0e, 0x00, 0x00, 0x00, // mov eax,14
    0x0f, 0x05, // syscall: rt_sigprocmask
    // wait:
    0x48, 0x89, 0xe7, // mov rdi,rsp
    0x31, 0xf6, // xor esi,esi
    0x31, 0xd2, // xor edx,edx: for ever
    0xb8, 0x80, 0x00, 0x00, 0x00, // mov eax,128
    0x0f, 0x05, // syscall: rt_sigtimedwait
    0x83, 0xf8, 0x11, // cmp eax,17: SIGCHLD
    0x74, 0x0d, // je reap
    0x85, 0xc0, // test eax,eax
    0x78, 0xe9, // js wait: it was interrupted
    0x31, 0xff, // xor edi,edi
    0xb8, 0xe7, 0x00, 0x00, 0x00, // mov eax,231
    0x0f, 0x05, // syscall: exit_group
    // reap:
    0x6a, 0xff, // push -1
    0x5f, // pop rdi: any child
    0x31, 0xf6, // xor esi,esi
    0x6a, 0x01, // push 1
    0x5a, // pop rdx: WNOHANG
    0x41, 0x52, // push r10
    0x45, 0x31, 0xd2, // xor r10d,r10d
    0xb8, 0x3d, 0x00, 0x00, 0x00, // mov eax,61
    0x0f, 0x05, // syscall: wait4
    0x41, 0x5a, // pop r10
    0x85, 0xc0, // test eax,eax
    0x7f, 0xe6, // jg reap
    0xeb, 0xc4, // jmp wait
];

/// arm64.
const AARCH64: &[u32] = &[
    0xd288_0049, // mov x9, #0x4002
    0xf2a0_0029, // movk x9, #0x1, lsl #16: SIGCHLD, SIGTERM, SIGINT
    0xf81f_0fe9, // str x9, [sp, #-16]!
    0xd280_0000, // mov x0, #0: SIG_BLOCK
    0x9100_03e1, // mov x1, sp
    0xd280_0002, // mov x2, #0
    0xd280_0103, // mov x3, #8: the size of a set
    0xd280_10e8, // mov x8, #135
    0xd400_0001, // svc #0: rt_sigprocmask
    // wait:
    0x9100_03e0, // mov x0, sp
    0xd280_0001, // mov x1, #0
    0xd280_0002, // mov x2, #0: for ever
    0xd280_0103, // mov x3, #8
    0xd280_1128, // mov x8, #137
    0xd400_0001, // svc #0: rt_sigtimedwait
    0x7100_441f, // cmp w0, #17: SIGCHLD
    0x5400_00a0, // b.eq reap
    0x37ff_ff00, // tbnz w0, #31, wait: it was interrupted
    0xd280_0000, // mov x0, #0
    0xd280_0bc8, // mov x8, #94
    0xd400_0001, // svc #0: exit_group
    // reap:
    0x9280_0000, // mov x0, #-1: any child
    0xd280_0001, // mov x1, #0
    0xd280_0022, // mov x2, #1: WNOHANG
    0xd280_0003, // mov x3, #0
    0xd280_2088, // mov x8, #260
    0xd400_0001, // svc #0: wait4
    0x7100_001f, // cmp w0, #0
    0x54ff_ff2c, // b.gt reap
    0x17ff_ffec, // b wait
];

/// What the ELF header calls the two architectures (`e_machine`).
const EM_X86_64: u16 = 62;
const EM_AARCH64: u16 = 183;

/// The file system of the built-in image as a tar archive, for an architecture in Docker's words.
///
/// # Errors
///
/// [`slipway_engine::Kind::FailedPrecondition`] where there is no program for the architecture.
pub(crate) fn archive(architecture: &str) -> Result<Bytes> {
    let program = match architecture {
        "x86_64" | "amd64" => executable(EM_X86_64, X86_64),
        "aarch64" | "arm64" => {
            let code: Vec<u8> = AARCH64.iter().flat_map(|word| word.to_le_bytes()).collect();
            executable(EM_AARCH64, &code)
        }
        other => {
            return Err(Error::precondition(format!(
                "there is no built-in pause image for {other}; name one with \
                 engine.docker.pause_image"
            )));
        }
    };
    let mut header = tar::Header::new_ustar();
    header.set_size(program.len() as u64);
    header.set_mode(0o755);
    let mut archive = tar::Builder::new(Vec::new());
    archive
        .append_data(
            &mut header,
            PATH.trim_start_matches('/'),
            program.as_slice(),
        )
        .and_then(|()| archive.into_inner())
        .map(Bytes::from)
        .map_err(|error| Error::internal(format!("the pause image cannot be made: {error}")))
}

/// A static executable of nothing but code (elf(5)).
fn executable(machine: u16, code: &[u8]) -> Vec<u8> {
    let length = u64::from(HEADERS) + code.len() as u64;
    let mut file = Vec::new();
    // 64 bits, little-endian, version 1.
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    let half = |file: &mut Vec<u8>, values: &[u16]| {
        file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    };
    let word = |file: &mut Vec<u8>, values: &[u32]| {
        file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    };
    let long = |file: &mut Vec<u8>, values: &[u64]| {
        file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    };
    half(&mut file, &[2, machine]); // ET_EXEC
    word(&mut file, &[1]);
    // Entry, program headers, no section headers.
    long(&mut file, &[ADDRESS + u64::from(HEADERS), 64, 0]);
    word(&mut file, &[0]);
    half(&mut file, &[64, 56, 1, 64, 0, 0]);
    word(&mut file, &[1, 5]); // PT_LOAD, readable and executable
    long(&mut file, &[0, ADDRESS, ADDRESS, length, length, 0x1_0000]);
    file.extend(code);
    file
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::PermissionsExt as _;

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;

    fn program(architecture: &str) -> Vec<u8> {
        let archive = archive(architecture).unwrap();
        let mut archive = tar::Archive::new(archive.as_ref());
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.path_bytes().as_ref(), b"pause");
        let mut program = Vec::new();
        entry.read_to_end(&mut program).unwrap();
        program
    }

    #[test]
    fn it_runs_and_ends_with_success_when_it_is_asked_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pause");
        std::fs::write(&path, program(std::env::consts::ARCH)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = std::process::Command::new(&path).spawn().unwrap();
        let pid = Pid::from_child(&child);
        // Nothing that it waits for: it stays until it is told to end.
        kill_process(pid, Signal::CHILD).unwrap();
        assert_eq!(child.try_wait().unwrap(), None);
        kill_process(pid, Signal::TERM).unwrap();
        let status = child.wait().unwrap();
        // A signal that comes before it has blocked it ends it by itself.
        assert!(
            status.success() || std::os::unix::process::ExitStatusExt::signal(&status) == Some(15)
        );
    }

    #[test]
    fn every_architecture_has_a_whole_file_and_others_are_named() {
        for (architecture, machine) in [("amd64", 62), ("arm64", 183)] {
            let file = program(architecture);
            assert_eq!(&file[..4], b"\x7fELF");
            assert_eq!(file[18], machine);
            assert_eq!(
                file.len() as u64,
                u64::from_le_bytes(file[96..104].try_into().unwrap())
            );
        }
        let refused = archive("s390x").unwrap_err().to_string();
        assert!(
            refused.contains("s390x") && refused.contains("pause_image"),
            "{refused}"
        );
    }
}
