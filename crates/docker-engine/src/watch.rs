//! Keeping up with Docker: its containers are all asked about when it is connected to, and each
//! again when its event stream tells of it.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::{EventMessage, EventMessageTypeEnum};
use bollard::query_parameters::{EventsOptionsBuilder, ListContainersOptionsBuilder};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use slipway_engine::{Error, Kind, Result};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::dockerd::{Link, Up};
use crate::node::{Node, Seen};
use crate::{adopt, limits, naming, sandbox};

/// How long after a failure dockerd is tried again, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long it is waited for at the daemon's start, before it is waited for in the background: another
/// engine's pods may want something meanwhile.
const FIRST_PATIENCE: Duration = Duration::from_secs(5);

/// How long what cannot be settled is left alone at most, before it is tried again.
const LONGEST_REST: Duration = Duration::from_mins(1);

/// How often dockerd is asked whether it still answers: one that hangs ends no event stream.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// How many containers are asked about at once.
const AT_ONCE: usize = 16;

/// What can change what is known of a container. The other actions (`exec_start`, `top`, …) are
/// far more frequent.
const ACTIONS: [&str; 9] = [
    "create", "start", "die", "oom", "destroy", "rename", "update", "pause", "unpause",
];

type Events = UnboundedReceiver<Result<EventMessage>>;

/// Connects to dockerd, and follows it for as long as the node is there.
///
/// # Errors
///
/// Where dockerd is of a kind that cannot be worked with. One that is not there, or does not answer
/// soon, is waited for.
pub(crate) async fn start(node: &Arc<Node>) -> Result<()> {
    let (tell, told) = oneshot::channel();
    tokio::spawn(follow(Arc::clone(node), tell));
    match timeout(FIRST_PATIENCE, told).await {
        Ok(Ok(Some(error))) if error.kind() == Kind::FailedPrecondition => Err(error),
        _ => Ok(()),
    }
}

/// `first` is told what is wrong when dockerd was tried once.
async fn follow(node: Arc<Node>, first: oneshot::Sender<Option<Error>>) {
    node.attend_remembered().await;
    let mut connected = connect(&node).await;
    if let Err(error) = &connected {
        // Whoever asks at once is told why.
        node.dockerd.set(Link::Down(error.clone()));
    }
    let is_heard = first.send(connected.as_ref().err().cloned()).is_ok();
    if is_heard && matches!(&connected, Err(error) if error.kind() == Kind::FailedPrecondition) {
        return;
    }
    let mut pause = FIRST_PAUSE;
    loop {
        let lost = match connected {
            Ok(events) => {
                pause = FIRST_PAUSE;
                tokio::select! {
                    lost = listen(&node, events) => lost,
                    silent = ping(&node) => silent,
                    never = settle(&node) => match never {},
                }
            }
            Err(error) => error,
        };
        let was_up = node.dockerd.up().is_ok();
        if was_up || pause == FIRST_PAUSE {
            tracing::error!(error = %lost, "Docker cannot be asked; waiting for it");
        }
        node.dockerd.set(Link::Down(lost));
        node.execs.abandon();
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        connected = connect(&node).await;
    }
}

/// Connects and learns what there is.
async fn connect(node: &Arc<Node>) -> Result<Events> {
    let up = node.dockerd.connect().await?;
    // What happens from here on is told, whatever is found out in the meantime.
    let events = subscribe(node, &up);
    if synchronise(node, &up).await? == Outcome::Unsettled {
        node.doubt();
    }
    tracing::info!(
        endpoint = node.dockerd.endpoint(),
        docker = up.facts.version,
        api = format!("{}.{}", up.facts.api.0, up.facts.api.1),
        containers = node.containers.all().len(),
        pods = node.pods.all().len(),
        "Docker answers"
    );
    node.dockerd.set(Link::Up(up));
    limits::set_again(node).await;
    Ok(events)
}

fn subscribe(node: &Arc<Node>, up: &Up) -> Events {
    let since = jiff::Timestamp::now();
    let since = format!("{}.{:09}", since.as_second(), since.subsec_nanosecond());
    let filters = HashMap::from([("type", vec!["container"]), ("label", vec![naming::TYPE])]);
    let options = EventsOptionsBuilder::default()
        .since(&since)
        .filters(&filters)
        .build();
    let (sender, receiver) = unbounded_channel();
    let (docker, node) = (up.docker.clone(), Arc::clone(node));
    tokio::spawn(async move {
        let mut events = docker.events(Some(options));
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                // One that hangs may never tell of anything again.
                () = sender.closed() => break,
            };
            let Some(event) = event else { break };
            let endpoint = node.dockerd.endpoint();
            let event =
                event.map_err(|error| crate::failure::of_docker("follow events", endpoint, &error));
            let failed = event.is_err();
            if sender.send(event).is_err() || failed {
                break;
            }
        }
    });
    receiver
}

/// Whether all is known and all was given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Settled,
    Unsettled,
}

/// Asks about everything again whenever there is doubt.
async fn settle(node: &Arc<Node>) -> Infallible {
    let (mut rest, mut outcome) = (FIRST_PAUSE, Outcome::Settled);
    loop {
        let doubted = node.doubts.notified();
        if outcome == Outcome::Settled {
            doubted.await;
            sleep(FIRST_PAUSE).await;
        } else {
            sleep(rest.min(LONGEST_PAUSE)).await;
            // What is new does not wait for as long as what cannot be settled.
            let _ = timeout(rest.saturating_sub(LONGEST_PAUSE), doubted).await;
        }
        let asked = async { synchronise(node, &node.dockerd.up()?).await }.await;
        if asked.is_ok() {
            let node = Arc::clone(node);
            // It waits for those who start or update a container, and others are not to wait for them.
            tokio::spawn(async move { limits::set_again(&node).await });
        }
        outcome = asked.unwrap_or_else(|error| {
            tracing::warn!(%error, "what Docker has is not known for certain");
            Outcome::Unsettled
        });
        rest = match outcome {
            Outcome::Settled => FIRST_PAUSE,
            Outcome::Unsettled => (rest * 2).min(LONGEST_REST),
        };
    }
}

/// Asks about everything, and gives back what no pod stands for.
async fn synchronise(node: &Arc<Node>, up: &Up) -> Result<Outcome> {
    // Before Docker is asked, so that nothing that is there only since then is taken for a leftover.
    let attached = node
        .network
        .cached()
        .map_err(|error| crate::failure::of_network(&error))?;
    let checkpointed = node.checkpoints.ids()?;
    let pinned = node.pins.pods();
    let limited = node.limits.ids()?;
    let logged = node.logs.noted();
    let filters = HashMap::from([("label", vec![naming::TYPE])]);
    let options = ListContainersOptionsBuilder::default()
        .all(true)
        .filters(&filters)
        .build();
    let listed = node
        .dockerd
        .answer(
            node.config.timeout(),
            "list containers",
            up.docker.list_containers(Some(options)),
        )
        .await?;
    let ids: HashSet<String> = listed
        .into_iter()
        .filter_map(|container| container.id)
        .collect();
    let known = node
        .containers
        .all()
        .into_iter()
        .map(|known| known.id.clone());
    let pods = node.pods.all().into_iter().map(|known| known.id.clone());
    let gone: Vec<_> = known.chain(pods).filter(|id| !ids.contains(id)).collect();
    let seen: Vec<(String, Option<Seen>)> = stream::iter(ids.iter().cloned().chain(gone))
        .map(|id| async move {
            let seen = match node.refresh_from(&up.docker, &id).await {
                Ok(seen) => Some(seen),
                Err(error) if is_unanswered(&error) => return Err(error),
                // One that Docker itself cannot look at hides none of the others.
                Err(error) => {
                    tracing::error!(container = id, %error, "Docker cannot say what it is");
                    None
                }
            };
            Ok((id, seen))
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let leftovers: HashSet<_> = [attached, checkpointed, pinned]
        .into_iter()
        .flatten()
        .filter(|id| !ids.contains(id))
        .collect();
    let mut outcome = Outcome::Settled;
    for id in &leftovers {
        if sandbox::lost(node, id).await.is_err() {
            outcome = Outcome::Unsettled;
        }
    }
    for id in limited.iter().filter(|id| !ids.contains(*id)) {
        node.limits.remove(id)?;
    }
    for id in logged.iter().filter(|id| !ids.contains(*id)) {
        node.logs.forget(id).await;
    }
    for (id, seen) in &seen {
        let undone = match seen {
            None => false,
            Some(Seen::HalfMade) => sandbox::undo_half_made(node, &up.docker, id).await.is_ok(),
            Some(_) => true,
        };
        if !undone {
            outcome = Outcome::Unsettled;
        }
    }
    for pod in node.pods.all() {
        if pod.checkpoint.is_some() {
            continue;
        }
        if adopt::is_being_made(node, &pod) {
            let node = Arc::clone(node);
            tokio::spawn(async move {
                if adopt::adopt_when_made(&node, &pod.id).await.is_err() {
                    node.doubt();
                }
            });
        } else if adopt::adopt(node, &up.docker, &pod.id).await.is_err() {
            outcome = Outcome::Unsettled;
        }
    }
    Ok(outcome)
}

/// Whether Docker has not answered at all.
fn is_unanswered(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unavailable | Kind::DeadlineExceeded)
}

/// Takes what Docker tells, until it tells no more; answers why.
async fn listen(node: &Arc<Node>, mut events: Events) -> Error {
    while let Some(event) = events.recv().await {
        match event {
            Ok(event) => take(node, event),
            Err(error) => return error,
        }
    }
    Error::new(
        Kind::Unavailable,
        format!(
            "dockerd at {} has ended its event stream, as it does when it stops; see to it that \
             it runs",
            node.dockerd.endpoint()
        ),
    )
}

/// Asks dockerd again and again whether it answers, until it does not; answers why.
async fn ping(node: &Arc<Node>) -> Error {
    let ask = || {
        let what = "ask whether Docker answers";
        let asked = |docker: bollard::Docker| async move { docker.ping().await };
        node.dockerd.call(what, asked)
    };
    loop {
        sleep(PING_INTERVAL).await;
        let mut answer = ask().await;
        // One connection may break.
        if matches!(&answer, Err(error) if error.kind() == Kind::Unavailable) {
            answer = ask().await;
        }
        match answer {
            Err(error) if is_unanswered(&error) => return error,
            // Whatever it says, it has answered.
            _ => {}
        }
    }
}

fn take(node: &Arc<Node>, event: EventMessage) {
    let (Some(EventMessageTypeEnum::CONTAINER), Some(action)) = (event.typ, event.action) else {
        return;
    };
    let actor = event.actor.unwrap_or_default();
    let attributes = actor.attributes.unwrap_or_default();
    let Some(id) = actor.id else { return };
    if action == "exec_die" {
        let code = attributes
            .get("exitCode")
            .and_then(|code| code.parse().ok());
        if let Some(exec) = attributes.get("execID") {
            node.execs.ended(exec, code.unwrap_or(255));
        }
        return;
    }
    if !ACTIONS.contains(&action.as_str()) {
        return;
    }
    if action == "oom" {
        node.note_out_of_memory(&id);
    }
    let pod = attributes
        .get(naming::TYPE)
        .is_some_and(|kind| kind == naming::SANDBOX);
    let name = attributes.get("name").map(String::as_str);
    if pod && name.is_some_and(|name| node.makings.knows(name, &action)) {
        return;
    }
    let node = Arc::clone(node);
    tokio::spawn(async move {
        let settled = match node.see(&id).await {
            // What Docker was asked for by somebody who has not waited for it.
            Ok(Seen::HalfMade) => match node.dockerd.up() {
                Ok(up) => sandbox::undo_half_made(&node, &up.docker, &id).await,
                Err(error) => Err(error),
            },
            Ok(_) if pod && action == "destroy" => sandbox::lost(&node, &id).await,
            Ok(_) if pod && action == "start" => adopt::adopt_when_made(&node, &id).await,
            Ok(_) if action == "start" => {
                limits::set_again_of(&node, &id).await;
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::warn!(container = id, %error, "what has happened to it is not known yet");
                Err(error)
            }
        };
        if settled.is_err() {
            node.doubt();
        }
    });
}
