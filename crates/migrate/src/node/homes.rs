//! Directories of people on the node.

use std::path::{Path, PathBuf};

use super::look::Look;
use super::walk;

/// The first user id that is a person's, where login.defs(5) says nothing else.
const FIRST_OF_PEOPLE: u32 = 1000;

/// Shells of accounts that nobody logs in to.
const NO_SHELLS: [&str; 6] = ["nologin", "false", "sync", "shutdown", "halt", "true"];

/// `/root`, what is in `/home`, and where passwd(5) has people elsewhere: those who log in, and
/// accounts that were not made by packages.
pub(super) fn all(look: &mut Look<'_>) -> Vec<PathBuf> {
    let mut homes = vec![PathBuf::from("/root")];
    homes.extend(look.list("/home"));
    if let Some(source) = look.read("/etc/passwd") {
        for home in source.lines().filter_map(|(_, line)| of_line(line)) {
            if !homes.contains(&home) {
                homes.push(home);
            }
        }
    }
    // What is in one that cannot be listed would be told file by file.
    homes.retain(|home| look.can_list(home));
    homes
}

fn of_line(line: &str) -> Option<PathBuf> {
    let mut fields = line.split(':');
    let user = fields.nth(2)?.parse::<u32>().ok()?;
    let home = Path::new(fields.nth(2)?);
    let shell = fields.next()?.trim();
    let logs_in = !NO_SHELLS.contains(&shell.rsplit('/').next().unwrap_or_default());
    let is_own = home.is_absolute() && !walk::is_of_the_system(home);
    ((logs_in || user >= FIRST_OF_PEOPLE) && is_own).then(|| home.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_of_people_are_told_from_those_of_packages() {
        for (line, home) in [
            ("root:x:0:0:root:/root:/bin/bash", Some("/root")),
            ("anna:x:1000:1000::/data/anna:/bin/zsh", Some("/data/anna")),
            ("ci:x:998:998::/var/lib/ci:/bin/sh", Some("/var/lib/ci")),
            ("ci:x:998:998::/var/lib/ci:", Some("/var/lib/ci")),
            (
                "deploy:x:1001:1001::/data/d:/usr/sbin/nologin",
                Some("/data/d"),
            ),
            ("sync:x:4:65534:sync:/bin:/bin/sync", None),
            ("tss:x:106:113::/var/lib/tpm:/bin/false", None),
            ("nobody:x:65534:65534:nobody:/:/sbin/nologin", None),
            (
                "dev:x:1002:1002::/usr/local/dev:/bin/sh",
                Some("/usr/local/dev"),
            ),
            ("+::::::", None),
            ("", None),
            ("odd:x:1003:1003::relative:/bin/sh", None),
        ] {
            assert_eq!(of_line(line).as_deref(), home.map(Path::new), "{line}");
        }
    }
}
