//! One rollout of a cluster at a time: whoever moves its nodes holds a Lease, and renews it.

use std::process;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::objects::NAME;
use super::{Error, Event, Rollout, failed, soon};
use crate::control_plane::SYSTEM;
use crate::control_plane::refusal::Refusal;
use crate::control_plane::request::{LEASES, Permission, Verb};

/// It is renewed so often within its time, as client-go's leaders do it.
const RENEWALS: u32 = 3;

/// How often one that somebody else holds is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// What is asked for of it.
pub(super) const VERBS: [Verb; 4] = [Verb::Get, Verb::Create, Verb::Update, Verb::Delete];

pub(super) fn permission(verb: Verb) -> Permission {
    Permission::new(verb, LEASES).within(SYSTEM)
}

/// Who holds it: this process.
pub(super) fn identity() -> String {
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    // Another one, of another pod for instance, may have the same number.
    let began = Timestamp::now().as_nanosecond();
    format!("{host}_{}_{began:x}", process::id())
}

fn holder(lease: &Value) -> &str {
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default()
}

impl Rollout<'_> {
    /// Takes the lease. One that another run holds is looked at for as long as it is good without being
    /// renewed, so that no two clocks are compared: once it is renewed that one is at work, otherwise
    /// it was killed.
    pub(super) async fn acquire(&self) -> Result<(), Error> {
        let failed = |refusal| failed("taking the lease of the cluster's move")(refusal);
        let mut seen: Option<(Value, Instant)> = None;
        loop {
            let Some(lease) = self.lease(soon()).await.map_err(failed)? else {
                match self.make(soon()).await {
                    Ok(()) => return Ok(()),
                    // By somebody else, or by a request of ours whose answer was lost.
                    Err(Refusal::AlreadyExists(_)) => continue,
                    Err(refusal) => return Err(failed(refusal)),
                }
            };
            let other = holder(&lease);
            if other == self.identity {
                return Ok(());
            }
            let good = lease["spec"]["leaseDurationSeconds"].as_u64();
            let good = Duration::from_secs(good.unwrap_or_default());
            if seen.is_none() && !other.is_empty() {
                (self.heard)(Event::Waits(other, good));
            }
            let (spec, since) = seen.get_or_insert_with(|| (lease["spec"].clone(), Instant::now()));
            if *spec != lease["spec"] {
                let holder = other.to_string();
                return Err(Error::Busy { holder });
            }
            if other.is_empty() || since.elapsed() >= good {
                match self.hold(lease, soon()).await {
                    Ok(()) => return Ok(()),
                    Err(Refusal::Conflict(_)) => continue,
                    Err(refusal) => return Err(failed(refusal)),
                }
            }
            sleep(LOOK).await;
        }
    }

    /// Renews the lease for as long as it is held; who has taken it, once that has happened. An API
    /// server that is away keeps others from taking it as well, and is asked again.
    pub(super) async fn keep(&self) -> String {
        let pause = self.options.lease / RENEWALS;
        loop {
            sleep(pause).await;
            let until = Instant::now() + self.options.lease;
            match self.lease(until).await {
                Ok(Some(lease)) if holder(&lease) != self.identity => {
                    return holder(&lease).to_string();
                }
                // What comes of these is seen next time.
                Ok(Some(lease)) => drop(self.hold(lease, until).await),
                Ok(None) => drop(self.make(until).await),
                Err(_) => {}
            }
        }
    }

    /// Gives the lease back. One that cannot be given back runs out.
    pub(super) async fn release(&self) {
        let delete = permission(Verb::Delete).named(NAME).ask();
        let _ = self.api.ask(&delete, soon()).await;
    }

    async fn lease(&self, until: Instant) -> Result<Option<Value>, Refusal> {
        let get = permission(Verb::Get).named(NAME).ask();
        match self.api.ask(&get, until).await {
            Ok(lease) => Ok(Some(lease)),
            Err(Refusal::NotFound(_)) => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    async fn make(&self, until: Instant) -> Result<(), Refusal> {
        let lease = json!({
            "apiVersion": LEASES.api_version(), "kind": "Lease",
            "metadata": { "name": NAME, "namespace": SYSTEM },
            "spec": self.spec(&Value::Null),
        });
        let create = permission(Verb::Create).ask().body(lease);
        self.api.ask(&create, until).await.map(|_| ())
    }

    /// Says that it is ours, as of now; not where somebody has changed it since it was read.
    async fn hold(&self, mut lease: Value, until: Instant) -> Result<(), Refusal> {
        lease["spec"] = self.spec(&lease["spec"]);
        let update = permission(Verb::Update).named(NAME).ask().body(lease);
        self.api.ask(&update, until).await.map(|_| ())
    }

    fn spec(&self, before: &Value) -> Value {
        let now = format!("{:.6}", Timestamp::now());
        let is_ours = before["holderIdentity"] == self.identity.as_str();
        let transitions = before["leaseTransitions"].as_u64().unwrap_or_default();
        json!({
            "holderIdentity": self.identity,
            "leaseDurationSeconds": self.options.lease.as_secs(),
            "acquireTime": if is_ours { before["acquireTime"].clone() } else { now.clone().into() },
            "renewTime": now,
            "leaseTransitions": if is_ours || before.is_null() { transitions } else { transitions + 1 },
        })
    }
}
