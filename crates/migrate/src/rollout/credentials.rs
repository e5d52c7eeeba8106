//! Credentials of the nodes' account: new ones in time, so that no node's run out in the middle of its move.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::objects::{self, NAME};
use super::{Error, Rollout, failed, soon};
use crate::control_plane::request::{Permission, SERVICE_ACCOUNTS, Verb};
use crate::control_plane::{self, spoken};

/// They are asked to hold for as long, so that not each node needs new ones.
const ASKED: Duration = Duration::from_hours(24);

const GETTING: &str = "getting credentials for the nodes";

impl Rollout<'_> {
    /// Has the Jobs that are made from now on have credentials that hold for as long as a node may take to
    /// move ([`Options::patience`](super::Options::patience)). Those that nodes have already go on holding.
    pub(super) async fn provide_credentials(&self) -> Result<(), Error> {
        let needed = self.options.patience;
        let is_enough = |end: Instant| end >= Instant::now() + needed;
        if self.credentials_end.get().is_some_and(is_enough) {
            return Ok(());
        }
        // An API server may grant less (TokenRequest `spec.expirationSeconds`).
        let asked = ASKED.max(needed * 2);
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": { "expirationSeconds": asked.as_secs() },
        });
        let token = Permission::new(Verb::Create, SERVICE_ACCOUNTS).within(NAME);
        let token = token.named(NAME).on("token").ask().body(request);
        let token = self.api.ask(&token, soon()).await;
        let status = &token.map_err(failed(GETTING))?["status"];
        let granted = granted(status).unwrap_or(asked).min(asked);
        if granted < needed {
            let why = format!(
                "the API server grants them for {} only, and a node may take {} to move: allow as much with kube-apiserver's --service-account-max-token-expiration, or wait for less with --drain-timeout and --ready-timeout",
                spoken(Duration::from_secs(granted.as_secs())),
                spoken(needed)
            );
            return Err(control_plane::Error::new(GETTING, why).into());
        }
        let end = Instant::now() + granted;
        let token = status["token"].as_str().unwrap_or_default();
        let server = self.options.server.as_deref();
        self.ensure(&objects::credentials(&self.config, server, token))
            .await?;
        self.credentials_end.set(Some(end));
        Ok(())
    }
}

/// For how long a token holds from now on, where the API server says it.
fn granted(status: &Value) -> Option<Duration> {
    let end: Timestamp = status["expirationTimestamp"].as_str()?.parse().ok()?;
    let left = end.duration_since(Timestamp::now());
    // One that is over holds for no time.
    Some(left.try_into().unwrap_or_default())
}
