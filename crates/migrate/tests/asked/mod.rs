//! What a test's API server is asked, and what is said of it.

use slipway_testbed::KubernetesRequest;

/// A request of this verb on this resource.
pub(crate) fn of(
    verb: &'static str,
    resource: &'static str,
) -> impl Fn(&KubernetesRequest) -> bool + Send {
    move |asked| asked.verb == verb && asked.resource == resource
}

#[track_caller]
pub(crate) fn contains(text: &str, all: &[&str]) {
    for wanted in all {
        assert!(text.contains(wanted), "{wanted:?} in {text:?}");
    }
}
