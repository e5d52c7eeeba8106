use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// The name of a device: `vendor.com/class=device` (CDI specification, "Kind" and "CDI Devices").
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QualifiedName {
    kind: String,
    device: String,
}

impl QualifiedName {
    /// Of a kind and a device that have been checked.
    pub(crate) fn new(kind: &str, device: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            device: device.to_owned(),
        }
    }
}

impl FromStr for QualifiedName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let parsed = match name.split_once('=') {
            None => Err("there is no \"=\" before a device"),
            Some((kind, device)) => check_kind(kind)
                .and_then(|()| check_device(device))
                .map(|()| Self::new(kind, device)),
        };
        parsed.map_err(|problem| Error::Name {
            name: name.to_owned(),
            problem,
        })
    }
}

impl fmt::Display for QualifiedName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}={}", self.kind, self.device)
    }
}

/// Checks a `vendor/class`.
pub(crate) fn check_kind(kind: &str) -> std::result::Result<(), &'static str> {
    let Some((vendor, class)) = kind.split_once('/') else {
        return Err("there is no \"/\" between a vendor and a class");
    };
    let starts = |part: &str| part.starts_with(|first: char| first.is_ascii_alphabetic());
    if !starts(vendor) || !is_word(vendor, "_-.") {
        return Err(
            "the vendor must start with a letter, end with a letter or a digit, and consist of \
             letters, digits, \"_\", \"-\" and \".\"",
        );
    }
    if !starts(class) || !is_word(class, "_-.") {
        return Err(
            "the class must start with a letter, end with a letter or a digit, and consist of \
             letters, digits, \"_\", \"-\" and \".\"",
        );
    }
    Ok(())
}

/// Checks the name of a device within its kind.
pub(crate) fn check_device(device: &str) -> std::result::Result<(), &'static str> {
    if is_word(device, "_-.:") {
        Ok(())
    } else {
        Err(
            "the device must start and end with a letter or a digit, and consist of letters, \
             digits, \"_\", \"-\", \".\" and \":\"",
        )
    }
}

/// Letters and digits, with others between them.
fn is_word(text: &str, between: &str) -> bool {
    let ends = [text.chars().next(), text.chars().last()];
    ends.iter()
        .all(|end| end.is_some_and(|end| end.is_ascii_alphanumeric()))
        && text
            .chars()
            .all(|it| it.is_ascii_alphanumeric() || between.contains(it))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_well_formed_is_read_and_written_as_it_is(
            name in "[a-zA-Z]([a-zA-Z0-9_.-]{0,8}[a-zA-Z0-9])?/[a-zA-Z]([a-zA-Z0-9_.-]{0,8}[a-zA-Z0-9])?\
                     =[a-zA-Z0-9]([a-zA-Z0-9_.:-]{0,8}[a-zA-Z0-9])?"
        ) {
            let read: QualifiedName = name.parse().unwrap();
            prop_assert_eq!(read.to_string(), name);
        }

        #[test]
        fn what_is_read_at_all_has_its_three_parts(name in "[a/=.: -]{0,9}|\\PC{0,12}") {
            if let Ok(read) = name.parse::<QualifiedName>() {
                prop_assert_eq!(read.to_string(), name.clone());
                let (kind, device) = name.split_once('=').unwrap();
                let (vendor, class) = kind.split_once('/').unwrap();
                for part in [vendor, class, device] {
                    prop_assert!(!part.is_empty());
                    prop_assert!(!part.contains(['/', '=', ',', ' ']));
                }
            }
        }
    }

    #[test]
    fn each_part_has_its_rules() {
        for name in [
            "vendor.com/gpu=0",
            "v/c=all",
            "v_1/c.d-e=GPU-1:2.3_4",
            "v/c=0",
        ] {
            assert!(name.parse::<QualifiedName>().is_ok(), "{name}");
        }
        for (name, part) in [
            ("", "\"=\""),
            ("gpu", "\"=\""),
            ("gpu=0", "\"/\""),
            ("/gpu=0", "vendor"),
            ("1v/gpu=0", "vendor"),
            ("v./gpu=0", "vendor"),
            ("v/=0", "class"),
            ("v/0=0", "class"),
            ("v/a/b=0", "class"),
            ("v/gpu=", "device"),
            ("v/gpu=:0", "device"),
            ("v/gpu=0=1", "device"),
            ("v/gpu=0 ", "device"),
            ("v/gpu=\u{e9}", "device"),
        ] {
            let error = name.parse::<QualifiedName>().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
            assert!(error.contains(&format!("{name:?}")), "{error}");
        }
    }
}
