//! What an administrator can set.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[streaming]` of the configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where clients connect; port 0 takes a free one. URLs name the address that was bound, or
    /// the loopback address where that is "all addresses".
    pub listen: SocketAddr,
    /// A PEM file with the certificate and its chain; makes URLs `https`. Set with `tls_key`.
    pub tls_cert: Option<PathBuf>,
    /// A PEM file with the certificate's private key.
    pub tls_key: Option<PathBuf>,
    /// A session over which no byte has gone for this long is closed; whole seconds in a file.
    #[serde(rename = "idle_timeout_seconds", with = "seconds")]
    pub idle_timeout: Duration,
    /// How long a URL can be used; whole seconds in a file.
    #[serde(rename = "token_lifetime_seconds", with = "seconds")]
    pub token_lifetime: Duration,
    /// Sessions at the same time; further ones are answered with 503.
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
