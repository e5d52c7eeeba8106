//! A pod's network interfaces.

use super::families;
use super::series::Series;
use crate::pod::Pod;
use crate::stats::interfaces;

pub(super) fn add(series: &mut Series, pod: &Pod) {
    for interface in interfaces(pod).unwrap_or_default() {
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
}
