//! A pod's network interfaces.

use slipway_cri_api::v1::Metric;
use slipway_network::Interface;

use super::families;
use super::series::{Series, Subject};

/// A pod's metrics, now, in nanoseconds since the epoch; `interfaces` are those of its own network.
pub fn pod(subject: Subject, now: i64, interfaces: &[Interface]) -> Vec<Metric> {
    let mut series = Series::new(subject, now);
    for interface in interfaces {
        let (received, sent) = (interface.received, interface.sent);
        for (family, value) in [
            (families::NETWORK_RECEIVE_BYTES, received.bytes),
            (families::NETWORK_RECEIVE_PACKETS, received.packets),
            (families::NETWORK_RECEIVE_DROPPED, received.dropped),
            (families::NETWORK_RECEIVE_ERRORS, received.errors),
            (families::NETWORK_TRANSMIT_BYTES, sent.bytes),
            (families::NETWORK_TRANSMIT_PACKETS, sent.packets),
            (families::NETWORK_TRANSMIT_DROPPED, sent.dropped),
            (families::NETWORK_TRANSMIT_ERRORS, sent.errors),
        ] {
            series.labelled(&family, &[&interface.name], value);
        }
    }
    series.end()
}
