//! What people and scripts are told when something fails.

use std::fmt;
use std::process::ExitCode;

use tonic::{Code, Status};

use super::table::printable_lines;

/// Whoever read standard output is gone: nothing is wrong, and nothing is left to do.
#[derive(Debug)]
pub(super) struct OutputClosed;

impl fmt::Display for OutputClosed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("standard output was closed")
    }
}

impl std::error::Error for OutputClosed {}

/// As a shell reports a command that SIGPIPE ended.
const OUTPUT_CLOSED: u8 = 128 + 13;

/// Says what failed on standard error, and ends with `code`.
pub(crate) fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    if error.is::<OutputClosed>() {
        return ExitCode::from(OUTPUT_CLOSED);
    }
    complain(error);
    ExitCode::from(code)
}

/// The end of a command that has no exit code of its own.
pub(crate) fn finish(result: anyhow::Result<()>) -> ExitCode {
    result.map_or_else(|error| fail(&error, 1), |()| ExitCode::SUCCESS)
}

/// Says on standard error what failed.
pub(super) fn complain(error: &anyhow::Error) {
    use std::io::Write;
    // With standard error closed there is nobody left to tell.
    let told = printable_lines(&describe(error));
    let _ = writeln!(std::io::stderr(), "slipway: {told}");
}

/// The whole story on one line: what was asked, then its causes.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    let mut parts = Vec::new();
    for cause in error.chain() {
        if let Some(status) = cause.downcast_ref::<Status>() {
            parts.push(describe_status(status));
            break;
        }
        // Many say their cause themselves.
        let said = cause.to_string();
        if !parts.iter().any(|part: &String| part.contains(&said)) {
            parts.push(said);
        }
    }
    parts.join(": ")
}

fn describe_status(status: &Status) -> String {
    let message = without_go_prefixes(status.message());
    match status.code() {
        Code::Unimplemented => format!("this runtime does not offer it ({message})"),
        Code::DeadlineExceeded => {
            format!("no answer in time ({message}); --timeout sets the limit")
        }
        Code::Cancelled if message == "Timeout expired" => {
            "no answer in time; --timeout sets the limit".to_string()
        }
        _ if is_disconnected(status) => {
            format!("lost the connection to the runtime ({message}); see its log")
        }
        code if message.is_empty() => code.description().to_string(),
        _ => message.to_string(),
    }
}

/// Whether nothing but the connection failed: the runtime may be about to come back.
pub(super) fn is_disconnected(status: &Status) -> bool {
    // Only a status that was made on this side has a cause; one from the runtime is words.
    let made_here = std::error::Error::source(status).is_some();
    made_here
        && matches!(
            status.code(),
            Code::Unavailable | Code::Unknown | Code::Internal
        )
}

/// A Go server that passes on another server's error leaves `rpc error: code = C desc = ` before
/// the sentence that matters.
fn without_go_prefixes(mut message: &str) -> &str {
    while let Some(rest) = message.strip_prefix("rpc error: code = ")
        && let Some((_, description)) = rest.split_once(" desc = ")
    {
        message = description;
    }
    message
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn an_error_says_what_was_asked_and_the_runtimes_own_words() {
        let error = Err::<(), _>(Status::not_found(
            "rpc error: code = NotFound desc = failed to resolve: not found",
        ))
        .context("pull example.com/none")
        .unwrap_err();
        assert_eq!(
            describe(&error),
            "pull example.com/none: failed to resolve: not found"
        );
    }

    #[test]
    fn a_cause_that_was_said_is_not_said_again() {
        let error = anyhow::anyhow!("no such file").context("kubeconfig: /nope: no such file");
        let error = error.context("look at the cluster");
        assert_eq!(
            describe(&error),
            "look at the cluster: kubeconfig: /nope: no such file"
        );
    }

    #[test]
    fn what_a_runtime_lacks_is_said_as_such() {
        let error = anyhow::Error::new(Status::unimplemented("unknown method"));
        assert_eq!(
            describe(&error),
            "this runtime does not offer it (unknown method)"
        );
    }

    #[test]
    fn an_error_without_words_has_its_code() {
        let error = anyhow::Error::new(Status::permission_denied(""));
        assert!(
            describe(&error).contains("permission"),
            "{}",
            describe(&error)
        );
    }
}
