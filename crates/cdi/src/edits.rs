use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::model::{ContainerEdits, DeviceNode, Hook, Mount, NodeKind};
use crate::{Error, QualifiedName, Registry, Result};

/// What is to be changed in the configuration of a container, for the devices that it uses.
#[derive(Debug, Default)]
pub struct Edits {
    names: Vec<QualifiedName>,
    files: Vec<PathBuf>,
    pub(crate) env: Vec<String>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) hooks: Vec<Hook>,
    pub(crate) groups: Vec<u32>,
}

/// A device node with all that its file leaves open.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) path: PathBuf,
    /// Not [`NodeKind::OfNode`].
    pub(crate) kind: NodeKind,
    pub(crate) major: i64,
    pub(crate) minor: i64,
    pub(crate) permissions: String,
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Owner,
    pub(crate) gid: Owner,
}

/// Whom a device node is to belong to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Owner {
    /// As the file says.
    Asked(u32),
    /// As the node has it, unless the container's process is somebody else than root.
    OfNode(Option<u32>),
}

impl Edits {
    /// Adds what a device needs, which is looked for on the node. A device that is added again
    /// needs no more than before. Blocking.
    ///
    /// # Errors
    ///
    /// [`Error::Unresolvable`], or [`Error::Unusable`] for what the node does not have; nothing is
    /// added then.
    pub fn add(&mut self, registry: &Registry, name: &QualifiedName) -> Result<()> {
        if self.names.contains(name) {
            return Ok(());
        }
        let found = registry.find(name)?;
        let of_file = (!self.files.iter().any(|file| file == found.file)).then_some(found.of_file);
        let parts: Vec<&ContainerEdits> = of_file.into_iter().chain([found.of_device]).collect();
        let mut nodes = Vec::new();
        for part in &parts {
            look(part, &mut nodes).map_err(|problem| Error::Unusable {
                name: name.to_string(),
                file: found.file.to_owned(),
                problem,
            })?;
        }
        self.nodes.extend(nodes);
        for part in parts {
            self.env.extend_from_slice(&part.env);
            self.mounts.extend_from_slice(&part.mounts);
            self.hooks.extend_from_slice(&part.hooks);
            for group in &part.additional_gids {
                // 0 is what a file has that was written from a number nobody set.
                if *group != 0 && !self.groups.contains(group) {
                    self.groups.push(*group);
                }
            }
        }
        self.files.push(found.file.to_owned());
        self.names.push(name.clone());
        Ok(())
    }

    /// The groups that the process is to be in besides its own.
    pub fn additional_gids(&self) -> &[u32] {
        &self.groups
    }
}

/// Looks on the node for what edits name.
fn look(edits: &ContainerEdits, nodes: &mut Vec<Node>) -> std::result::Result<(), String> {
    if edits.intel_rdt.is_some() {
        return Err("it asks for intelRdt, which is not supported".to_owned());
    }
    for node in &edits.device_nodes {
        nodes.push(Node::complete(node)?);
    }
    for mount in edits.mounts.iter().filter(|mount| mount.is_bind()) {
        mount.host_path.metadata().map_err(|error| {
            format!(
                "{}, which it mounts on {}: {error}",
                mount.host_path.display(),
                mount.container_path.display()
            )
        })?;
    }
    Ok(())
}

impl Node {
    fn complete(asked: &DeviceNode) -> std::result::Result<Self, String> {
        let host = asked.host_path.as_ref().unwrap_or(&asked.path);
        let on_node = OnNode::at(host);
        let is_complete = match asked.kind {
            NodeKind::OfNode => false,
            NodeKind::Pipe => true,
            NodeKind::Block | NodeKind::Character => asked.major != 0,
        };
        let mut node = Self {
            path: asked.path.components().collect(),
            kind: asked.kind,
            major: asked.major,
            minor: asked.minor,
            permissions: if asked.permissions.is_empty() {
                "rwm".to_owned()
            } else {
                asked.permissions.clone()
            },
            mode: asked.file_mode,
            uid: asked.uid.map_or(Owner::OfNode(None), Owner::Asked),
            gid: asked.gid.map_or(Owner::OfNode(None), Owner::Asked),
        };
        let host = host.display();
        let found = match on_node {
            Ok(Some(found)) => found,
            _ if is_complete => return Ok(node),
            Ok(None) => return Err(format!("{host} is not a device")),
            Err(error) => return Err(format!("{host}: {error}")),
        };
        if asked.kind == NodeKind::OfNode {
            node.kind = found.kind;
        } else if asked.kind != found.kind {
            return Err(format!(
                "{host} is to be a {}, and is a {}",
                asked.kind.word(),
                found.kind.word()
            ));
        }
        if node.major == 0 && node.kind != NodeKind::Pipe {
            (node.major, node.minor) = (found.major, found.minor);
        }
        node.mode = node.mode.or(Some(found.mode));
        node.uid = asked
            .uid
            .map_or(Owner::OfNode(Some(found.uid)), Owner::Asked);
        node.gid = asked
            .gid
            .map_or(Owner::OfNode(Some(found.gid)), Owner::Asked);
        Ok(node)
    }
}

impl NodeKind {
    fn word(self) -> &'static str {
        match self {
            Self::Block => "block device",
            Self::Character => "character device",
            Self::Pipe => "pipe",
            Self::OfNode => "device",
        }
    }
}

/// What the node has at a path, links followed.
struct OnNode {
    kind: NodeKind,
    major: i64,
    minor: i64,
    mode: u32,
    uid: u32,
    gid: u32,
}

impl OnNode {
    /// None where it is not something that a device node can be.
    fn at(path: &Path) -> io::Result<Option<Self>> {
        let metadata = path.metadata()?;
        let file_type = metadata.file_type();
        let kind = if file_type.is_char_device() {
            NodeKind::Character
        } else if file_type.is_block_device() {
            NodeKind::Block
        } else if file_type.is_fifo() {
            NodeKind::Pipe
        } else {
            return Ok(None);
        };
        Ok(Some(Self {
            kind,
            major: i64::from(rustix::fs::major(metadata.rdev())),
            minor: i64::from(rustix::fs::minor(metadata.rdev())),
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
        }))
    }
}
