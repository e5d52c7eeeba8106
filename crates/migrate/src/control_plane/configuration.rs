//! The kubelet's configuration that kubeadm keeps in a ConfigMap.

use serde_json::Value;
use tokio::time::Instant;

use super::Error;
use super::client::Pauses;
use super::live::Live;
use super::preflight::SYSTEM;
use super::refusal::Refusal;
use super::request::{CONFIG_MAPS, Permission, Verb};

impl Live {
    pub(super) async fn read_configuration(&self, name: &str) -> Result<Option<String>, Error> {
        match self.get_config_map(name, self.end()).await {
            Ok(config_map) => Ok(text(&config_map).map(str::to_string)),
            Err(Refusal::NotFound(_)) => Ok(None),
            Err(refusal) => Err(failed("reading", name, refusal)),
        }
    }

    pub(super) async fn replace_configuration(
        &self,
        name: &str,
        expected: &str,
        wanted: &str,
    ) -> Result<bool, Error> {
        let until = self.end();
        let mut pauses = Pauses::default();
        loop {
            let mut config_map = match self.get_config_map(name, until).await {
                Ok(config_map) => config_map,
                Err(Refusal::NotFound(_)) => return Ok(false),
                Err(refusal) => return Err(failed("reading", name, refusal)),
            };
            match text(&config_map) {
                // A request whose answer was lost was here before.
                Some(found) if found == wanted => return Ok(true),
                Some(found) if found == expected => {}
                _ => return Ok(false),
            }
            config_map["data"]["kubelet"] = wanted.into();
            // It names the version that was read, so nobody else's change is lost.
            let update = Permission::new(Verb::Update, CONFIG_MAPS).within(SYSTEM);
            let update = update.named(name).ask().body(config_map);
            match self.api.once(&update, until).await {
                Ok(_) => return Ok(true),
                Err(Refusal::NotFound(_)) => return Ok(false),
                Err(refusal) => {
                    let again =
                        matches!(refusal, Refusal::Conflict(_)) || refusal.passes(Verb::Update);
                    if !again || !pauses.pause(refusal.after(), until).await {
                        return Err(failed("updating", name, refusal));
                    }
                }
            }
        }
    }

    async fn get_config_map(&self, name: &str, until: Instant) -> Result<Value, Refusal> {
        let get = Permission::new(Verb::Get, CONFIG_MAPS).within(SYSTEM);
        self.api.ask(&get.named(name).ask(), until).await
    }
}

fn text(config_map: &Value) -> Option<&str> {
    config_map["data"]["kubelet"].as_str()
}

fn failed(what: &str, name: &str, refusal: Refusal) -> Error {
    Error::new(format!("{what} the ConfigMap {SYSTEM}/{name}"), refusal)
}
