//! Clients of a container's own streams.

use std::sync::Arc;

use slipway_engine::{ContainerState, Result, Session, SessionEnd, Streams, Terminal, refuse};

use crate::exec::Screen;
use crate::inspect::Container;
use crate::node::Node;
use crate::output;
use crate::streams::{self, DETACH_KEYS, Pumps, Wanted};

/// Whether a container could be attached to now with these streams.
pub(crate) fn check(node: &Node, id: &str, streams: Streams) -> Result<()> {
    find(node, id, streams).map(drop)
}

fn find(node: &Node, id: &str, streams: Streams) -> Result<Arc<Container>> {
    let container = node.container(id)?;
    let has = Streams {
        stdin: container.stdin,
        stdout: true,
        stderr: !container.terminal,
        terminal: container.terminal,
    };
    refuse::attach(&container.id, &container.state, has, streams)?;
    Ok(container)
}

/// Waits until the streams have ended without the process: it still writes, or Docker, which would
/// tell of its end, is gone.
async fn cut(node: &Node, pid: Option<i32>, pumps: &mut Pumps) {
    pumps.closed().await;
    if !pid.is_some_and(output::is_open) {
        node.dockerd.lost().await;
    }
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
    let mut pumps = ends.pumps;
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
            tokio::select! {
                () = node.until(has_ended) => pumps.finish(),
                () = cut(&node, container.pid, &mut pumps) => {
                    return Err(streams::torn(&format!("container {id}")));
                }
            }
            Ok(match state().map(|container| container.state.clone()) {
                Some(ContainerState::Exited(exit)) => SessionEnd::Exited(exit.code),
                _ => SessionEnd::Detached,
            })
        }),
    })
}
