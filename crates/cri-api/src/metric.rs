//! CRI's `Metric`, as `proto/runtime.proto` has it, without a copy of what values have in common: a
//! container has some seventy of them, whose names are known when this is compiled, and whose first
//! six labels are the same. The copies of what prost generates took nearly a third of the time of
//! `ListPodSandboxMetrics`.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use prost::bytes::{Buf, BufMut};
use prost::encoding::{self, DecodeContext, WireType, encode_key, encode_varint};
use prost::{DecodeError, Message};
use serde::{Serialize, Serializer};

use crate::v1::{MetricType, UInt64Value};

/// The fields' numbers.
const NAME: u32 = 1;
const TIMESTAMP: u32 = 2;
const METRIC_TYPE: u32 = 3;
const LABEL_VALUES: u32 = 4;
const VALUE: u32 = 5;

/// One value of a pod or container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Metric {
    /// The metric's name.
    pub name: Cow<'static, str>,
    /// When it was looked at, in nanoseconds since the epoch.
    #[serde(serialize_with = "crate::json::decimal_string")]
    pub timestamp: i64,
    /// A [`MetricType`].
    #[serde(
        rename = "metricType",
        serialize_with = "crate::json::enumeration::<MetricType, _>"
    )]
    pub metric_type: i32,
    /// The labels' values, in the order of the descriptor's keys.
    #[serde(rename = "labelValues")]
    pub label_values: LabelValues,
    /// The value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<UInt64Value>,
}

/// The values of a metric's labels.
#[derive(Clone, Default)]
pub struct LabelValues {
    shared: Option<SharedLabels>,
    own: Vec<String>,
}

/// The values of labels that many metrics begin with. Clones are handles to the same.
#[derive(Debug, Clone)]
pub struct SharedLabels(Arc<Encoded>);

#[derive(Debug)]
struct Encoded {
    values: Vec<String>,
    /// As they are in a message.
    bytes: Vec<u8>,
}

impl SharedLabels {
    /// Of these values, in their order.
    pub fn new(values: Vec<String>) -> Self {
        let mut bytes = Vec::new();
        encoding::string::encode_repeated(LABEL_VALUES, &values, &mut bytes);
        Self(Arc::new(Encoded { values, bytes }))
    }

    /// With more values behind them.
    pub fn with(&self, own: Vec<String>) -> LabelValues {
        LabelValues {
            shared: Some(self.clone()),
            own,
        }
    }
}

impl LabelValues {
    /// All of them, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let shared = self.shared.iter().flat_map(|shared| &shared.0.values);
        shared.chain(&self.own).map(String::as_str)
    }

    fn shared(&self) -> &[u8] {
        self.shared.as_ref().map_or(&[], |shared| &shared.0.bytes)
    }
}

impl PartialEq for LabelValues {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for LabelValues {}

impl Hash for LabelValues {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.iter().for_each(|value| value.hash(state));
    }
}

impl fmt::Debug for LabelValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Serialize for LabelValues {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl Metric {
    /// Its type, which is a counter where another version of CRI has more of them.
    pub fn metric_type(&self) -> MetricType {
        MetricType::try_from(self.metric_type).unwrap_or_default()
    }
}

impl Message for Metric {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        if !self.name.is_empty() {
            encode_key(NAME, WireType::LengthDelimited, buf);
            encode_varint(self.name.len() as u64, buf);
            buf.put_slice(self.name.as_bytes());
        }
        if self.timestamp != 0 {
            encoding::int64::encode(TIMESTAMP, &self.timestamp, buf);
        }
        if self.metric_type != 0 {
            encoding::int32::encode(METRIC_TYPE, &self.metric_type, buf);
        }
        buf.put_slice(self.label_values.shared());
        encoding::string::encode_repeated(LABEL_VALUES, &self.label_values.own, buf);
        if let Some(value) = &self.value {
            encoding::message::encode(VALUE, value, buf);
        }
    }

    fn encoded_len(&self) -> usize {
        let mut length = self.label_values.shared().len();
        if !self.name.is_empty() {
            let name = self.name.len();
            length += encoding::key_len(NAME) + encoding::encoded_len_varint(name as u64) + name;
        }
        if self.timestamp != 0 {
            length += encoding::int64::encoded_len(TIMESTAMP, &self.timestamp);
        }
        if self.metric_type != 0 {
            length += encoding::int32::encoded_len(METRIC_TYPE, &self.metric_type);
        }
        length += encoding::string::encoded_len_repeated(LABEL_VALUES, &self.label_values.own);
        if let Some(value) = &self.value {
            length += encoding::message::encoded_len(VALUE, value);
        }
        length
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            NAME => encoding::string::merge(wire_type, self.name.to_mut(), buf, ctx),
            TIMESTAMP => encoding::int64::merge(wire_type, &mut self.timestamp, buf, ctx),
            METRIC_TYPE => encoding::int32::merge(wire_type, &mut self.metric_type, buf, ctx),
            LABEL_VALUES => {
                let own = &mut self.label_values.own;
                encoding::string::merge_repeated(wire_type, own, buf, ctx)
            }
            VALUE => {
                let value = self.value.get_or_insert_default();
                encoding::message::merge(wire_type, value, buf, ctx)
            }
            _ => encoding::skip_field(wire_type, tag, buf, ctx),
        }
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What prost makes of the definition.
    #[derive(Clone, PartialEq, Message)]
    struct Generated {
        #[prost(string, tag = "1")]
        name: String,
        #[prost(int64, tag = "2")]
        timestamp: i64,
        #[prost(enumeration = "MetricType", tag = "3")]
        metric_type: i32,
        #[prost(string, repeated, tag = "4")]
        label_values: Vec<String>,
        #[prost(message, optional, tag = "5")]
        value: Option<UInt64Value>,
    }

    fn texts(values: &[&str]) -> Vec<String> {
        values.iter().map(|&value| value.to_owned()).collect()
    }

    #[test]
    fn it_is_what_the_definition_says() {
        let long = "x".repeat(300);
        let shared = SharedLabels::new(texts(&["id", "", &long]));
        let values = [None, Some(0), Some(u64::MAX)];
        for (value, timestamp) in values.into_iter().zip([0, -1, i64::MAX]) {
            let metric_type = MetricType::Gauge.into();
            let value = value.map(|value| UInt64Value { value });
            let metric = Metric {
                name: "container_tasks_state".into(),
                timestamp,
                metric_type,
                label_values: shared.with(texts(&["sleeping", ""])),
                value,
            };
            let generated = Generated {
                name: "container_tasks_state".to_owned(),
                timestamp,
                metric_type,
                label_values: texts(&["id", "", &long, "sleeping", ""]),
                value,
            };
            let bytes = metric.encode_to_vec();
            assert_eq!(bytes, generated.encode_to_vec());
            assert_eq!(bytes.len(), metric.encoded_len());
            assert_eq!(Metric::decode(&*bytes).unwrap(), metric);
        }
        assert_eq!(Metric::default().encode_to_vec(), b"");
        assert_eq!(Metric::decode(&b""[..]).unwrap(), Metric::default());
    }

    #[test]
    fn it_reads_as_crictl_prints_it() {
        let metric = Metric {
            name: "container_threads".into(),
            timestamp: 7,
            metric_type: MetricType::Gauge.into(),
            label_values: SharedLabels::new(texts(&["a"])).with(texts(&["b"])),
            value: Some(UInt64Value { value: 3 }),
        };
        assert_eq!(
            serde_json::to_string(&metric).unwrap(),
            r#"{"name":"container_threads","timestamp":"7","metricType":"GAUGE","labelValues":["a","b"],"value":{"value":"3"}}"#
        );
    }
}
