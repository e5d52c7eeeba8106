//! A client's own deadline, answered with the code that gRPC has for it.
//!
//! The transport ends such a call with `CANCELLED`, which a client that heard it before its own
//! timer takes for something else; "gRPC over HTTP/2" wants `DEADLINE_EXCEEDED`. It looks at a call
//! before it looks at its timer, so that whoever knows by the clock that the time is over comes
//! first.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

/// Puts [`Limited`] around the services.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeadlineLayer;

impl<S> Layer<S> for DeadlineLayer {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        Limited { inner }
    }
}

/// A service whose calls end at their deadline.
#[derive(Debug, Clone)]
pub(crate) struct Limited<S> {
    inner: S,
}

impl<S, B> Service<http::Request<B>> for Limited<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let limit = request
            .headers()
            .get("grpc-timeout")
            .and_then(|value| parse(value.to_str().ok()?));
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let answer = self.inner.call(request);
        let Some(deadline) = deadline else {
            return Box::pin(answer);
        };
        Box::pin(async move {
            let mut answer = pin!(answer);
            let mut timer = pin!(sleep_until(deadline));
            poll_fn(|cx| {
                if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                    return Poll::Ready(answer);
                }
                if timer.as_mut().poll(cx).is_ready() || Instant::now() >= deadline {
                    let late = "the client's deadline has passed; what was begun is finished all the same, \
                                so ask again";
                    return Poll::Ready(Ok(Status::deadline_exceeded(late).into_http()));
                }
                Poll::Pending
            })
            .await
        })
    }
}

/// A `grpc-timeout`: at most eight digits and a unit.
fn parse(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_hours(amount)),
        "M" => Some(Duration::from_mins(amount)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tonic::Code;

    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(parse("1000u"), Some(Duration::from_millis(1)));
        assert_eq!(parse("2S"), Some(Duration::from_secs(2)));
        assert_eq!(parse("99999999H"), Some(Duration::from_hours(99_999_999)));
        for bad in ["", "S", "1", "+1S", "123456789S", "1é", "1X", "-1S"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn a_call_that_is_too_slow_is_answered_with_deadline_exceeded() {
        let never = tower::service_fn(|_: http::Request<()>| async {
            std::future::pending::<Result<http::Response<Body>, Infallible>>().await
        });
        let mut service = DeadlineLayer.layer(never);
        let request = http::Request::builder()
            .header("grpc-timeout", "1m")
            .body(())
            .unwrap();
        let answer = service.call(request).await.unwrap();
        let status = Status::from_header_map(answer.headers()).unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }
}
