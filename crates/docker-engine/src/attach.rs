//! Clients of a container's own streams.

use std::sync::Arc;

use slipway_engine::{ContainerState, Error, Result, Session, SessionEnd, Streams, Terminal};

use crate::exec::Screen;
use crate::inspect::Container;
use crate::node::Node;
use crate::streams::{self, DETACH_KEYS, Wanted};

/// Whether a container could be attached to now with these streams.
pub(crate) fn check(node: &Node, id: &str, streams: Streams) -> Result<()> {
    find(node, id, streams).map(drop)
}

fn find(node: &Node, id: &str, streams: Streams) -> Result<Arc<Container>> {
    let container = node.container(id)?;
    let id = &container.id;
    if streams.terminal != container.terminal {
        return Err(Error::invalid(format!(
            "AttachRequest.tty is {}, and ContainerConfig.tty of container {id} is {}: they must \
             be the same",
            streams.terminal, container.terminal
        )));
    }
    if streams.stdin && !container.stdin {
        return Err(Error::invalid(format!(
            "AttachRequest.stdin: container {id} was made without standard input \
             (ContainerConfig.stdin is false)"
        )));
    }
    if let ContainerState::Exited(_) = container.state {
        return Err(Error::precondition(format!(
            "container {id} has exited: there is nothing to attach to; its log has what it wrote"
        )));
    }
    Ok(container)
}

/// Gives the caller the streams of a container's process (CRI `Attach`).
pub(crate) async fn attach(node: &Arc<Node>, id: &str, streams: Streams) -> Result<Session> {
    let container = find(node, id, streams)?;
    let id = container.id.clone();
    let wanted = Wanted {
        stdin: streams.stdin,
        stdout: streams.stdout,
        stderr: streams.stderr && !container.terminal,
        terminal: container.terminal,
        tells_end: container.stdin_once && !container.terminal,
    };
    let keys = DETACH_KEYS.replace('@', "%40");
    let path = format!(
        "/containers/{id}/attach?stream=1&stdin={}&stdout={}&stderr={}&detachKeys={keys}",
        u8::from(wanted.stdin),
        u8::from(wanted.stdout),
        u8::from(wanted.stderr),
    );
    let what = format!("attach to container {id}");
    let raw = node.dockerd.upgrade(&what, &path, None).await?;
    let ends = streams::split(raw, wanted);
    let terminal = container.terminal.then(|| {
        Box::new(Screen {
            node: Arc::clone(node),
            path: format!("/containers/{id}/resize"),
        }) as Box<dyn Terminal>
    });
    let node = Arc::clone(node);
    let pumps = ends.pumps;
    Ok(Session {
        stdin: ends.stdin,
        stdout: ends.stdout,
        stderr: ends.stderr,
        terminal,
        end: Box::pin(async move {
            let state = || node.containers.find(&id).ok().flatten();
            let has_ended = || {
                state().is_none_or(|container| matches!(container.state, ContainerState::Exited(_)))
            };
            node.until(has_ended).await;
            pumps.finish();
            Ok(match state().map(|container| container.state.clone()) {
                Some(ContainerState::Exited(exit)) => SessionEnd::Exited(exit.code),
                _ => SessionEnd::Detached,
            })
        }),
    })
}
