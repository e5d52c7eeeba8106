use proptest::prelude::*;

use super::*;
use crate::assembler::run;
use crate::profile::{KernelVersion, Profile, Surroundings};

const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const AUDIT_X86_64: u32 = 0xc000_003e;
const AUDIT_X86: u32 = 0x4000_0003;

fn errno(number: u32) -> u32 {
    0x0005_0000 | number
}

fn data(audit: u32, number: u32, arguments: [u64; 6]) -> [u8; 64] {
    let mut data = [0; 64];
    data[..4].copy_from_slice(&number.to_ne_bytes());
    data[4..8].copy_from_slice(&audit.to_ne_bytes());
    for (place, argument) in arguments.iter().enumerate() {
        data[16 + 8 * place..24 + 8 * place].copy_from_slice(&argument.to_ne_bytes());
    }
    data
}

/// A filter's answers on x86_64.
struct Answers(Program);

impl Answers {
    fn of(json: &str) -> Self {
        let filter = Profile::parse(json.as_bytes())
            .unwrap()
            .resolve(&surroundings(&[]))
            .unwrap();
        Self(compile(&filter, Architecture::X86_64).unwrap())
    }

    fn runtime_default(capabilities: &[String]) -> Self {
        let filter = Profile::runtime_default()
            .resolve(&surroundings(capabilities))
            .unwrap();
        Self(compile(&filter, Architecture::X86_64).unwrap())
    }

    fn to_call(&self, architecture: Architecture, name: &str, arguments: [u64; 6]) -> u32 {
        let table = Table::of(architecture).unwrap();
        self.to_number(table.audit, table.number(name).unwrap(), arguments)
    }

    fn to(&self, name: &str, first: u64) -> u32 {
        self.to_call(Architecture::X86_64, name, [first, 0, 0, 0, 0, 0])
    }

    fn to_number(&self, audit: u32, number: u32, arguments: [u64; 6]) -> u32 {
        run(&self.0, &data(audit, number, arguments))
    }
}

fn surroundings(capabilities: &[String]) -> Surroundings<'_> {
    Surroundings {
        machine: Architecture::X86_64,
        kernel: KernelVersion { major: 6, minor: 1 },
        capabilities,
    }
}

#[test]
fn the_runtime_default_allows_what_is_ordinary() {
    let answers = Answers::runtime_default(&[]);
    for name in ["read", "openat", "execve", "futex", "statx", "ptrace"] {
        assert_eq!(answers.to(name, 0), ALLOW, "{name}");
    }
    for name in [
        "unshare",
        "mount",
        "setns",
        "bpf",
        "keyctl",
        "add_key",
        "io_uring_setup",
        "reboot",
        "init_module",
        "kexec_load",
        "userfaultfd",
        "chroot",
    ] {
        assert_eq!(answers.to(name, 0), errno(1), "{name}");
    }
    assert_eq!(answers.to("clone3", 0), errno(38));
    assert_eq!(answers.to("clone", 0x11), ALLOW);
    assert_eq!(answers.to("clone", 0x1000_0011), errno(1));
    assert_eq!(answers.to("personality", 0xffff_ffff), ALLOW);
    assert_eq!(answers.to("personality", 1), errno(1));
    for (family, answer) in [
        (1, ALLOW),
        (38, errno(1)),
        (39, ALLOW),
        (40, errno(1)),
        (41, ALLOW),
    ] {
        assert_eq!(answers.to("socket", family), answer, "{family}");
    }
    assert!(answers.0.instructions().len() < 1000);
}

#[test]
fn capabilities_open_what_they_are_for() {
    let answers = Answers::runtime_default(&["CAP_SYS_ADMIN".to_owned()]);
    for name in ["unshare", "mount", "clone3", "setns"] {
        assert_eq!(answers.to(name, 0), ALLOW, "{name}");
    }
    assert_eq!(answers.to("clone", 0x1000_0011), ALLOW);
    assert_eq!(answers.to("reboot", 0), errno(1));
}

#[test]
fn every_way_to_call_is_filtered() {
    let answers = Answers::runtime_default(&[]);
    assert_eq!(answers.to_call(Architecture::X86, "waitpid", [0; 6]), ALLOW);
    assert_eq!(
        answers.to_call(Architecture::X86, "unshare", [0; 6]),
        errno(1)
    );
    assert_eq!(answers.to_call(Architecture::X32, "execve", [0; 6]), ALLOW);
    assert_eq!(
        answers.to_call(Architecture::X32, "unshare", [0; 6]),
        errno(1)
    );
    assert_eq!(answers.to_number(0xc000_00b7, 0, [0; 6]), KILL_PROCESS);

    let native = Answers::of(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#);
    assert_eq!(native.to("read", 0), ALLOW);
    assert_eq!(native.to_number(AUDIT_X86, 3, [0; 6]), KILL_PROCESS);
    assert_eq!(native.to_number(AUDIT_X86_64, X32_BIT, [0; 6]), errno(38));
}

#[test]
fn calls_that_a_filter_cannot_know_do_not_exist() {
    let answers = Answers::of(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["read", "statx", "not_a_call"], "action": "SCMP_ACT_ALLOW"}]}"#,
    );
    let to_number = |number| answers.to_number(AUDIT_X86_64, number, [0; 6]);
    assert_eq!(answers.to("write", 0), errno(1));
    assert_eq!(answers.to("statx", 0), ALLOW);
    // Newer than statx, in a gap of the table, and beyond it.
    assert_eq!(answers.to("openat2", 0), errno(38));
    assert_eq!(to_number(400), errno(38));
    assert_eq!(to_number(5000), errno(38));
    let kills = Answers::of(
        r#"{"defaultAction": "SCMP_ACT_KILL", "syscalls": [
            {"names": ["statx"], "action": "SCMP_ACT_ALLOW"}]}"#,
    );
    assert_eq!(kills.to("write", 0), 0);
    assert_eq!(kills.to("openat2", 0), errno(38));
    let allows = Answers::of(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5}]}"#,
    );
    assert_eq!(allows.to("read", 0), errno(5));
    assert_eq!(allows.to_number(AUDIT_X86_64, 5000, [0; 6]), ALLOW);
}

#[test]
fn conditions_hold_together_unless_they_are_about_one_argument() {
    let answers = Answers::of(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 7, "syscalls": [
            {"names": ["dup2"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 4294967296, "op": "SCMP_CMP_GE"},
                {"index": 1, "value": 2, "op": "SCMP_CMP_NE"}]},
            {"names": ["kill"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 1, "value": 9, "op": "SCMP_CMP_EQ"},
                {"index": 1, "value": 15, "op": "SCMP_CMP_EQ"}]},
            {"names": ["access"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 1, "value": 1, "op": "SCMP_CMP_EQ"}]},
            {"names": ["access"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]}"#,
    );
    let to = |name, arguments| answers.to_call(Architecture::X86_64, name, arguments);
    assert_eq!(to("dup2", [1 << 32, 1, 0, 0, 0, 0]), ALLOW);
    assert_eq!(to("dup2", [1 << 32, 2, 0, 0, 0, 0]), errno(7));
    assert_eq!(to("dup2", [u64::from(u32::MAX), 1, 0, 0, 0, 0]), errno(7));
    for (signal, answer) in [(9, ALLOW), (15, ALLOW), (1, errno(7))] {
        assert_eq!(to("kill", [0, signal, 0, 0, 0, 0]), answer);
    }
    // A rule without conditions decides.
    assert_eq!(to("access", [0, 1, 0, 0, 0, 0]), errno(13));
}

#[test]
fn what_makes_no_sense_is_named() {
    let error = |json: &str| {
        Profile::parse(json.as_bytes())
            .and_then(|profile| profile.resolve(&surroundings(&[])))
            .and_then(|filter| compile(&filter, Architecture::X86_64))
            .unwrap_err()
            .to_string()
    };
    assert!(error("{\n \"defaultAction\": 3}").contains("line 2"));
    assert!(error(r#"{"defaultAction": "SCMP_ACT_PERMIT"}"#).contains("SCMP_ACT_PERMIT"));
    assert!(error(r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#).contains("SCMP_ACT_NOTIFY"));
    let rule = |rest: &str| {
        error(&format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{"action": "SCMP_ACT_ERRNO" {rest}}}]}}"#
        ))
    };
    assert!(rule("").contains("rule 1"));
    assert!(rule(r#", "name": "read", "errnoRet": 70000"#).contains("70000"));
    let argument = r#", "name": "read", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]"#;
    assert!(rule(argument).contains("argument 6"));
    let both = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": null}]}"#;
    assert!(error(both).contains("archMap"));
}

#[test]
fn circumstances_select_rules() {
    let json = r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"name": "read", "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
        {"name": "write", "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.2"}},
        {"name": "open", "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
        {"name": "dup", "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_CHOWN"]}, "args": null},
        {"name": "vfork", "action": "SCMP_ACT_ALLOW"}]}"#;
    let answers = Answers::of(json);
    assert_eq!(answers.to("read", 0), ALLOW);
    assert_eq!(answers.to("write", 0), errno(1));
    assert_eq!(answers.to("open", 0), errno(1));
    assert_eq!(answers.to("dup", 0), ALLOW);
}

#[test]
fn a_resolved_filter_is_the_oci_section() {
    let filter = Profile::runtime_default()
        .resolve(&surroundings(&[]))
        .unwrap();
    let json = serde_json::to_vec(&filter).unwrap();
    let again: Filter = serde_json::from_slice(&json).unwrap();
    assert_eq!(again, filter);
    let read_as_profile = Profile::parse(&json)
        .unwrap()
        .resolve(&surroundings(&[]))
        .unwrap();
    assert_eq!(read_as_profile, filter);
}

fn operators() -> impl Strategy<Value = Operator> {
    prop_oneof![
        Just(Operator::NotEqual),
        Just(Operator::Less),
        Just(Operator::LessOrEqual),
        Just(Operator::Equal),
        Just(Operator::GreaterOrEqual),
        Just(Operator::Greater),
        Just(Operator::MaskedEqual),
    ]
}

/// Numbers around which halves of arguments are equal or not.
fn numbers() -> impl Strategy<Value = u64> {
    let half = || prop_oneof![Just(0_u64), Just(1), Just(u64::from(u32::MAX)), 0_u64..4];
    (half(), half()).prop_map(|(upper, lower)| upper << 32 | lower)
}

fn holds(condition: &Condition, argument: u64) -> bool {
    match condition.op {
        Operator::NotEqual => argument != condition.value,
        Operator::Less => argument < condition.value,
        Operator::LessOrEqual => argument <= condition.value,
        Operator::Equal => argument == condition.value,
        Operator::GreaterOrEqual => argument >= condition.value,
        Operator::Greater => argument > condition.value,
        Operator::MaskedEqual => argument & condition.value == condition.value_two,
    }
}

proptest! {
    #[test]
    fn comparisons_are_those_of_64_bits(
        op in operators(), value in numbers(), value_two in numbers(), argument in numbers(),
    ) {
        let condition = Condition { index: 3, value, value_two, op };
        let filter = Filter {
            default_action: Action::Errno,
            default_errno_ret: None,
            architectures: Vec::new(),
            flags: Vec::new(),
            syscalls: vec![Rule {
                names: vec!["read".to_owned()],
                action: Action::Allow,
                errno_ret: None,
                args: vec![condition],
            }],
        };
        let answers = Answers(compile(&filter, Architecture::X86_64).unwrap());
        let answer = answers.to_number(AUDIT_X86_64, 0, [0, 0, 0, argument, 0, 0]);
        prop_assert_eq!(answer == ALLOW, holds(&condition, argument));
    }

    #[test]
    fn each_call_gets_the_answer_of_its_rule(listed in proptest::collection::vec(0_usize..380, 0..200)) {
        let table = Table::of(Architecture::X86_64).unwrap();
        let calls = x86_64_names();
        let names: Vec<String> = listed.iter().filter_map(|place| calls.get(*place)).cloned().collect();
        let filter = Filter {
            default_action: Action::Errno,
            default_errno_ret: None,
            architectures: vec![Architecture::X86, Architecture::X32],
            flags: Vec::new(),
            syscalls: names.iter().map(|name| Rule {
                names: vec![name.clone()],
                action: Action::Allow,
                errno_ret: None,
                args: Vec::new(),
            }).collect(),
        };
        let answers = Answers(compile(&filter, Architecture::X86_64).unwrap());
        let newest = names.iter().filter_map(|name| table.number(name)).max();
        for name in &calls {
            let number = table.number(name).unwrap();
            let expected = if names.contains(name) {
                ALLOW
            } else if newest.is_none_or(|newest| number <= newest) {
                errno(1)
            } else {
                errno(38)
            };
            prop_assert_eq!(answers.to_number(AUDIT_X86_64, number, [0; 6]), expected, "{}", name);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Profile::parse(&bytes);
    }
}

fn x86_64_names() -> Vec<String> {
    syscalls::x86_64::Sysno::iter()
        .map(|call| call.name().to_owned())
        .collect()
}
