//! Profiles as they are written: the OCI section, or the wider format of the container engines.

use serde::{Deserialize, Deserializer};

use crate::architecture::Architecture;
use crate::error::{Error, Result};
use crate::filter::{Action, Condition, Filter, Flag, Rule};

/// A profile.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    pub(crate) default_action: Action,
    #[serde(default)]
    pub(crate) default_errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "list")]
    pub(crate) architectures: Vec<Architecture>,
    #[serde(default, deserialize_with = "list")]
    pub(crate) arch_map: Vec<ArchitectureFamily>,
    #[serde(default, deserialize_with = "list")]
    pub(crate) flags: Vec<Flag>,
    #[serde(default, deserialize_with = "list")]
    pub(crate) syscalls: Vec<ProfileRule>,
}

/// A machine's architecture, and those that its processes can have as well.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ArchitectureFamily {
    pub(crate) architecture: Architecture,
    #[serde(default, deserialize_with = "list")]
    pub(crate) sub_architectures: Vec<Architecture>,
}

/// A rule that may be for some containers only.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProfileRule {
    /// The only name, in an older form.
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default, deserialize_with = "list")]
    pub(crate) names: Vec<String>,
    pub(crate) action: Action,
    #[serde(default)]
    pub(crate) errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "list")]
    pub(crate) args: Vec<Condition>,
    #[serde(default)]
    pub(crate) includes: Option<Circumstances>,
    #[serde(default)]
    pub(crate) excludes: Option<Circumstances>,
}

/// For whom a rule is, or is not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Circumstances {
    #[serde(default, deserialize_with = "list")]
    pub(crate) caps: Vec<String>,
    #[serde(default, deserialize_with = "list")]
    pub(crate) arches: Vec<String>,
    #[serde(default)]
    pub(crate) min_kernel: Option<KernelVersion>,
}

/// A version of the kernel, as far as profiles tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct KernelVersion {
    /// 6 of 6.18.
    pub major: u32,
    /// 18 of 6.18.
    pub minor: u32,
}

impl KernelVersion {
    /// Reads the beginning of a release as uname(2) has it, `6.1.0-13-amd64` for example.
    pub fn parse(release: &str) -> Option<Self> {
        let mut parts = release.split(|letter: char| !letter.is_ascii_digit());
        let mut number = || parts.next()?.parse().ok();
        Some(Self {
            major: number()?,
            minor: number()?,
        })
    }
}

impl TryFrom<String> for KernelVersion {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("{text:?} is no kernel version, such as 4.8"))
    }
}

/// What a profile is resolved for.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The machine.
    pub machine: Architecture,
    /// The running kernel.
    pub kernel: KernelVersion,
    /// The capabilities that the container may have, with the prefix `CAP_`.
    pub capabilities: &'a [String],
}

impl Profile {
    /// Reads a profile.
    ///
    /// # Errors
    ///
    /// When it is not one; with line and column.
    pub fn parse(json: &[u8]) -> Result<Self> {
        Ok(serde_json::from_slice(json)?)
    }

    /// Refuses a profile that takes a program to listen to it, of which there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Notify`].
    pub fn check_actions(&self) -> Result<()> {
        let rules = self.syscalls.iter().map(|rule| rule.action);
        let mut actions = rules.chain([self.default_action]);
        if actions.any(|action| action == Action::Notify) {
            return Err(Error::Notify);
        }
        Ok(())
    }

    /// Leaves out what is not for these surroundings.
    ///
    /// # Errors
    ///
    /// When the profile contradicts itself.
    pub fn resolve(&self, surroundings: &Surroundings<'_>) -> Result<Filter> {
        let mut syscalls = Vec::with_capacity(self.syscalls.len());
        for (place, rule) in self.syscalls.iter().enumerate() {
            if rule.name.is_empty() == rule.names.is_empty() {
                return Err(Error::Names { rule: place + 1 });
            }
            if rule.applies(surroundings) {
                syscalls.push(rule.plain());
            }
        }
        Ok(Filter {
            default_action: self.default_action,
            default_errno_ret: self.default_errno_ret,
            architectures: self.architectures(surroundings.machine)?,
            flags: self.flags.clone(),
            syscalls,
        })
    }

    fn architectures(&self, machine: Architecture) -> Result<Vec<Architecture>> {
        if self.arch_map.is_empty() {
            return Ok(self.architectures.clone());
        }
        if !self.architectures.is_empty() {
            return Err(Error::ArchitecturesTwice);
        }
        let family = self
            .arch_map
            .iter()
            .find(|family| family.architecture == machine);
        Ok(family.map_or_else(Vec::new, |family| {
            [&[family.architecture], family.sub_architectures.as_slice()].concat()
        }))
    }
}

impl ProfileRule {
    fn applies(&self, surroundings: &Surroundings<'_>) -> bool {
        let machine = surroundings.machine.engine_name();
        let has = |name: &String| surroundings.capabilities.contains(name);
        let included = self.includes.as_ref().is_none_or(|only| {
            (only.arches.is_empty() || only.arches.iter().any(|name| name == machine))
                && only.caps.iter().all(has)
                && only
                    .min_kernel
                    .is_none_or(|least| surroundings.kernel >= least)
        });
        let excluded = self.excludes.as_ref().is_some_and(|but| {
            but.arches.iter().any(|name| name == machine)
                || but.caps.iter().any(has)
                || but
                    .min_kernel
                    .is_some_and(|least| surroundings.kernel >= least)
        });
        included && !excluded
    }

    fn plain(&self) -> Rule {
        let names = if self.name.is_empty() {
            self.names.clone()
        } else {
            vec![self.name.clone()]
        };
        Rule {
            names,
            action: self.action,
            errno_ret: self.errno_ret,
            args: self.args.clone(),
        }
    }
}

/// A list; Go writes `null` for an empty one.
fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> std::result::Result<Vec<T>, D::Error> {
    Option::<Vec<T>>::deserialize(deserializer).map(Option::unwrap_or_default)
}
