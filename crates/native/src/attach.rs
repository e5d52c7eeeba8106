//! Clients of a container's own streams.

use std::sync::Arc;

use slipway_engine::{ContainerState, Result, Session, SessionEnd, Streams, refuse};
use slipway_shim::protocol::{Attach, AttachStdin};

use crate::container::Container;
use crate::failure;
use crate::node::Node;
use crate::streams::{Input, Output, Terminal};

/// Whether a container could be attached to now with these streams.
pub(crate) fn check(node: &Node, id: &str, streams: Streams) -> Result<()> {
    find(node, id, streams).map(drop)
}

fn find(node: &Node, id: &str, streams: Streams) -> Result<Arc<Container>> {
    let container = node.containers.get(id)?;
    let config = &container.record.config;
    let has = Streams {
        stdin: config.stdin,
        stdout: true,
        stderr: !config.tty,
        terminal: config.tty,
    };
    refuse::attach(container.id(), &container.state(), has, streams)?;
    container.pod.shim()?;
    Ok(container)
}

/// Gives the caller the streams of a container's process (CRI `Attach`).
pub(crate) async fn attach(node: &Arc<Node>, id: &str, streams: Streams) -> Result<Session> {
    let container = find(node, id, streams)?;
    let shim = container.pod.shim()?;
    let config = &container.record.config;
    let request = Attach {
        container: container.id().to_owned(),
        stdin: match (streams.stdin, config.stdin_once) {
            (false, _) => AttachStdin::None,
            (true, false) => AttachStdin::Shared,
            (true, true) => AttachStdin::Only,
        },
        stdout: streams.stdout,
        stderr: streams.stderr && !config.tty,
    };
    let mut writers = Vec::new();
    let mut output = |wanted: bool| -> Result<_> {
        if !wanted {
            return Ok(None);
        }
        let (output, writer) = Output::pipe()?;
        writers.push(writer);
        Ok(Some(Box::pin(output) as _))
    };
    let stdout = output(request.stdout)?;
    let stderr = output(request.stderr)?;
    let input = shim.attach(request, writers).await.map_err(|error| {
        failure::of_shim(&error).context(format!("attach to container {}", container.id()))
    })?;
    let stdin = match &input {
        Some(input) if streams.stdin => Some(Box::pin(Input::to(input)?) as _),
        _ => None,
    };
    let terminal = input.filter(|_| config.tty);
    Ok(Session {
        stdin,
        stdout,
        stderr,
        terminal: terminal.map(|master| Box::new(Terminal(master)) as _),
        end: Box::pin(async move {
            container.exited().await;
            Ok(match container.state() {
                ContainerState::Exited(exit) => SessionEnd::Exited(exit.code),
                _ => SessionEnd::Detached,
            })
        }),
    })
}
