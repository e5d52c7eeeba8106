//! How a session's end is told to its client, on the stream called "error".

use serde_json::json;
use slipway_engine::{Error, SessionEnd};

/// How a client wants to read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Protocols before `v4`: a text for people, and nothing where all went well.
    Text,
    /// A `Status` object of Kubernetes' `meta/v1`, always.
    Json,
}

impl Form {
    /// What to write at the end.
    pub(crate) fn write(self, end: &Result<SessionEnd, Error>) -> String {
        match self {
            Self::Text => text(end),
            Self::Json => json(end),
        }
    }
}

fn text(end: &Result<SessionEnd, Error>) -> String {
    match end {
        Ok(SessionEnd::Exited(0) | SessionEnd::Detached) => String::new(),
        Ok(SessionEnd::Exited(code)) => exited(*code),
        Err(error) => error.to_string(),
    }
}

fn exited(code: i32) -> String {
    format!("command terminated with exit code {code}")
}

fn json(end: &Result<SessionEnd, Error>) -> String {
    match end {
        Ok(SessionEnd::Exited(0) | SessionEnd::Detached) => {
            json!({ "metadata": {}, "status": "Success" })
        }
        Ok(SessionEnd::Exited(code)) => json!({
            "metadata": {},
            "status": "Failure",
            "message": exited(*code),
            "reason": "NonZeroExitCode",
            "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
        }),
        Err(error) => {
            let message = error.to_string();
            json!({
                "metadata": {},
                "status": "Failure",
                "message": message,
                "reason": "InternalError",
                "details": { "causes": [{ "message": message }] },
                "code": 500,
            })
        }
    }
    .to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn new_clients_get_an_object() {
        let written = |end| serde_json::from_str::<Value>(&Form::Json.write(&end)).unwrap();
        assert_eq!(written(Ok(SessionEnd::Exited(0)))["status"], "Success");
        assert_eq!(written(Ok(SessionEnd::Detached))["status"], "Success");
        let failed = written(Ok(SessionEnd::Exited(42)));
        assert_eq!(failed["status"], "Failure");
        assert_eq!(failed["reason"], "NonZeroExitCode");
        let cause = &failed["details"]["causes"][0];
        assert_eq!(
            (&cause["reason"], &cause["message"]),
            (&"ExitCode".into(), &"42".into())
        );
        let failed = written(Err(Error::internal("no such \"thing\"")));
        assert_eq!(
            (&failed["code"], &failed["reason"]),
            (&500.into(), &"InternalError".into())
        );
        assert_eq!(failed["message"], "no such \"thing\"");
    }

    #[test]
    fn old_clients_get_a_text_when_something_went_wrong() {
        assert_eq!(Form::Text.write(&Ok(SessionEnd::Exited(0))), "");
        let failed = Form::Text.write(&Ok(SessionEnd::Exited(3)));
        assert_eq!(failed, "command terminated with exit code 3");
        assert_eq!(Form::Text.write(&Err(Error::internal("why"))), "why");
    }
}
