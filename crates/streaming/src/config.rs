//! What an administrator can set.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::tls::{self, TlsError};

/// The server for the sessions of `kubectl exec`, `attach` and `port-forward`.
// What its comments say is what an administrator reads in the configuration's reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where clients connect; port 0 takes a free one. URLs name the address that was bound, or
    /// the loopback address where that is "all addresses".
    #[schemars(extend("x-restart" = true), with = "String")]
    pub listen: SocketAddr,
    /// A PEM file with the certificate and its chain; makes URLs `https`. Set with `tls_key`. Both
    /// files are read again at every reload.
    #[schemars(example = "/etc/slipway/streaming.crt")]
    pub tls_cert: Option<PathBuf>,
    /// A PEM file with the certificate's private key.
    #[schemars(example = "/etc/slipway/streaming.key")]
    pub tls_key: Option<PathBuf>,
    /// A session over which no byte has gone for so many seconds is closed.
    #[serde(rename = "idle_timeout_seconds", with = "seconds")]
    #[schemars(with = "u64")]
    pub idle_timeout: Duration,
    /// How long a URL can be used, in seconds.
    #[serde(rename = "token_lifetime_seconds", with = "seconds")]
    #[schemars(extend("x-restart" = true), with = "u64")]
    pub token_lifetime: Duration,
    /// Sessions at the same time, 1 to 100000; further ones are answered with 503. Those that go on
    /// when it is changed are not counted against the new number.
    pub max_sessions: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            tls_cert: None,
            tls_key: None,
            idle_timeout: Duration::from_hours(4),
            token_lifetime: Duration::from_mins(1),
            max_sessions: 1000,
        }
    }
}

impl Config {
    /// Looks for values that cannot be used, and for such as contradict each other. Each is told to
    /// `complain`, by its key in this table and in a sentence. Reads the certificate. Blocking,
    /// briefly.
    pub fn check(&self, complain: &mut dyn FnMut(&str, String)) {
        if let Err(error) = tls::acceptor(self) {
            let key = match &error {
                TlsError::File { key, .. } => key,
                _ if self.tls_cert.is_some() => "tls_cert",
                _ => "tls_key",
            };
            complain(key, error.to_string());
        }
        if !(1..=100_000).contains(&self.max_sessions) {
            let given = self.max_sessions;
            complain(
                "max_sessions",
                format!("{given} is not between 1 and 100000"),
            );
        }
    }
}

mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(value.as_secs())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        // A bound far above all use, below which no clock overflows.
        match u64::deserialize(from)? {
            seconds @ 1..=31_536_000 => Ok(Duration::from_secs(seconds)),
            seconds => Err(serde::de::Error::custom(format!(
                "{seconds} seconds are not between 1 and 31536000"
            ))),
        }
    }
}
