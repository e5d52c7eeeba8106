//! Which devices a container may use.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// One rule of `linux.resources.devices` (OCI runtime specification, config-linux.md): of the rules
/// that speak of an access, the last one decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRule {
    /// Whether the access is allowed or denied.
    pub allow: bool,
    /// Of which kind the devices are.
    pub kind: DeviceKind,
    /// Their major number; none, or a negative one, is any.
    pub major: Option<i64>,
    /// Their minor number; none, or a negative one, is any.
    pub minor: Option<i64>,
    /// The kinds of access the rule speaks of; at least one.
    pub access: Access,
}

/// A kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// Both kinds.
    All,
    /// A character device.
    Char,
    /// A block device.
    Block,
}

/// Kinds of access to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Opening it for reading.
    pub read: bool,
    /// Opening it for writing.
    pub write: bool,
    /// Making a node for it with mknod(2).
    pub mknod: bool,
}

impl Access {
    /// All kinds.
    pub const ALL: Self = Self {
        read: true,
        write: true,
        mknod: true,
    };
}

impl FromStr for Access {
    type Err = Error;

    /// Reads some of the letters `r`, `w` and `m`, as the OCI runtime specification writes them.
    fn from_str(letters: &str) -> Result<Self, Error> {
        let has = |letter| letters.contains(letter);
        let access = Self {
            read: has('r'),
            write: has('w'),
            mknod: has('m'),
        };
        if letters.is_empty() || !letters.chars().all(|letter| "rwm".contains(letter)) {
            return Err(Error::Invalid {
                setting: format!("device access {letters:?}"),
                problem: "it must be some of the letters r, w and m".to_owned(),
            });
        }
        Ok(access)
    }
}

/// The kinds of access as bits, as `BPF_DEVCG_ACC_*` of linux/bpf.h numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AccessBits(pub(crate) u8);

impl AccessBits {
    pub(crate) const ALL: Self = Self(7);
    const LETTERS: [(u8, char); 3] = [(2, 'r'), (4, 'w'), (1, 'm')];
}

impl From<Access> for AccessBits {
    fn from(access: Access) -> Self {
        Self(u8::from(access.mknod) | u8::from(access.read) << 1 | u8::from(access.write) << 2)
    }
}

impl fmt::Display for AccessBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Self::LETTERS
            .iter()
            .filter(|(bit, _)| self.0 & bit != 0)
            .try_for_each(|(_, letter)| write!(f, "{letter}"))
    }
}

/// A rule whose numbers have been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) allow: bool,
    pub(crate) kind: DeviceKind,
    pub(crate) major: Option<i32>,
    pub(crate) minor: Option<i32>,
    pub(crate) access: AccessBits,
}

impl Rule {
    /// Whether it speaks of every access to every device.
    pub(crate) fn is_total(&self) -> bool {
        self.kind == DeviceKind::All
            && (self.major, self.minor) == (None, None)
            && self.access == AccessBits::ALL
    }

    /// Whether some device falls under both.
    fn overlaps(&self, other: &Self) -> bool {
        let number = |a: Option<i32>, b: Option<i32>| a.is_none() || b.is_none() || a == b;
        self.kind == other.kind
            && number(self.major, other.major)
            && number(self.minor, other.minor)
            && self.access.0 & other.access.0 != 0
    }

    fn same_devices(&self, other: &Self) -> bool {
        (self.kind, self.major, self.minor) == (other.kind, other.major, other.minor)
    }
}

/// The form of the v1 control files: `c 1:3 rwm`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            DeviceKind::All => "a",
            DeviceKind::Char => "c",
            DeviceKind::Block => "b",
        })?;
        let number = |number: Option<i32>| number.map_or("*".to_owned(), |n| n.to_string());
        let (major, minor) = (number(self.major), number(self.minor));
        write!(f, " {major}:{minor} {}", self.access)
    }
}

/// Checks the rules, and takes those for both kinds of devices apart unless they are total.
pub(crate) fn normalise(rules: &[DeviceRule]) -> Result<Vec<Rule>, Error> {
    let mut normal = Vec::with_capacity(rules.len());
    for rule in rules {
        let checked = Rule {
            allow: rule.allow,
            kind: rule.kind,
            major: number(rule, "major", rule.major, 0xfff)?,
            minor: number(rule, "minor", rule.minor, 0xf_ffff)?,
            access: rule.access.into(),
        };
        if checked.access.0 == 0 {
            return Err(invalid(rule, "it speaks of no kind of access".to_owned()));
        }
        if rule.kind != DeviceKind::All || checked.is_total() {
            normal.push(checked);
        } else {
            normal.push(Rule {
                kind: DeviceKind::Char,
                ..checked.clone()
            });
            normal.push(Rule {
                kind: DeviceKind::Block,
                ..checked
            });
        }
    }
    Ok(normal)
}

/// A device number as the kernel splits it: 12 bits of major and 20 bits of minor.
fn number(
    rule: &DeviceRule,
    name: &str,
    given: Option<i64>,
    most: i32,
) -> Result<Option<i32>, Error> {
    match given.filter(|number| *number >= 0) {
        None => Ok(None),
        Some(number) => match i32::try_from(number) {
            Ok(number) if number <= most => Ok(Some(number)),
            _ => Err(invalid(rule, format!("its {name} number is beyond {most}"))),
        },
    }
}

fn invalid(rule: &DeviceRule, problem: String) -> Error {
    Error::Invalid {
        setting: format!("device rule {rule:?}"),
        problem,
    }
}

/// What v1 can say: a default, and exceptions from it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) allow: bool,
    pub(crate) exceptions: Vec<Rule>,
}

impl Policy {
    /// What the rules, one after the other, amount to. A rule that takes back a part of an earlier
    /// one's devices cannot be said in v1, and is an error.
    pub(crate) fn reduce(rules: &[Rule]) -> Result<Self, Error> {
        let mut policy = Self {
            allow: false,
            exceptions: Vec::new(),
        };
        for rule in rules {
            if rule.is_total() {
                policy = Self {
                    allow: rule.allow,
                    exceptions: Vec::new(),
                };
            } else if rule.allow == policy.allow {
                policy.take_back(rule)?;
            } else {
                policy.except(rule);
            }
        }
        Ok(policy)
    }

    fn except(&mut self, rule: &Rule) {
        match self
            .exceptions
            .iter_mut()
            .find(|one| one.same_devices(rule))
        {
            Some(known) => known.access.0 |= rule.access.0,
            None => self.exceptions.push(rule.clone()),
        }
    }

    fn take_back(&mut self, rule: &Rule) -> Result<(), Error> {
        for known in &mut self.exceptions {
            if known.same_devices(rule) {
                known.access.0 &= !rule.access.0;
            } else if known.overlaps(rule) {
                return Err(Error::Invalid {
                    setting: format!("device rule \"{rule}\" (allow: {})", rule.allow),
                    problem: format!(
                        "cgroup v1 cannot take back a part of the earlier rule \"{known}\"; \
                         list the devices one by one"
                    ),
                });
            }
        }
        self.exceptions.retain(|known| known.access.0 != 0);
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn rule(
        allow: bool,
        kind: DeviceKind,
        major: i64,
        minor: i64,
        access: &str,
    ) -> DeviceRule {
        let access = access.parse().unwrap();
        DeviceRule {
            allow,
            kind,
            major: Some(major),
            minor: Some(minor),
            access,
        }
    }

    pub(crate) fn any_rule() -> impl Strategy<Value = DeviceRule> {
        let kind = prop_oneof![
            Just(DeviceKind::All),
            Just(DeviceKind::Char),
            Just(DeviceKind::Block)
        ];
        (any::<bool>(), kind, -1..3_i64, -1..3_i64, "r?w?m?").prop_filter_map(
            "no access",
            |(allow, kind, major, minor, access)| {
                (!access.is_empty()).then(|| rule(allow, kind, major, minor, &access))
            },
        )
    }

    /// The specification's own words: the last rule that speaks of an access decides. An allowing
    /// rule speaks of accesses that it covers whole, a denying one of those that it touches.
    pub(crate) fn permits(rules: &[Rule], asked: &Rule) -> bool {
        rules
            .iter()
            .rev()
            .find(|rule| {
                (rule.kind == DeviceKind::All || rule.kind == asked.kind)
                    && rule.major.is_none_or(|major| Some(major) == asked.major)
                    && rule.minor.is_none_or(|minor| Some(minor) == asked.minor)
                    && if rule.allow {
                        asked.access.0 & !rule.access.0 == 0
                    } else {
                        asked.access.0 & rule.access.0 != 0
                    }
            })
            .is_some_and(|rule| rule.allow)
    }

    /// A single access to a single device.
    pub(crate) fn any_access() -> impl Strategy<Value = Rule> {
        let kind = prop_oneof![Just(DeviceKind::Char), Just(DeviceKind::Block)];
        (kind, 0..4_i32, 0..4_i32, 1..8_u8).prop_map(|(kind, major, minor, access)| Rule {
            allow: true,
            kind,
            major: Some(major),
            minor: Some(minor),
            access: AccessBits(access),
        })
    }

    #[test]
    fn access_is_read_from_letters() {
        assert_eq!("rwm".parse::<Access>().unwrap(), Access::ALL);
        let only_read = "r".parse::<Access>().unwrap();
        assert!(only_read.read && !only_read.write && !only_read.mknod);
        assert!("".parse::<Access>().is_err() && "rx".parse::<Access>().is_err());
    }

    #[test]
    fn v1_gets_a_default_and_exceptions() {
        use DeviceKind::{All, Block, Char};
        let rules = normalise(&[
            rule(true, Char, 9, 9, "rwm"),
            rule(false, All, -1, -1, "rwm"),
            rule(true, Char, -1, -1, "m"),
            rule(true, Char, 1, 3, "rw"),
            rule(true, Char, 1, 3, "m"),
            rule(true, Block, 8, -1, "rwm"),
            rule(false, Block, 8, -1, "w"),
            rule(true, All, 7, 0, "r"),
        ]);
        let policy = Policy::reduce(&rules.unwrap()).unwrap();
        assert!(!policy.allow);
        let written: Vec<_> = policy.exceptions.iter().map(ToString::to_string).collect();
        assert_eq!(
            written,
            ["c *:* m", "c 1:3 rwm", "b 8:* rm", "c 7:0 r", "b 7:0 r"]
        );
    }

    #[test]
    fn what_v1_cannot_say_is_an_error() {
        let rules = [
            rule(true, DeviceKind::Char, 1, -1, "rwm"),
            rule(false, DeviceKind::Char, 1, 3, "rwm"),
        ];
        let error = Policy::reduce(&normalise(&rules).unwrap())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("c 1:3 rwm") && error.contains("c 1:* rwm"),
            "{error}"
        );
    }

    #[test]
    fn numbers_are_checked() {
        for (major, minor) in [(0x1000, 0), (0, 0x10_0000), (i64::MAX, 0)] {
            assert!(normalise(&[rule(true, DeviceKind::Char, major, minor, "r")]).is_err());
        }
        let silent = Access {
            read: false,
            write: false,
            mknod: false,
        };
        let silent = DeviceRule {
            access: silent,
            ..rule(true, DeviceKind::Char, 1, 1, "r")
        };
        assert!(normalise(&[silent]).is_err());
    }

    proptest! {
        #[test]
        fn a_policy_says_what_the_rules_say(
            rules in prop::collection::vec(any_rule(), 0..6), asked in any_access(),
        ) {
            let rules = normalise(&rules).unwrap();
            if let Ok(policy) = Policy::reduce(&rules) {
                // One bit at a time: v1 asks for each exception to cover an access whole.
                for bit in [1, 2, 4] {
                    let asked = Rule { access: AccessBits(bit), ..asked.clone() };
                    let excepted = permits_any(&policy.exceptions, &asked);
                    prop_assert_eq!(policy.allow != excepted, permits(&rules, &asked));
                }
            }
        }
    }

    fn permits_any(exceptions: &[Rule], asked: &Rule) -> bool {
        exceptions.iter().any(|rule| {
            permits(
                &[Rule {
                    allow: true,
                    ..rule.clone()
                }],
                asked,
            )
        })
    }
}
