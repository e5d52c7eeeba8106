//! What tests have go wrong.

use std::fmt;
use std::time::Duration;

/// A request as RBAC sees it. It reads `patch nodes/a`, `create pods/eviction shop/web-1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`.
    pub verb: &'static str,
    /// `pods`, or `pods/eviction`.
    pub resource: String,
    /// Empty for objects of the cluster, and for all namespaces.
    pub namespace: String,
    /// Empty where no object is named.
    pub name: String,
}

impl fmt::Display for Asked {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.verb, self.resource)?;
        match (self.namespace.as_str(), self.name.as_str()) {
            ("", "") => Ok(()),
            ("", name) => write!(out, " {name}"),
            (namespace, "") => write!(out, " {namespace}/"),
            (namespace, name) => write!(out, " {namespace}/{name}"),
        }
    }
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is answered with this status, and nothing is done.
    Status(u16),
    /// It is answered with 429, and nothing is done; the seconds are for `Retry-After`.
    Busy(u64),
    /// Its connection is cut, and nothing is done.
    CutBefore,
    /// It is done, and its connection is cut before that can be said.
    CutAfter,
    /// It is answered after this time.
    Late(Duration),
    /// A watch: it ends after so many events.
    EndsAfter(usize),
}

type Predicate = Box<dyn Fn(&Asked) -> bool + Send>;

/// A fault that waits for its requests.
pub(super) struct Planned {
    chosen: Predicate,
    left: usize,
    fault: Fault,
}

impl fmt::Debug for Planned {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?} ({} left)", self.fault, self.left)
    }
}

impl Planned {
    pub(super) fn new(
        chosen: impl Fn(&Asked) -> bool + Send + 'static,
        times: usize,
        fault: Fault,
    ) -> Self {
        Self {
            chosen: Box::new(chosen),
            left: times,
            fault,
        }
    }
}

/// Takes what is planned for a request, once.
pub(super) fn strike(planned: &mut Vec<Planned>, asked: &Asked) -> Option<Fault> {
    let index = planned.iter().position(|one| (one.chosen)(asked))?;
    let one = &mut planned[index];
    one.left -= 1;
    let fault = one.fault;
    if one.left == 0 {
        planned.remove(index);
    }
    Some(fault)
}
