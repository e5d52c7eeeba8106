//! `slipway migrate cluster`: one node after the other, through the Kubernetes API.
//!
//! For each node there is a Job, whose pod starts the move on the host and ends: it cannot live on a
//! node whose runtime is exchanged. The host's move says in an annotation of the Node
//! ([`ANNOTATION`]) how far it has come, and that is followed here. Nothing else is remembered
//! anywhere: who begins again looks at the Nodes, passes over those that have moved, follows those
//! that are about it, and begins with the others. Only one run does so at a time: it holds a Lease
//! (`slipway-migrate` in `kube-system`).

mod announce;
mod begin;
mod credentials;
mod lease;
mod node;
mod objects;
mod state;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::num::NonZero;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use kube::Config;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cluster::{self, Access, Unreachable};
use crate::control_plane::client::{Api, Collection};
use crate::control_plane::preflight::{self, missing};
use crate::control_plane::refusal::Refusal;
use crate::control_plane::request::{
    JOBS, NAMESPACES, NODES, PODS, Permission, SECRETS, SERVICE_ACCOUNTS, Verb,
};
use crate::control_plane::{self, Needs};
use crate::plan::{Target, runtime_name};
pub use announce::Announcer;
pub use begin::{BeginError, Begun, Pod, UNIT};
use objects::{NAME, Object};
pub use state::{ANNOTATION, Phase, State};

/// For requests that are not about waiting.
const PATIENCE: Duration = Duration::from_mins(2);

/// What kubeadm, and its older versions, call control planes.
const CONTROL_PLANES: [&str; 2] = [
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/master",
];

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the nodes move to.
    pub target: Target,
    /// As many nodes may be away at a time, those that are already among them. Control planes go one
    /// by one, and last.
    pub max_unavailable: NonZero<usize>,
    /// The nodes; without any, all.
    pub nodes: Vec<String>,
    /// An image that has `slipway` in it, for the Jobs.
    pub image: String,
    /// What `slipway migrate apply` is told beside that.
    pub arguments: Vec<String>,
    /// Where nodes find the API server; without it, where it was found from here.
    pub server: Option<String>,
    /// How long a node may take to say anything at all.
    pub start: Duration,
    /// How long a node may take to move.
    pub patience: Duration,
    /// After so long without being renewed, the lease of another run is that of one that was killed.
    /// Whole seconds.
    pub lease: Duration,
}

/// What is heard while nodes move.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// Somebody else has said that a run of theirs is at work, for so long at most; whether it still is,
    /// is looked at.
    Waits(&'a str, Duration),
    /// A node is there already.
    Passed(&'a str),
    /// A node is asked to move.
    Begins(&'a str),
    /// A node was about it already.
    Follows(&'a str),
    /// What a node says of itself.
    Says(&'a str, &'a Phase),
    /// A node has moved.
    Moved(&'a str),
    /// A node is not in the cluster any more.
    Gone(&'a str),
}

/// Why not all nodes have moved.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no way to the cluster.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// Something that has to be done before the first node moves.
    #[error(transparent)]
    ControlPlane(#[from] control_plane::Error),
    /// Another run is at work.
    #[error(
        "another slipway migrate cluster is at work on this cluster ({holder}, which renews the Lease kube-system/slipway-migrate): wait for it, or stop it"
    )]
    Busy {
        /// Its host, process and beginning.
        holder: String,
    },
    /// Another run has taken over.
    #[error(
        "another slipway migrate cluster has taken over ({holder} holds the Lease kube-system/slipway-migrate), because this one could not be heard of: it follows the nodes that are about it"
    )]
    TakenOver {
        /// Its host, process and beginning.
        holder: String,
    },
    /// As many nodes are away as may be, or more.
    #[error(
        "{}, and no more than {allowed} may be away: mend that first, or allow more with --max-unavailable", .nodes.join(", ")
    )]
    Unavailable {
        /// Which, and why.
        nodes: Vec<String>,
        /// By [`Options::max_unavailable`].
        allowed: usize,
    },
    /// One of the nodes, or more than one where more were let go at a time.
    #[error("{}{}; mend that, and go on with the same command", .failed.join("; "), not_begun(.left))]
    Stopped {
        /// What is wrong, with the Node's name.
        failed: Vec<String>,
        /// Which were not begun.
        left: Vec<String>,
    },
}

fn not_begun(nodes: &[String]) -> String {
    match nodes {
        [] => String::new(),
        nodes => format!("; not begun: {}", nodes.join(", ")),
    }
}

/// What becomes of a node that is next.
enum Next {
    Moves(Value),
    /// As many as may be are away; which, beside ours, and why.
    Full(Vec<String>),
    /// It has moved meanwhile.
    There(Value),
    /// It is not Ready any more.
    Away,
    /// The cluster has no such Node any more.
    Gone,
}

/// How nodes are, in the order in which they come.
#[derive(Debug, Default)]
struct Lots {
    /// They are there already.
    passed: Vec<Value>,
    /// They are about it, whoever asked them to, or were left in the middle of it.
    going: Vec<Value>,
    workers: Vec<Value>,
    control_planes: Vec<Value>,
    /// They cannot move, because they are away.
    away: Vec<String>,
}

impl Lots {
    /// Those of the nodes that are away that were to move.
    fn asked_for(&self, options: &Options) -> Vec<String> {
        let wanted = &options.nodes;
        let mut away = self.away.clone();
        away.retain(|node| wanted.is_empty() || wanted.contains(node));
        away
    }
}

/// A rollout that is going on.
struct Rollout<'a> {
    api: Api,
    /// Whom the lease says that holds it.
    identity: String,
    config: Config,
    /// Until when the credentials hold that a Job gets now.
    credentials_end: Cell<Option<Instant>>,
    options: &'a Options,
    heard: &'a dyn Fn(Event<'_>),
}

/// Moves a cluster's nodes, and waits until they have; or until one of them does not come back.
///
/// What is made in the cluster is taken away at the end, but not while a node is in the middle of its
/// move: whoever runs this again does that.
///
/// # Errors
///
/// What keeps the nodes that are left from moving.
pub async fn run(
    access: &Access,
    options: &Options,
    heard: &dyn Fn(Event<'_>),
) -> Result<(), Error> {
    let config = cluster::config(access).await?;
    let api = Api::new(config.clone());
    let api = api.map_err(|error| Unreachable::Client(Box::new(error)))?;
    let rollout = Rollout {
        api,
        identity: lease::identity(),
        config,
        credentials_end: Cell::new(None),
        options,
        heard,
    };
    rollout.check_access().await?;
    rollout.acquire().await?;
    let ended = tokio::select! {
        ended = rollout.work() => ended,
        holder = rollout.keep() => return Err(Error::TakenOver { holder }),
    };
    rollout.release().await;
    ended
}

/// What has become of the nodes so far.
#[derive(Debug, Default)]
struct SoFar {
    /// So many were asked to move, or followed.
    begun: usize,
    /// Why nodes have not moved.
    failed: Vec<String>,
    /// Who is away, where no other node may be.
    full: Option<Vec<String>>,
    /// Nodes that were not begun.
    left: Vec<String>,
    /// Nodes that were to move, and could not because they are away.
    alone: Vec<String>,
}

impl SoFar {
    /// Whether another node may be asked.
    fn goes_on(&self) -> bool {
        self.failed.is_empty() && self.full.is_none()
    }
}

impl Rollout<'_> {
    /// All that is done while the lease is held.
    async fn work(&self) -> Result<(), Error> {
        let options = self.options;
        let mut lots = self.sort().await?;
        for node in &lots.passed {
            (self.heard)(Event::Passed(name(node)));
            self.silence(node).await?;
        }
        let waiting = lots.workers.len() + lots.control_planes.len();
        if waiting + lots.going.len() == 0 {
            self.clean_up().await?;
            return ended(Vec::new(), Vec::new(), lots.asked_for(options));
        }
        if let Err(error) = self.set_up().await {
            // What keeps it from being made is the news.
            let _ = self.clean_up().await;
            return Err(error);
        }
        let mut so_far = SoFar {
            alone: lots.asked_for(options),
            ..SoFar::default()
        };
        let going = std::mem::take(&mut lots.going);
        self.follow_all(&going, &mut so_far).await;
        for (nodes, at_a_time) in [(lots.workers, usize::MAX), (lots.control_planes, 1)] {
            self.move_all(&nodes, at_a_time, &mut so_far).await;
        }
        let cleaned = self.clean_up().await;
        if let Some(nodes) = so_far.full {
            let allowed = options.max_unavailable.get();
            let error = Error::Unavailable { nodes, allowed };
            if so_far.begun == 0 && so_far.failed.is_empty() {
                // That no node moved is the news.
                return Err(error);
            }
            so_far.failed.push(error.to_string());
        }
        if let Err(error) = cleaned {
            so_far.failed.push(error.to_string());
        }
        ended(so_far.failed, so_far.left, so_far.alone)
    }

    async fn check_access(&self) -> Result<(), Error> {
        let mut needed = vec![
            Permission::new(Verb::List, NODES),
            Permission::new(Verb::Watch, NODES),
            Permission::new(Verb::Patch, NODES),
            Permission::new(Verb::List, NAMESPACES),
            Permission::new(Verb::Watch, NAMESPACES),
            Permission::new(Verb::Create, SERVICE_ACCOUNTS)
                .within(NAME)
                .on("token"),
        ];
        for object in objects::standing(&account_needs()) {
            for verb in [Verb::Create, Verb::Patch, Verb::Delete] {
                needed.push(Permission::new(verb, object.kind).within(&object.namespace));
            }
        }
        for verb in [Verb::Create, Verb::Patch] {
            needed.push(Permission::new(verb, SECRETS).within(NAME));
        }
        for verb in [Verb::Create, Verb::List, Verb::Watch, Verb::Delete] {
            needed.push(Permission::new(verb, JOBS).within(NAME));
        }
        needed.push(Permission::new(Verb::List, PODS).within(NAME));
        needed.extend(lease::VERBS.map(lease::permission));
        let missing = missing(&self.api, &needed, soon()).await;
        let missing = missing.map_err(failed("asking what is allowed"))?;
        if missing.is_empty() {
            return Ok(());
        }
        let missing: Vec<_> = missing.iter().map(ToString::to_string).collect();
        let why = format!(
            "RBAC does not allow what it needs: {}; take a kubeconfig of an administrator",
            missing.join(", ")
        );
        Err(control_plane::Error::new("moving the cluster's nodes", why).into())
    }

    async fn sort(&self) -> Result<Lots, Error> {
        let listed = self.api.list(&Collection::of(NODES), soon()).await;
        let (nodes, _) = listed.map_err(failed("listing the Nodes"))?;
        for wanted in &self.options.nodes {
            if !nodes.contains_key(&(String::new(), wanted.clone())) {
                let names = nodes.keys().map(|(_, name)| name.clone()).collect();
                let similar = preflight::similar(wanted, names);
                let what = format!("moving the Node {wanted}");
                let why = format!("the cluster has no Node of that name, but {similar}");
                return Err(control_plane::Error::new(what, why).into());
            }
        }
        let mut lots = Lots::default();
        for (_, node) in nodes {
            let wanted = &self.options.nodes;
            if !wanted.is_empty() && !wanted.iter().any(|wanted| wanted == name(&node)) {
                if !control_plane::is_ready(&node) {
                    lots.away.push(name(&node).to_string());
                }
                continue;
            }
            let labels = &node["metadata"]["labels"];
            let state = State::of(&node);
            let ready = control_plane::is_ready(&node);
            let there = ready && is_there(&node, self.options.target);
            // One that was left in the middle is not over wherever its pods run: what is wrong with it
            // is said before another one begins.
            let is_open = |state: &State| state.is_going_on() || state.is_stopped();
            if state.as_ref().is_some_and(is_open) {
                lots.going.push(node);
            } else if there {
                lots.passed.push(node);
            } else if !ready {
                lots.away.push(name(&node).to_string());
            } else if CONTROL_PLANES.iter().any(|label| !labels[label].is_null()) {
                lots.control_planes.push(node);
            } else {
                lots.workers.push(node);
            }
        }
        Ok(lots)
    }

    /// Follows nodes that are about it, whether or not they could be asked to.
    async fn follow_all(&self, nodes: &[Value], so_far: &mut SoFar) {
        so_far.begun += nodes.len();
        let mut going: FuturesUnordered<_> =
            nodes.iter().map(|node| self.move_node(node)).collect();
        while let Some(moved) = going.next().await {
            so_far.failed.extend(moved.err());
        }
    }

    /// Moves nodes, as many at a time as may be away, and no more than `at_a_time`; none more once one
    /// has failed. Much may have happened since the last one was asked, so the cluster is looked at
    /// again before each.
    async fn move_all(&self, nodes: &[Value], at_a_time: usize, so_far: &mut SoFar) {
        let mut waiting = nodes.iter().map(name).peekable();
        let mut running = FuturesUnordered::new();
        let mut moving = BTreeSet::new();
        loop {
            while so_far.goes_on() && moving.len() < at_a_time {
                let Some(next) = waiting.peek().copied() else {
                    break;
                };
                match self.look_at(next, &moving).await {
                    Ok(Next::Full(_)) if !moving.is_empty() => break,
                    Ok(Next::Full(away)) => {
                        so_far.full = Some(away);
                        break;
                    }
                    Ok(Next::Moves(node)) => {
                        moving.insert(next);
                        so_far.begun += 1;
                        running.push(async move { (next, self.move_node(&node).await) });
                    }
                    Ok(Next::Gone) => (self.heard)(Event::Gone(next)),
                    Ok(Next::There(node)) => {
                        (self.heard)(Event::Passed(next));
                        let silenced = self.silence(&node).await;
                        so_far
                            .failed
                            .extend(silenced.err().map(|error| error.to_string()));
                    }
                    Ok(Next::Away) => so_far.alone.push(next.to_string()),
                    Err(error) => {
                        so_far.failed.push(error.to_string());
                        break;
                    }
                }
                waiting.next();
            }
            let Some((name, moved)) = running.next().await else {
                break;
            };
            moving.remove(name);
            so_far.failed.extend(moved.err());
        }
        so_far.left.extend(waiting.map(str::to_string));
    }

    /// Looks whether a node can be asked now, while others of ours are `moving`.
    async fn look_at(&self, next: &str, moving: &BTreeSet<&str>) -> Result<Next, Error> {
        let listed = self.api.list(&Collection::of(NODES), soon()).await;
        let (mut nodes, _) = listed.map_err(failed("listing the Nodes"))?;
        let Some(node) = nodes.remove(&(String::new(), next.to_string())) else {
            return Ok(Next::Gone);
        };
        let ready = control_plane::is_ready(&node);
        if ready && is_there(&node, self.options.target) {
            return Ok(Next::There(node));
        }
        if !ready {
            return Ok(Next::Away);
        }
        let others = nodes.values().filter(|node| !moving.contains(name(node)));
        let away: Vec<_> = others.filter_map(away).collect();
        if away.len() + moving.len() < self.options.max_unavailable.get() {
            return Ok(Next::Moves(node));
        }
        Ok(Next::Full(away))
    }

    async fn set_up(&self) -> Result<(), Error> {
        // An earlier one may be going still, and nothing can be made in it.
        let namespaces = Collection {
            fields: format!("metadata.name={NAME}"),
            ..Collection::of(NAMESPACES)
        };
        let until = soon();
        let usable = self.api.follow(&namespaces, until, |namespaces| {
            let mut going = namespaces
                .values()
                .map(|one| &one["metadata"]["deletionTimestamp"]);
            going.all(Value::is_null).then_some(())
        });
        usable.await.map_err(failed("preparing the cluster"))?;
        for object in objects::standing(&account_needs()) {
            self.ensure(&object).await?;
        }
        self.provide_credentials().await
    }

    /// Makes an object, or has the one that is there be like it.
    async fn ensure(&self, object: &Object) -> Result<(), Error> {
        let until = soon();
        let of = |verb| Permission::new(verb, object.kind).within(&object.namespace);
        let create = of(Verb::Create).ask().body(object.body.clone());
        let done = match self.api.ask(&create, until).await {
            Err(Refusal::AlreadyExists(_)) => {
                let patch = of(Verb::Patch).named(object.name()).ask();
                self.api.ask(&patch.body(object.body.clone()), until).await
            }
            other => other,
        };
        done.map(|_| ()).map_err(failed("preparing the cluster"))
    }

    /// Takes away what was made; not while a node is in the middle of its move, and may need it. The
    /// namespace goes last, with all that is in it.
    async fn clean_up(&self) -> Result<(), Error> {
        let listed = self.api.list(&Collection::of(NODES), soon()).await;
        let (nodes, _) = listed.map_err(failed("listing the Nodes"))?;
        let mut states = nodes.values().filter_map(State::of);
        if states.any(|state| state.is_going_on() || state.is_stopped()) {
            return Ok(());
        }
        for object in objects::standing(&account_needs()).iter().rev() {
            let delete = Permission::new(Verb::Delete, object.kind).within(&object.namespace);
            let delete = delete.named(object.name()).ask();
            match self.api.ask(&delete, soon()).await {
                Ok(_) | Err(Refusal::NotFound(_)) => {}
                // The namespace is going already.
                Err(Refusal::Conflict(_)) if object.kind == NAMESPACES => {}
                Err(refusal) => return Err(failed("cleaning the cluster up")(refusal)),
            }
        }
        Ok(())
    }

    /// Takes away what a Node says of its move.
    async fn silence(&self, node: &Value) -> Result<(), Error> {
        if node["metadata"]["annotations"][ANNOTATION].is_null() {
            return Ok(());
        }
        let said = self.annotate(node, None).await;
        said.map_err(failed("annotating a Node"))
    }

    async fn annotate(&self, node: &Value, state: Option<&State>) -> Result<(), Refusal> {
        let text = state.map(State::to_text);
        let patch = json!({ "metadata": { "annotations": { ANNOTATION: text } } });
        let ask = Permission::new(Verb::Patch, NODES).named(name(node)).ask();
        self.api.ask(&ask.body(patch), soon()).await.map(|_| ())
    }
}

/// What the nodes' account has to be allowed: all that any node's steps ask for.
fn account_needs() -> Vec<Permission> {
    let all = Needs {
        drain: true,
        config_map: true,
        probe: true,
    };
    let needed = preflight::needed(all, "");
    needed.into_iter().chain(preflight::helpful()).collect()
}

/// Why pods cannot count on a node, where they cannot.
fn away(node: &Value) -> Option<String> {
    let why = if !control_plane::is_ready(node) {
        "is not Ready"
    } else if node["spec"]["unschedulable"] == true {
        "is cordoned"
    } else if State::of(node).is_some_and(|state| state.is_going_on()) {
        "is moving"
    } else {
        return None;
    };
    Some(format!("{} {why}", name(node)))
}

/// Whether a node runs its pods on the target.
fn is_there(node: &Value, target: Target) -> bool {
    let runtime = node["status"]["nodeInfo"]["containerRuntimeVersion"].as_str();
    let runs = runtime.is_some_and(|runtime| runtime.starts_with(runtime_name(target)));
    // From the outside, cri-dockerd and dockershim are the same but for this.
    let socket = node["metadata"]["annotations"][crate::plan::CRI_SOCKET].as_str();
    runs && (target != Target::CriDockerd || socket == Some(target.endpoint()))
}

/// When a request that is not about waiting is given up.
fn soon() -> Instant {
    Instant::now() + PATIENCE
}

fn ended(failed: Vec<String>, left: Vec<String>, away: Vec<String>) -> Result<(), Error> {
    let away = away.into_iter();
    let away = away.map(|node| format!("the Node {node} is not Ready, and was left alone"));
    let failed: Vec<_> = failed.into_iter().chain(away).collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::Stopped { failed, left })
}

fn name(node: &Value) -> &str {
    node["metadata"]["name"].as_str().unwrap_or_default()
}

fn failed(what: &str) -> impl FnOnce(Refusal) -> Error {
    let what = what.to_string();
    move |refusal| Error::ControlPlane(control_plane::Error::new(what, refusal))
}
