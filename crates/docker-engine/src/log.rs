//! Container logs: at the path that a kubelet expects there is a link to Docker's own file, as
//! dockershim had it.
//!
//! Docker writes a log once, in a format of its own (`json-file`), which kubelets and crictl read
//! beside that of CRI. A copy in CRI's format would be written twice, by a process that must not
//! stop. So Docker rotates it as well (`max-size` and `max-file` of its log options).

use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use slipway_engine::Error;

use crate::inspect::Container;
use crate::node::Node;
use crate::sandbox::blocking;

/// Puts the link for a container that was started, which it is whether or not that can be done.
pub(crate) async fn link(node: &Node, id: &str) {
    let Ok(Some(container)) = node.containers.find(id) else {
        return;
    };
    let Some(path) = container.log_path.clone() else {
        return;
    };
    let Some(target) = container.docker_log.clone() else {
        tracing::warn!(
            container = id,
            "Docker has no log file of this container, so that there is none for a kubelet"
        );
        return;
    };
    let shown = path.display().to_string();
    let linked = blocking(move || {
        replace(&path, &target).map_err(|error| Error::internal(error.to_string()))
    });
    if let Err(error) = linked.await {
        tracing::error!(
            container = id, path = shown, %error,
            "a log path cannot be linked to Docker's file; the container goes on without"
        );
    }
}

fn replace(path: &Path, target: &Path) -> io::Result<()> {
    if std::fs::read_link(path).is_ok_and(|found| found == target) {
        return Ok(());
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    match symlink(target, path) {
        // What is left of a container of the same name and attempt.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            std::fs::remove_file(path)?;
            symlink(target, path)
        }
        other => other,
    }
}

/// Removes the link of a container that is about to be removed, whose file goes with it.
pub(crate) fn unlink(container: &Container) {
    if let Some(path) = &container.log_path
        && std::fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink())
    {
        // It has gone with its directory.
        let _ = std::fs::remove_file(path);
    }
}

/// Why no log is opened anew.
pub(crate) fn cannot_reopen(id: &str) -> Error {
    Error::unimplemented(format!(
        "ReopenContainerLog: the log of container {id} is Docker's own file, which Docker alone \
         rotates; set max-size and max-file in dockerd's log-opts, and the kubelet's \
         containerLogMaxSize above that"
    ))
}
