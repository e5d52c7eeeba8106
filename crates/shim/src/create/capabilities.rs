//! The capabilities of a container's process.

use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::config::Capabilities;
use crate::failure::{Explain, Outcome};
use crate::protocol::Failure;

/// The capabilities asked for, as far as this process has them: "all" means all that there are.
#[derive(Debug)]
pub(super) struct Wanted {
    have: CapabilitySet,
    bounding: CapabilitySet,
    ambient: CapabilitySet,
    sets: CapabilitySets,
}

impl Wanted {
    pub(super) fn new(asked: &Capabilities) -> Outcome<Self> {
        let have = rustix::thread::capabilities(None)
            .system(|| "read the capabilities")?
            .permitted;
        let have = have
            .iter()
            .filter(|one| is_bounding(*one))
            .collect::<CapabilitySet>();
        let bounding = set_of(&asked.bounding)? & have;
        let permitted = set_of(&asked.permitted)? & have;
        let inheritable = set_of(&asked.inheritable)? & bounding;
        Ok(Self {
            have,
            bounding,
            ambient: set_of(&asked.ambient)? & permitted & inheritable,
            sets: CapabilitySets {
                effective: set_of(&asked.effective)? & permitted,
                permitted,
                inheritable,
            },
        })
    }

    /// Drops the rest of the bounding set; it takes a capability that is gone afterwards.
    pub(super) fn bound(&self) -> Outcome<()> {
        for number in 0..u64::BITS {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            match rustix::thread::capability_is_in_bounding_set(capability) {
                // The kernel knows no more of them.
                Err(_) => break,
                Ok(present) if !present || self.bounding.contains(capability) => {}
                Ok(_) => rustix::thread::remove_capability_from_bounding_set(capability)
                    .system(|| format!("drop {capability:?} from the bounding set"))?,
            }
        }
        Ok(())
    }

    /// What the process is to have in the end.
    pub(super) fn sets(&self) -> CapabilitySets {
        self.sets
    }

    /// Takes them on, as the user who is to have them.
    pub(super) fn assume(&self) -> Outcome<()> {
        self.assume_for_now(CapabilitySet::empty())
    }

    /// Takes them on, but stays permitted to raise `beyond` once more.
    pub(super) fn assume_for_now(&self, beyond: CapabilitySet) -> Outcome<()> {
        let doing = || format!("set the capabilities {:?}", self.sets.permitted);
        let mut sets = self.sets;
        sets.permitted |= beyond & self.have;
        rustix::thread::set_capabilities(None, sets).system(doing)?;
        rustix::thread::clear_ambient_capability_set().system(doing)?;
        for capability in self.ambient.iter() {
            rustix::thread::configure_capability_in_ambient_set(capability, true).system(doing)?;
        }
        Ok(())
    }
}

/// Whether a capability is in the bounding set; one that the kernel does not know is not.
fn is_bounding(capability: CapabilitySet) -> bool {
    rustix::thread::capability_is_in_bounding_set(capability).unwrap_or(false)
}

fn set_of(names: &[String]) -> Outcome<CapabilitySet> {
    let one = |name: &String| {
        name.strip_prefix("CAP_")
            .and_then(CapabilitySet::from_name)
            .ok_or_else(|| Failure::invalid(format!("{name:?} is not a capability")))
    };
    names.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_has_a_bit() {
        let text = include_str!("capabilities.txt");
        for (number, name) in text.lines().enumerate() {
            assert_eq!(
                set_of(&[name.to_owned()]).unwrap().bits(),
                1 << number,
                "{name}"
            );
        }
        assert_eq!(text.lines().count(), 41);
    }
}
