//! The program that guards the devices of a v2 cgroup, in eBPF instructions.
//!
//! The kernel runs it (`BPF_PROG_TYPE_CGROUP_DEVICE`) with a `struct bpf_cgroup_dev_ctx` of
//! linux/bpf.h before each open(2) or mknod(2) of a device, and refuses the access when it returns
//! zero. The rules become tests in reverse order, so that the last one that speaks of an access
//! decides. There are no loops, maps or helper calls, and every jump is forward.

use crate::device::{AccessBits, DeviceKind, Rule};

/// `struct bpf_insn` of linux/bpf.h.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    code: u8,
    /// The destination register in the low half, the source in the high one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// Operation codes: instruction class, source and operation or size (instruction-set.rst).
mod code {
    pub(super) const LOAD_WORD: u8 = 0x61;
    pub(super) const MOVE_IMMEDIATE: u8 = 0xb7;
    pub(super) const MOVE_REGISTER: u8 = 0xbf;
    pub(super) const AND_IMMEDIATE: u8 = 0x57;
    pub(super) const SHIFT_RIGHT: u8 = 0x77;
    pub(super) const JUMP_EQUAL: u8 = 0x15;
    pub(super) const JUMP_NOT_EQUAL: u8 = 0x55;
    pub(super) const EXIT: u8 = 0x95;
}

/// The registers in use.
mod register {
    pub(super) const RESULT: u8 = 0;
    pub(super) const CONTEXT: u8 = 1;
    pub(super) const KIND: u8 = 2;
    pub(super) const ACCESS: u8 = 3;
    pub(super) const MAJOR: u8 = 4;
    pub(super) const MINOR: u8 = 5;
    pub(super) const SCRATCH: u8 = 6;
}

/// `BPF_DEVCG_DEV_*` of linux/bpf.h.
const BLOCK: i32 = 1;
const CHAR: i32 = 2;

/// The program for `rules`.
pub(crate) fn compile(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        // access_type is the access in the high half and the kind of device in the low one.
        load(register::KIND, 0),
        load(register::ACCESS, 0),
        with_immediate(code::AND_IMMEDIATE, register::KIND, 0, 0xffff),
        with_immediate(code::SHIFT_RIGHT, register::ACCESS, 0, 16),
        load(register::MAJOR, 4),
        load(register::MINOR, 8),
    ];
    for rule in rules.iter().rev() {
        program.extend(test(rule));
        if rule.is_total() {
            // The verifier refuses instructions that cannot be reached.
            return program;
        }
    }
    program.extend(answer(false));
    program
}

/// Answers if the rule speaks of the access, and else falls through to what follows.
fn test(rule: &Rule) -> Vec<Instruction> {
    let mut block = Vec::new();
    let equal = |register, number| with_immediate(code::JUMP_NOT_EQUAL, register, 0, number);
    match rule.kind {
        DeviceKind::All => {}
        DeviceKind::Char => block.push(equal(register::KIND, CHAR)),
        DeviceKind::Block => block.push(equal(register::KIND, BLOCK)),
    }
    block.extend(rule.major.map(|major| equal(register::MAJOR, major)));
    block.extend(rule.minor.map(|minor| equal(register::MINOR, minor)));
    if !rule.is_total() {
        block.extend(test_access(rule));
    }
    block.extend(answer(rule.allow));
    skip_to_end(&mut block);
    block
}

/// An allowing rule must cover the access whole; a denying one need only touch it.
fn test_access(rule: &Rule) -> [Instruction; 3] {
    let (mask, miss) = if rule.allow {
        (AccessBits::ALL.0 & !rule.access.0, code::JUMP_NOT_EQUAL)
    } else {
        (rule.access.0, code::JUMP_EQUAL)
    };
    [
        Instruction {
            code: code::MOVE_REGISTER,
            registers: register::SCRATCH | register::ACCESS << 4,
            offset: 0,
            immediate: 0,
        },
        with_immediate(code::AND_IMMEDIATE, register::SCRATCH, 0, mask.into()),
        with_immediate(miss, register::SCRATCH, 0, 0),
    ]
}

fn answer(allow: bool) -> [Instruction; 2] {
    [
        with_immediate(code::MOVE_IMMEDIATE, register::RESULT, 0, allow.into()),
        with_immediate(code::EXIT, 0, 0, 0),
    ]
}

/// Points every jump of a block behind its last instruction.
fn skip_to_end(block: &mut [Instruction]) {
    for (ahead, instruction) in (0..).zip(block.iter_mut().rev()) {
        if matches!(instruction.code, code::JUMP_EQUAL | code::JUMP_NOT_EQUAL) {
            instruction.offset = ahead;
        }
    }
}

fn load(register: u8, offset: i16) -> Instruction {
    let registers = register | register::CONTEXT << 4;
    Instruction {
        code: code::LOAD_WORD,
        registers,
        offset,
        immediate: 0,
    }
}

fn with_immediate(code: u8, register: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: register,
        offset,
        immediate,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::device::normalise;
    use crate::device::tests::{any_access, any_rule, permits};

    /// Runs a program on one access, as the kernel would.
    fn run(program: &[Instruction], asked: &Rule) -> u64 {
        let kind = if asked.kind == DeviceKind::Block {
            BLOCK
        } else {
            CHAR
        };
        let words = [
            i32::from(asked.access.0) << 16 | kind,
            asked.major.unwrap(),
            asked.minor.unwrap(),
        ];
        let mut registers = [0_u64; 11];
        let mut next = 0_usize;
        loop {
            let instruction = program[next];
            let target = usize::from(instruction.registers & 0xf);
            let source = usize::from(instruction.registers >> 4);
            let immediate = u64::from(instruction.immediate.unsigned_abs());
            let offset = usize::try_from(instruction.offset).unwrap();
            next += 1;
            match instruction.code {
                code::LOAD_WORD => registers[target] = words[offset / 4].unsigned_abs().into(),
                code::MOVE_IMMEDIATE => registers[target] = immediate,
                code::MOVE_REGISTER => registers[target] = registers[source],
                code::AND_IMMEDIATE => registers[target] &= immediate,
                code::SHIFT_RIGHT => registers[target] >>= immediate,
                code::JUMP_EQUAL if registers[target] == immediate => next += offset,
                code::JUMP_NOT_EQUAL if registers[target] != immediate => next += offset,
                code::JUMP_EQUAL | code::JUMP_NOT_EQUAL => {}
                code::EXIT => return registers[0],
                other => panic!("unknown code {other:#x}"),
            }
        }
    }

    proptest! {
        #[test]
        fn the_program_says_what_the_rules_say(
            rules in prop::collection::vec(any_rule(), 0..8), asked in any_access(),
        ) {
            let rules = normalise(&rules).unwrap();
            let allowed = run(&compile(&rules), &asked) == 1;
            prop_assert_eq!(allowed, permits(&rules, &asked));
        }
    }
}
