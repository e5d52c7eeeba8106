//! From a filter to a program.
//!
//! For each architecture, all numbers of system calls fall into ranges with the same answer, and a
//! binary search over their bounds finds it: some seven comparisons for the runtime's default, and
//! an answer that the kernel can remember where it does not depend on arguments.

use std::collections::BTreeMap;

use crate::architecture::Architecture;
use crate::assembler::{Assembler, Place, Program, Test};
use crate::error::{Error, Result};
use crate::filter::{Action, Condition, Filter, Operator, Rule};
use crate::table::{Table, X32_BIT};

/// `ERRNO` with `ENOSYS`.
const NO_SUCH_CALL: u32 = 0x0005_0026;

/// Offsets in `struct seccomp_data`, in bytes.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Numbers from here on are ARM's private ones, which say nothing of how new a filter is.
const PRIVATE: u32 = 0x000f_0000;

/// Compiles a filter for a machine.
///
/// Architectures that a process on the machine cannot have are left out; calls of those that it
/// could have, but the filter does not list, kill the process, as libseccomp has it.
///
/// # Errors
///
/// When an action needs a listener, a number is out of range, the program would be too long for
/// the kernel, or there is no table for the machine.
pub fn compile(filter: &Filter, machine: Architecture) -> Result<Program> {
    let default = filter.default_action.answer(filter.default_errno_ret)?;
    let mut assembler = Assembler::default();
    let mut next = assembler.answer(Action::KillProcess.answer(None)?);
    let lists = |architecture| filter.architectures.contains(&architecture);
    let narrower = machine.narrower().iter().copied();
    for architecture in narrower.rev().chain([machine]) {
        if architecture == Architecture::X32 || !(architecture == machine || lists(architecture)) {
            continue;
        }
        let table = Table::of(architecture).ok_or(Error::Machine)?;
        let rules = Rules::new(filter, table, default)?;
        let mut calls = rules.search(&mut assembler)?;
        if architecture == Architecture::X86_64 {
            let others = match Table::of(Architecture::X32).filter(|_| lists(Architecture::X32)) {
                Some(table) => Rules::new(filter, table, default)?.search(&mut assembler)?,
                None => assembler.answer(NO_SUCH_CALL),
            };
            calls = assembler.branch(Test::GreaterOrEqual, X32_BIT, others, calls);
        }
        let calls = assembler.load(NUMBER, calls);
        next = assembler.branch(Test::Equal, table.audit, calls, next);
    }
    assembler.load(ARCHITECTURE, next);
    assembler.finish()
}

/// What one architecture's calls are answered with.
struct Rules<'a> {
    table: &'static Table,
    default: u32,
    permits: bool,
    calls: BTreeMap<u32, Call<'a>>,
}

/// What a call is answered with.
#[derive(Default)]
struct Call<'a> {
    always: Option<u32>,
    /// In the order of the filter; each holds where all of its conditions do.
    conditional: Vec<(Vec<&'a Condition>, u32)>,
}

/// What a range of calls is answered with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Answer(u32),
    /// By the arguments of the one call that it is.
    Conditional(u32),
}

impl<'a> Rules<'a> {
    fn new(filter: &'a Filter, table: &'static Table, default: u32) -> Result<Self> {
        let mut calls: BTreeMap<u32, Call<'a>> = BTreeMap::new();
        for rule in &filter.syscalls {
            let answer = rule.action.answer(rule.errno_ret)?;
            // Such a rule would only get in the way of others about the same call.
            if answer == default {
                continue;
            }
            check_arguments(rule)?;
            for number in rule.names.iter().filter_map(|name| table.number(name)) {
                let call = calls.entry(number).or_default();
                if rule.args.is_empty() {
                    call.always.get_or_insert(answer);
                } else {
                    call.add(&rule.args, answer);
                }
            }
        }
        Ok(Self {
            table,
            default,
            permits: filter.default_action.permits(),
            calls,
        })
    }

    /// The newest call that the filter knows of; nothing says so where it lists none.
    fn newest(&self) -> u32 {
        let common = self.calls.keys().filter(|number| **number < PRIVATE);
        let x32 = self.calls.keys().filter(|number| **number >= X32_BIT);
        common.chain(x32).max().copied().unwrap_or(u32::MAX)
    }

    /// Each range's first number, and its answer.
    fn ranges(&self) -> Vec<(u32, Outcome)> {
        let unknown = Outcome::Answer(if self.permits {
            self.default
        } else {
            NO_SUCH_CALL
        });
        let newest = self.newest();
        let mut ranges = vec![(0, unknown)];
        let mut add = |number, outcome| match ranges.last_mut() {
            Some((_, last)) if *last == outcome => {}
            Some((first, last)) if *first == number => *last = outcome,
            _ => ranges.push((number, outcome)),
        };
        let mut expected = 0;
        for &number in self.table.numbers() {
            if number != expected {
                add(expected, unknown);
            }
            let outcome = match self.calls.get(&number) {
                Some(Call {
                    always: Some(answer),
                    ..
                }) => Outcome::Answer(*answer),
                Some(_) => Outcome::Conditional(number),
                None if number <= newest => Outcome::Answer(self.default),
                None => unknown,
            };
            add(number, outcome);
            expected = number + 1;
        }
        add(expected, unknown);
        ranges
    }

    fn search(&self, assembler: &mut Assembler) -> Result<Place> {
        self.search_in(&self.ranges(), assembler)
    }

    fn search_in(&self, ranges: &[(u32, Outcome)], assembler: &mut Assembler) -> Result<Place> {
        if let [(_, outcome)] = ranges {
            return match outcome {
                Outcome::Answer(answer) => Ok(assembler.answer(*answer)),
                Outcome::Conditional(number) => Ok(self.conditions(*number, assembler)),
            };
        }
        let (lower, upper) = ranges.split_at(ranges.len() / 2);
        let bound = upper[0].0;
        let upper = self.search_in(upper, assembler)?;
        let lower = self.search_in(lower, assembler)?;
        Ok(assembler.branch(Test::GreaterOrEqual, bound, upper, lower))
    }

    fn conditions(&self, number: u32, assembler: &mut Assembler) -> Place {
        let mut next = assembler.answer(self.default);
        let rules = self.calls.get(&number).map(|call| &call.conditional);
        for (conditions, answer) in rules.into_iter().flatten().rev() {
            let mut holds = assembler.answer(*answer);
            for condition in conditions.iter().rev() {
                holds = self.condition(condition, holds, next, assembler);
            }
            next = holds;
        }
        next
    }

    /// Compares an argument: its upper half first, where it has one.
    fn condition(
        &self,
        condition: &Condition,
        yes: Place,
        no: Place,
        assembler: &mut Assembler,
    ) -> Place {
        let (upper_half, lower_half) = offsets(condition.index);
        let (upper, lower) = halves(condition.value);
        let mut ordered = |test, yes, no| {
            let calls = assembler.branch(test, lower, yes, no);
            let calls = assembler.load(lower_half, calls);
            if !self.table.wide {
                return calls;
            }
            let calls = assembler.branch(Test::Equal, upper, calls, no);
            let calls = match test {
                Test::Equal => calls,
                Test::Greater | Test::GreaterOrEqual => {
                    assembler.branch(Test::Greater, upper, yes, calls)
                }
            };
            assembler.load(upper_half, calls)
        };
        match condition.op {
            Operator::Equal => ordered(Test::Equal, yes, no),
            Operator::NotEqual => ordered(Test::Equal, no, yes),
            Operator::Greater => ordered(Test::Greater, yes, no),
            Operator::LessOrEqual => ordered(Test::Greater, no, yes),
            Operator::GreaterOrEqual => ordered(Test::GreaterOrEqual, yes, no),
            Operator::Less => ordered(Test::GreaterOrEqual, no, yes),
            Operator::MaskedEqual => {
                let (wanted_upper, wanted_lower) = halves(condition.value_two);
                let mut masked = |offset, mask, wanted, yes| {
                    let calls = assembler.branch(Test::Equal, wanted, yes, no);
                    let calls = assembler.mask(mask, calls);
                    assembler.load(offset, calls)
                };
                let calls = masked(lower_half, lower, wanted_lower, yes);
                if self.table.wide && (upper, wanted_upper) != (0, 0) {
                    masked(upper_half, upper, wanted_upper, calls)
                } else {
                    calls
                }
            }
        }
    }
}

impl<'a> Call<'a> {
    /// Conditions on the same argument could rarely hold all together; profiles that have them
    /// mean any of them, and the other runtimes read them so.
    fn add(&mut self, conditions: &'a [Condition], answer: u32) {
        let repeated = conditions.iter().enumerate().any(|(place, condition)| {
            conditions[..place]
                .iter()
                .any(|other| other.index == condition.index)
        });
        if repeated {
            let each = conditions.iter().map(|condition| (vec![condition], answer));
            self.conditional.extend(each);
        } else {
            self.conditional.push((conditions.iter().collect(), answer));
        }
    }
}

fn check_arguments(rule: &Rule) -> Result<()> {
    match rule.args.iter().find(|condition| condition.index > 5) {
        Some(condition) => Err(Error::Argument {
            syscall: rule.names.first().cloned().unwrap_or_default(),
            index: condition.index,
        }),
        None => Ok(()),
    }
}

/// Where the upper and the lower half of an argument are.
fn offsets(argument: u32) -> (u32, u32) {
    let first = ARGUMENTS + 8 * argument;
    if cfg!(target_endian = "little") {
        (first + 4, first)
    } else {
        (first, first + 4)
    }
}

fn halves(value: u64) -> (u32, u32) {
    let half = |value: u64| u32::try_from(value & u64::from(u32::MAX)).unwrap_or_default();
    (half(value >> 32), half(value))
}

#[cfg(test)]
mod tests;
