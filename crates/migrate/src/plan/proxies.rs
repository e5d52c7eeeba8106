//! The proxies that dockerd had, in a drop-in of the target's unit.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::files::Files;
use super::runtime::OWN;
use super::{Error, Target};
use crate::secrets;

/// Writes them, by name and value. Everybody on the node can ask systemd for `Environment=`, so what has a
/// password is in a file of variables beside the drop-in, which root alone reads (systemd.exec(5)).
pub(super) fn change(
    files: &mut Files<'_>,
    target: Target,
    proxies: &[(String, String)],
) -> Result<(), Error> {
    if proxies.is_empty() {
        return Ok(());
    }
    let unit = target.service();
    let beside = |end: &str| PathBuf::from(format!("/etc/systemd/system/{unit}.d/{OWN}.{end}"));
    let has_password = |value: &str| secrets::proxy(value) != value;
    let (mut unit, mut variables) = (String::from("[Service]\n"), String::new());
    for (name, value) in proxies {
        let name = name.to_uppercase();
        if has_password(value) {
            let _ = writeln!(variables, "{name}=\"{}\"", escaped(value));
        } else {
            // systemd.unit(5): a percent sign alone begins a specifier.
            let value = value.replace('%', "%%").replace('"', "\\\"");
            let _ = writeln!(unit, "Environment=\"{name}={value}\"");
        }
    }
    // First of all, and last on the way back: the unit does not start without it.
    if !variables.is_empty() {
        let path = beside("env");
        let _ = writeln!(unit, "EnvironmentFile={}", path.display());
        files.write(&path, variables.into_bytes())?;
    }
    files.write(&beside("conf"), unit.into_bytes())
}

/// A value as it is written between double quotes in a file of variables.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for letter in value.chars() {
        if matches!(letter, '"' | '\\' | '`' | '$') {
            text.push('\\');
        }
        text.push(letter);
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::document::{EnvFile, Source};

    proptest! {
        #[test]
        fn a_value_is_read_as_it_was(value in "([a-z \"'`$%#;\\\\=\u{e4}]|\t)*") {
            let source = Source::new("/x", format!("A=\"{}\"\nB=1\n", escaped(&value)));
            let file = EnvFile::read(&source);
            prop_assert_eq!(file.get("A").map(|one| one.value.text()), Some(value.as_str()));
            prop_assert_eq!(file.get("B").map(|one| one.value.text()), Some("1"));
        }
    }
}
