//! How the streaming server says that a session has ended: a `Status` of Kubernetes' `meta/v1`.

use anyhow::{Context, anyhow};
use serde::Deserialize;

use super::Ended;

/// The object, as far as it matters here.
#[derive(Debug, Deserialize)]
pub(super) struct Status {
    #[serde(rename = "status")]
    verdict: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    details: Details,
}

#[derive(Debug, Default, Deserialize)]
struct Details {
    #[serde(default)]
    causes: Vec<Cause>,
}

#[derive(Debug, Deserialize)]
struct Cause {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

impl Status {
    pub(super) fn read(text: &[u8]) -> anyhow::Result<Self> {
        serde_json::from_slice(text).with_context(|| {
            format!(
                "the runtime's word on the session's end is no Status: {}",
                String::from_utf8_lossy(text)
            )
        })
    }

    /// What it says; an error where the session, not the process, has failed.
    pub(super) fn ended(self) -> anyhow::Result<Ended> {
        if self.verdict == "Success" {
            return Ok(Ended::Exited(0));
        }
        let code = self
            .details
            .causes
            .iter()
            .find(|cause| cause.reason == "ExitCode")
            .and_then(|cause| cause.message.parse().ok());
        match code {
            Some(code) if self.reason == "NonZeroExitCode" => Ok(Ended::Exited(code)),
            _ => Err(anyhow!(self.message)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(text: &str) -> anyhow::Result<Ended> {
        Status::read(text.as_bytes())?.ended()
    }

    #[test]
    fn an_end_is_a_code_or_a_reason() {
        let success = r#"{"metadata":{},"status":"Success"}"#;
        assert_eq!(ended(success).unwrap(), Ended::Exited(0));
        let failure = r#"{"status":"Failure","message":"command terminated with non-zero exit code",
            "reason":"NonZeroExitCode",
            "details":{"causes":[{"reason":"ExitCode","message":"42"}]}}"#;
        assert_eq!(ended(failure).unwrap(), Ended::Exited(42));
        let broken = r#"{"status":"Failure","message":"no such command","reason":"InternalError"}"#;
        assert_eq!(ended(broken).unwrap_err().to_string(), "no such command");
        assert!(ended("command failed").is_err());
    }
}
