//! systemd, asked over D-Bus for the units that containers' cgroups belong to
//! (org.freedesktop.systemd1(5)).

use std::path::Path;
use std::time::Duration;

use slipway_cgroup::systemd::{Property, Value};
use slipway_engine::{Error, Result};
use slipway_systemd::{Refusal, Systemd};
use zbus::Variant;

/// How long systemd may take for a call or a job.
const DEADLINE: Duration = Duration::from_secs(30);

/// Whether systemd is this node's init (sd_booted(3)).
pub(crate) fn is_init() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// A property as it is sent.
type Sent = (&'static str, Variant<'static>);

/// The units of pods and containers.
#[derive(Debug)]
pub(crate) struct Units {
    systemd: Systemd,
}

impl Default for Units {
    fn default() -> Self {
        Self {
            systemd: Systemd::new(DEADLINE),
        }
    }
}

impl Units {
    /// Makes a scope around the process `pid` in the slice `slice`, and waits until it is there.
    pub(crate) async fn start_scope(
        &self,
        unit: &str,
        slice: &str,
        pid: u32,
        limits: &[Property],
    ) -> Result<()> {
        let mut properties = vec![
            ("Description", text(&format!("slipway container {unit}"))),
            ("Slice", text(slice)),
            // What is in it is Slipway's alone; and a process that is killed for want of memory
            // does not end the rest.
            ("Delegate", Variant::from(true)),
            ("DefaultDependencies", Variant::from(false)),
            ("CollectMode", text("inactive-or-failed")),
            ("PIDs", Variant::from(vec![pid])),
        ];
        properties.extend(accounting());
        self.start(unit, properties, limits).await
    }

    /// Makes a slice, and those that it is in; one that is there is fine.
    pub(crate) async fn start_slice(&self, unit: &str, limits: &[Property]) -> Result<()> {
        let mut properties = vec![("Description", text(&format!("slipway pod {unit}")))];
        properties.extend(accounting());
        self.start(unit, properties, limits).await
    }

    async fn start(
        &self,
        unit: &str,
        mut properties: Vec<Sent>,
        limits: &[Property],
    ) -> Result<()> {
        properties.extend(limits.iter().map(sent));
        let auxiliary: Vec<(&str, Vec<Sent>)> = Vec::new();
        let body = (unit, "replace", properties, auxiliary);
        match self.systemd.job("StartTransientUnit", &body).await {
            Err(Refusal::Named { name, .. }) if name.ends_with(".UnitExists") => Ok(()),
            other => other.map_err(|refusal| failed("start", unit, &refusal)),
        }
    }

    /// Ends a unit, with what is left in it; one that is not there is fine.
    pub(crate) async fn stop(&self, unit: &str) -> Result<()> {
        match self.systemd.job("StopUnit", &(unit, "replace")).await {
            Err(Refusal::Named { name, .. }) if name.ends_with(".NoSuchUnit") => Ok(()),
            other => other.map_err(|refusal| failed("stop", unit, &refusal)),
        }
    }

    /// Changes limits of a unit, until the next boot.
    pub(crate) async fn set(&self, unit: &str, limits: &[Property]) -> Result<()> {
        if limits.is_empty() {
            return Ok(());
        }
        let properties: Vec<Sent> = limits.iter().map(sent).collect();
        let body = (unit, true, properties);
        let set = self.systemd.call("SetUnitProperties", &body).await;
        set.map_err(|refusal| failed("change", unit, &refusal))
    }
}

fn text(value: &str) -> Variant<'static> {
    Variant::from(value.to_owned())
}

fn accounting() -> impl Iterator<Item = Sent> {
    let each = ["CPUAccounting", "MemoryAccounting", "TasksAccounting"];
    each.into_iter().map(|name| (name, Variant::from(true)))
}

fn sent(property: &Property) -> Sent {
    let value = match &property.value {
        Value::Number(number) => Variant::from(*number),
        Value::Flag(flag) => Variant::from(*flag),
        Value::Text(value) => text(value),
        Value::Bytes(bytes) => Variant::from(bytes.clone()),
        Value::Pairs(pairs) => Variant::from(pairs.clone()),
    };
    (property.name, value)
}

/// Why systemd did not do it, for the log and for the kubelet.
fn failed(doing: &str, unit: &str, refusal: &Refusal) -> Error {
    let hint = match refusal {
        Refusal::Job(_) => format!("; see `journalctl -u {unit}`"),
        Refusal::Overdue(_) => {
            tracing::warn!(unit, doing, "systemd does not finish a job");
            String::new()
        }
        Refusal::Unreachable(_) => {
            "; on a node without systemd, set runtime.cgroup_driver = \"cgroupfs\"".to_owned()
        }
        Refusal::Named { .. } | Refusal::Gone => String::new(),
    };
    Error::internal(format!(
        "systemd did not {doing} the unit {unit}: {refusal}{hint}"
    ))
}
