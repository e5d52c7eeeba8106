//! CRI v1alpha2, which kubelets up to 1.22 speak.
//!
//! v1 began in Kubernetes 1.23 as a copy of it under another name, and fields were only added since.
//! So its messages are v1's on the wire, and all that differs is the name in a call's path.

use http::Uri;
use http::uri::PathAndQuery;

const OLDER: &str = "/runtime.v1alpha2.";
const NEWER: &str = "/runtime.v1.";

/// Marks a call of v1alpha2, among its extensions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct V1Alpha2;

/// A call of v1alpha2 as one of v1; any other stays as it is.
pub(crate) fn as_v1<B>(mut request: http::Request<B>) -> http::Request<B> {
    if let Some(uri) = renamed(request.uri()) {
        *request.uri_mut() = uri;
        request.extensions_mut().insert(V1Alpha2);
    }
    request
}

fn renamed(uri: &Uri) -> Option<Uri> {
    let call = uri.path().strip_prefix(OLDER)?;
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(format!("{NEWER}{call}")).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(uri: &str) -> (String, bool) {
        let request = http::Request::builder().uri(uri).body(()).unwrap();
        let call = as_v1(request);
        let is_older = call.extensions().get::<V1Alpha2>().is_some();
        (call.uri().to_string(), is_older)
    }

    #[test]
    fn the_name_of_the_interface_is_all_that_changes() {
        assert_eq!(
            path("http://localhost/runtime.v1alpha2.ImageService/PullImage"),
            (
                "http://localhost/runtime.v1.ImageService/PullImage".to_owned(),
                true
            )
        );
        for other in [
            "http://localhost/runtime.v1.RuntimeService/Version",
            "http://localhost/runtime.v1alpha1.RuntimeService/Version",
            "/slipway.v1.Engines/List",
        ] {
            assert_eq!(path(other), (other.to_owned(), false));
        }
    }
}
