//! A server that speaks as much of the Kubernetes API as a move away from Docker uses: objects in
//! memory, with versions, watches, evictions and RBAC, and whatever a test wants to go wrong.
//!
//! Nothing happens to an object that nobody asks for: there is no scheduler and no controller, and a
//! kubelet is whoever writes a Node's status.
//!
//! ```no_run
//! use serde_json::json;
//! use slipway_testbed::{Fault, KubernetesServer};
//!
//! # fn test() -> anyhow::Result<()> {
//! let server = KubernetesServer::start()?;
//! server.put(json!({ "kind": "Node", "metadata": { "name": "a" } }));
//! server.fault(|asked| asked.to_string() == "patch nodes a", 2, Fault::Status(409));
//! // … something that is given server.kubeconfig() …
//! assert_eq!(server.get("nodes", "", "a").unwrap()["spec"]["unschedulable"], true);
//! # Ok(())
//! # }
//! ```

mod authorization;
mod eviction;
mod failure;
mod faults;
mod resources;
mod selector;
mod serve;
mod store;
mod verbs;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{oneshot, watch as signal};

use faults::Planned;
pub use faults::{Asked, Fault};
use resources::Resource;
use store::{Key, Store};

/// The token of who may do everything that is not denied.
const ADMIN: &str = "admin-of-the-tests";

/// The server. It works on a thread of its own, so that tests may block; dropping it cuts all
/// connections.
#[derive(Debug)]
pub struct KubernetesServer {
    address: SocketAddr,
    directory: TempDir,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Whose token it is that comes with a request.
#[derive(Clone, Debug)]
enum User {
    Admin,
    ServiceAccount { namespace: String, name: String },
}

impl fmt::Display for User {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin => out.write_str("admin"),
            Self::ServiceAccount { namespace, name } => {
                write!(out, "system:serviceaccount:{namespace}:{name}")
            }
        }
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// The version of the last change.
    changed: signal::Sender<u64>,
}

#[derive(Debug)]
struct State {
    store: Store,
    tokens: BTreeMap<String, User>,
    /// For how long tokens are said to hold.
    granted: Duration,
    /// Verbs on resources that nobody has.
    denied: BTreeSet<(String, String)>,
    /// Whether people may ask what they may do.
    reviews: bool,
    /// Versions of groups that this cluster does not have.
    withdrawn: BTreeSet<String>,
    planned: Vec<Planned>,
    asked: Vec<Asked>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something, and wakes those who watch.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let done = change(&mut state);
        let version = state.store.version();
        drop(state);
        self.changed.send_if_modified(|known| {
            let newer = *known < version;
            *known = version.max(*known);
            newer
        });
        done
    }
}

impl State {
    /// Whether somebody may do something.
    fn allows(&self, user: &User, asked: &Asked, group: &str) -> bool {
        let denial = (asked.verb.to_owned(), asked.resource.clone());
        if self.denied.contains(&denial) {
            return false;
        }
        match user {
            User::Admin => true,
            User::ServiceAccount { namespace, name } => {
                authorization::allows(&self.store, (namespace, name), asked, group)
            }
        }
    }
}

impl KubernetesServer {
    /// Listens on a port of loopback that the kernel chooses. There are the namespaces `default`,
    /// `kube-system` and `kube-node-lease`.
    ///
    /// What a service account may do, by a token that it was given, its roles say.
    ///
    /// # Errors
    /// When there is no port, directory or thread to be had.
    pub fn start() -> Result<Self> {
        Self::start_at("127.0.0.1:0".parse()?)
    }

    /// As [`start`](Self::start), at an address that is given.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_at(address: SocketAddr) -> Result<Self> {
        let listener = std::net::TcpListener::bind(address)
            .with_context(|| format!("no server at {address}"))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                store: Store::default(),
                tokens: BTreeMap::from([(ADMIN.to_owned(), User::Admin)]),
                granted: Duration::from_hours(24),
                denied: BTreeSet::new(),
                reviews: true,
                withdrawn: BTreeSet::new(),
                planned: Vec::new(),
                asked: Vec::new(),
            }),
            changed: signal::Sender::new(0),
        });
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("kubernetes".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let listener = tokio::net::TcpListener::from_std(listener);
                    let listener = listener.expect("this is a tokio runtime");
                    tokio::select! {
                        _ = stopped => {}
                        () = serve::serve(listener, serving) => {}
                    }
                });
            })
            .context("no thread for a server")?;
        let server = Self {
            address,
            directory: tempfile::tempdir()?,
            shared,
            stop: Some(stop),
            thread: Some(thread),
        };
        std::fs::write(server.kubeconfig(), server.kubeconfig_of(ADMIN))?;
        for name in ["default", "kube-node-lease", "kube-system"] {
            server.put(json!({ "kind": "Namespace", "metadata": { "name": name } }));
        }
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A kubeconfig of who may do everything that is not denied. It goes with the server.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    /// The text of a kubeconfig with another token.
    pub fn kubeconfig_of(&self, token: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters:\n- name: test\n  cluster: {{server: 'http://{}'}}\n\
             users:\n- name: test\n  user: {{token: {token}}}\n\
             contexts:\n- name: test\n  context: {{cluster: test, user: test}}\n",
            self.address
        )
    }

    /// A token of a service account, who may do what its roles say.
    pub fn token_of(&self, namespace: &str, name: &str) -> String {
        let user = User::ServiceAccount {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let mut state = self.shared.lock();
        let token = format!("{user}-{}", state.tokens.len());
        state.tokens.insert(token.clone(), user);
        token
    }

    /// A directory of the server's, which goes with it.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Puts an object there, or another in its place, with its status; its `kind` says which. One in no
    /// namespace that could be in one is in `default`. Returns it as it is then.
    ///
    /// # Panics
    /// When there is no such kind, or the object has no name.
    #[expect(clippy::needless_pass_by_value, reason = "callers write json!")]
    pub fn put(&self, object: Value) -> Value {
        let kind = object["kind"].as_str().expect("an object has a kind");
        let resource = Resource::of_kind(kind).expect("a kind that the server has");
        let (_, namespace, name) = store::key_of(resource, &object);
        assert!(!name.is_empty(), "an object has a name");
        let mut object = object.clone();
        if resource.namespaced {
            object["metadata"]["namespace"] = namespace.into();
        }
        let put = self
            .shared
            .change(|state| state.store.put(resource, object));
        Value::clone(&put)
    }

    /// An object; `namespace` is empty for those of the cluster.
    ///
    /// # Panics
    /// When there is no such resource.
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let state = self.shared.lock();
        let found = state.store.get(&key(resource, namespace, name));
        found.map(|object| Value::clone(object))
    }

    /// All objects of a resource, by namespace and name.
    ///
    /// # Panics
    /// When there is no such resource.
    pub fn list(&self, resource: &str) -> Vec<Value> {
        let resource = Resource::named(resource).expect("a resource that the server has");
        let state = self.shared.lock();
        let all = state.store.all(resource.name);
        all.map(|(_, object)| Value::clone(object)).collect()
    }

    /// Changes an object, if it is there; whether it was.
    ///
    /// # Panics
    /// When there is no such resource.
    pub fn change(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) -> bool {
        let key = key(resource, namespace, name);
        self.shared.change(|state| {
            let Some(object) = state.store.get(&key).cloned() else {
                return false;
            };
            let mut object = Value::clone(&object);
            change(&mut object);
            let resource = Resource::named(resource).expect("there is an object of it");
            state.store.put(resource, object);
            true
        })
    }

    /// Takes an object away at once, as a kubelet does with a pod that has ended; whether it was
    /// there.
    ///
    /// # Panics
    /// When there is no such resource.
    pub fn remove(&self, resource: &str, namespace: &str, name: &str) -> bool {
        let key = key(resource, namespace, name);
        self.shared
            .change(|state| state.store.remove(&key).is_some())
    }

    /// The version of the last change, for those who wait for the next.
    pub fn changes(&self) -> signal::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// Has a kubelet say when pods of a node are gone: one that is deleted is only marked, until it
    /// is deleted without grace. Pods of other nodes are gone at once.
    pub fn claim(&self, node: &str) {
        self.shared.lock().store.kubelets.insert(node.to_owned());
    }

    /// Takes a verb on a resource (`pods`, or `pods/eviction`) away from everybody.
    pub fn deny(&self, verb: &str, resource: &str) {
        let denial = (verb.to_owned(), resource.to_owned());
        self.shared.lock().denied.insert(denial);
    }

    /// Has nobody ask what they may do (`SelfSubjectAccessReview`).
    pub fn deny_reviews(&self) {
        self.shared.lock().reviews = false;
    }

    /// Grants tokens for no longer than that from now on (`TokenRequest`), whatever is asked for. It is
    /// said, and they hold on all the same.
    pub fn grant(&self, time: Duration) {
        self.shared.lock().granted = time;
    }

    /// Makes the cluster one that does not have a version of a group: `policy/v1`.
    pub fn withdraw(&self, group_version: &str) {
        let withdrawn = group_version.to_owned();
        self.shared.lock().withdrawn.insert(withdrawn);
    }

    /// Has something go wrong with the next requests that are chosen, as many as `times`. Of several
    /// faults that fit, the one that was set first comes first.
    pub fn fault(
        &self,
        chosen: impl Fn(&Asked) -> bool + Send + 'static,
        times: usize,
        fault: Fault,
    ) {
        let planned = Planned::new(chosen, times, fault);
        self.shared.lock().planned.push(planned);
    }

    /// Forgets what became of objects up to now: a watch or a list that goes on from there has
    /// expired (410).
    pub fn forget(&self) {
        self.shared.lock().store.forget();
    }

    /// The requests that were seen since they were last taken.
    pub fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut self.shared.lock().asked)
    }
}

impl Drop for KubernetesServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn key(resource: &str, namespace: &str, name: &str) -> Key {
    let resource = Resource::named(resource).expect("a resource that the server has");
    (resource.name, namespace.to_owned(), name.to_owned())
}
