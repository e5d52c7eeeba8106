//! Limits on huge pages.

use std::fs;

use crate::changes::Changes;
use crate::{Cgroup, Error, Resources};

/// The sizes of huge pages that this kernel has, in its spelling: `2MB`, `1GB`.
pub fn huge_page_sizes() -> Vec<String> {
    let entries = fs::read_dir("/sys/kernel/mm/hugepages")
        .into_iter()
        .flatten()
        .flatten();
    let mut sizes: Vec<_> = entries
        .filter_map(|entry| spelled(entry.file_name().to_str()?))
        .collect();
    sizes.sort();
    sizes
}

/// `hugepages-2048kB` as the hugetlb controller spells it: `2MB`.
fn spelled(directory: &str) -> Option<String> {
    let kilobytes: u64 = directory
        .strip_prefix("hugepages-")?
        .strip_suffix("kB")?
        .parse()
        .ok()?;
    Some(match kilobytes {
        gigabytes if gigabytes >= 1 << 20 => format!("{}GB", gigabytes >> 20),
        megabytes if megabytes >= 1 << 10 => format!("{}MB", megabytes >> 10),
        kilobytes => format!("{kilobytes}KB"),
    })
}

/// Writes the limits on pages in use and, where the kernel has them, on pages reserved.
pub(crate) fn apply(
    cgroup: &Cgroup,
    resources: &Resources,
    changes: &mut Changes,
    limit_file: &str,
) -> Result<(), Error> {
    for (size, limit) in &resources.hugepages {
        check_page_size(size)?;
        let directory = match cgroup.directory_of("hugetlb") {
            Some(directory) => directory,
            None if *limit == 0 => continue,
            None => cgroup.require("hugetlb", "huge pages")?,
        };
        let limit = limit.to_string();
        changes.write(
            &directory.join(format!("hugetlb.{size}.{limit_file}")),
            &limit,
        )?;
        let reserved = directory.join(format!("hugetlb.{size}.rsvd.{limit_file}"));
        if reserved.exists() {
            changes.write(&reserved, &limit)?;
        }
    }
    Ok(())
}

/// Refuses what is not the size part of a control file's name.
fn check_page_size(size: &str) -> Result<(), Error> {
    if !size.is_empty() && size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Ok(());
    }
    Err(Error::Invalid {
        setting: format!("huge page size {size:?}"),
        problem: "it must be spelled as the kernel does, such as 2MB".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_spelled_as_the_controller_does() {
        for (directory, size) in [
            ("hugepages-64kB", "64KB"),
            ("hugepages-2048kB", "2MB"),
            ("hugepages-524288kB", "512MB"),
            ("hugepages-1048576kB", "1GB"),
            ("hugepages-16777216kB", "16GB"),
        ] {
            assert_eq!(spelled(directory).as_deref(), Some(size));
        }
        assert_eq!(spelled("hugepages-xkB"), None);
    }
}
