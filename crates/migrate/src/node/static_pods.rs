//! Static pods: manifests that the kubelet runs from a directory of the node.

use super::Facts;
use super::look::Look;
use crate::Evidence;
use crate::document::{self, Format};
use crate::object::{self, Object};
use crate::rules;

/// Where kubeadm has them.
const DIRECTORY: &str = "/etc/kubernetes/manifests";

pub(super) fn check(look: &mut Look<'_>, facts: &Facts) {
    let named = facts.kubelet.setting("pod-manifest-path", "staticPodPath");
    let directory = named.map_or_else(|| DIRECTORY.to_string(), |said| said.value);
    let mut objects = Vec::new();
    for path in look.list(directory) {
        // The kubelet takes every file but hidden ones, whatever its name ends with.
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden || look.metadata(&path).is_none_or(|one| !one.is_file()) {
            continue;
        }
        let Some(source) = look.read(&path) else {
            continue;
        };
        match document::read(&source, Format::Yaml) {
            Ok(documents) => {
                objects.extend(documents.into_iter().flat_map(|one| Object::of(one, Some(&source))));
            }
            Err(error) => look.report.find(
                &rules::FILE_MALFORMED,
                [Evidence::placed(&path, error.place)],
                format!("{} cannot be read: {error}", path.display()),
                "Repair the file: the kubelet runs no pod of it, and what it says was not looked at",
            ),
        }
    }
    object::check(&mut look.report, &objects);
}
