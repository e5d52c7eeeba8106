//! What the systemd cgroup driver says: names of slices and scopes, and limits as unit properties
//! (systemd.slice(5), systemd.scope(5), systemd.resource-control(5)). Nothing here talks to systemd.

mod devices;
mod properties;
mod unit;

pub use properties::{Property, Value, properties};
pub use unit::{scope_name, slice_at, slice_path, unit_of};

pub(crate) use unit::is_slice;

pub use devices::device_properties;
