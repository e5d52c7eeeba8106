//! Programs of classic BPF (the kernel's `Documentation/networking/filter.rst`), written from their
//! end to their beginning, so that whatever an instruction goes on to is already there.

use std::collections::HashMap;

use crate::error::{Error, Result};

/// The kernel's limit (`BPF_MAXINSNS`).
const MAX_LENGTH: usize = 4096;

/// How far a conditional jump goes; a little less than it could, for the unconditional ones that
/// may have to be put in between.
const REACH: usize = 250;

/// An instruction, `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What is done.
    pub code: u16,
    /// How many instructions are left out where a condition holds.
    pub jump_true: u8,
    /// And where it does not.
    pub jump_false: u8,
    /// The operand.
    pub operand: u32,
}

/// A program for the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    instructions: Vec<Instruction>,
}

impl Program {
    /// Its instructions, the first first.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// As the array of `struct sock_filter` that seccomp(2) takes, in this machine's byte order.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.instructions.len() * 8);
        for instruction in &self.instructions {
            bytes.extend_from_slice(&instruction.code.to_ne_bytes());
            bytes.extend_from_slice(&[instruction.jump_true, instruction.jump_false]);
            bytes.extend_from_slice(&instruction.operand.to_ne_bytes());
        }
        bytes
    }
}

/// A condition on the accumulator.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Test {
    Equal,
    Greater,
    GreaterOrEqual,
}

/// A place in a program under way, by how many instructions follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place(usize);

/// A program under way.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    /// The last one first.
    reversed: Vec<Instruction>,
    /// Where each answer was given last.
    answers: HashMap<u32, Place>,
}

impl Assembler {
    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
    const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
    const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const JUMP_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
    const JUMP_GREATER_OR_EQUAL: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K

    /// Answers, and ends.
    pub(crate) fn answer(&mut self, answer: u32) -> Place {
        if let Some(place) = self.answers.get(&answer)
            && self.distance(*place) < REACH
        {
            return *place;
        }
        let place = self.emit(Self::RETURN, 0, 0, answer);
        self.answers.insert(answer, place);
        place
    }

    /// Loads 4 bytes of `struct seccomp_data` into the accumulator, and goes on.
    pub(crate) fn load(&mut self, offset: u32, next: Place) -> Place {
        self.fall_through_to(next);
        self.emit(Self::LOAD, 0, 0, offset)
    }

    /// Leaves the bits of a mask in the accumulator, and goes on.
    pub(crate) fn mask(&mut self, mask: u32, next: Place) -> Place {
        self.fall_through_to(next);
        self.emit(Self::AND, 0, 0, mask)
    }

    /// Goes on here or there.
    pub(crate) fn branch(&mut self, test: Test, operand: u32, yes: Place, no: Place) -> Place {
        if yes == no {
            return yes;
        }
        let (yes, no) = (self.within_reach(yes), self.within_reach(no));
        let code = match test {
            Test::Equal => Self::JUMP_EQUAL,
            Test::Greater => Self::JUMP_GREATER,
            Test::GreaterOrEqual => Self::JUMP_GREATER_OR_EQUAL,
        };
        let skip = |place| u8::try_from(self.distance(place)).unwrap_or(u8::MAX);
        self.emit(code, skip(yes), skip(no), operand)
    }

    /// The whole program, which begins at the place that was made last.
    pub(crate) fn finish(mut self) -> Result<Program> {
        let length = self.reversed.len();
        if length > MAX_LENGTH {
            return Err(Error::Length { length });
        }
        self.reversed.reverse();
        Ok(Program {
            instructions: self.reversed,
        })
    }

    /// How many instructions lie between the next one and a place.
    fn distance(&self, place: Place) -> usize {
        self.reversed.len() - 1 - place.0
    }

    fn within_reach(&mut self, place: Place) -> Place {
        if self.distance(place) < REACH {
            place
        } else {
            self.jump(place)
        }
    }

    fn fall_through_to(&mut self, place: Place) {
        if self.distance(place) > 0 {
            self.jump(place);
        }
    }

    fn jump(&mut self, place: Place) -> Place {
        let distance = u32::try_from(self.distance(place)).unwrap_or(u32::MAX);
        self.emit(Self::JUMP, 0, 0, distance)
    }

    fn emit(&mut self, code: u16, jump_true: u8, jump_false: u8, operand: u32) -> Place {
        self.reversed.push(Instruction {
            code,
            jump_true,
            jump_false,
            operand,
        });
        Place(self.reversed.len() - 1)
    }
}

/// The kernel's interpreter, as far as these programs go.
#[cfg(test)]
pub(crate) fn run(program: &Program, data: &[u8; 64]) -> u32 {
    let (mut accumulator, mut at) = (0_u32, 0_usize);
    loop {
        let instruction = program.instructions[at];
        let operand = instruction.operand;
        at += 1;
        let holds = match instruction.code {
            Assembler::LOAD => {
                let from = operand as usize;
                accumulator = u32::from_ne_bytes(data[from..from + 4].try_into().unwrap());
                continue;
            }
            Assembler::AND => {
                accumulator &= operand;
                continue;
            }
            Assembler::JUMP => {
                at += operand as usize;
                continue;
            }
            Assembler::RETURN => return operand,
            Assembler::JUMP_EQUAL => accumulator == operand,
            Assembler::JUMP_GREATER => accumulator > operand,
            Assembler::JUMP_GREATER_OR_EQUAL => accumulator >= operand,
            other => panic!("instruction {other:#x}"),
        };
        at += usize::from(if holds {
            instruction.jump_true
        } else {
            instruction.jump_false
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_reach_however_far_it_is() {
        let mut assembler = Assembler::default();
        let far = assembler.answer(7);
        let mut next = assembler.answer(8);
        for number in 0..1500 {
            next = assembler.branch(Test::Equal, 100_000 + number, far, next);
        }
        let start = assembler.load(0, next);
        assert_eq!(start.0, assembler.reversed.len() - 1);
        let program = assembler.finish().unwrap();
        let with = |number: u32| {
            let mut data = [0; 64];
            data[..4].copy_from_slice(&number.to_ne_bytes());
            run(&program, &data)
        };
        assert_eq!(with(100_000), 7);
        assert_eq!(with(101_499), 7);
        assert_eq!(with(5), 8);
    }

    #[test]
    fn the_kernels_limit_is_kept() {
        let mut assembler = Assembler::default();
        let mut next = assembler.answer(0);
        for offset in 0..4100 {
            next = assembler.load(offset % 16 * 4, next);
        }
        assert!(matches!(
            assembler.finish(),
            Err(Error::Length { length: 4101 })
        ));
    }
}
