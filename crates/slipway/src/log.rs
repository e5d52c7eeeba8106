//! The daemon's log: lines for people or JSON on standard error.

use std::env::{self, VarError};
use std::io::IsTerminal as _;

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// What says in the daemon's environment how much is logged.
const VARIABLE: &str = "SLIPWAY_LOG";

/// How the daemon's log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object on each line.
    Json,
}

/// What is worth a line in the daemon's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogLevel {
    /// What failed and is not made up for.
    Error,
    /// What somebody should look after.
    Warn,
    /// What happens to pods and containers.
    Info,
    /// Each step.
    Debug,
    /// All there is.
    Trace,
}

/// Sets the level of the log from now on.
pub(crate) type SetLogLevel = Box<dyn Fn(LogLevel) + Send + Sync>;

/// Starts the log, beside what hears spans. What the daemon's environment says of it wins, and
/// lasts: a level, which is taken as `log_level` is, or directives as those of the crate
/// tracing-subscriber are.
pub(crate) fn start<L>(format: LogFormat, level: LogLevel, spans: Option<L>) -> SetLogLevel
where
    L: tracing_subscriber::Layer<Registry> + Send + Sync,
{
    let told = env::var(VARIABLE);
    let told = match &told {
        Ok(told) => Some(parse(told)),
        Err(VarError::NotPresent) => None,
        Err(error) => Some(Err(error.to_string())),
    };
    let mistake = told.as_ref().and_then(|told| told.as_ref().err().cloned());
    let told = told.and_then(Result::ok);
    let fixed = told.is_some();
    let (filtered, handle) = reload::Layer::new(told.unwrap_or_else(|| filter(level)));
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(spans)
        .with(lines.with_filter(filtered))
        .init();
    if let Some(reason) = mistake {
        tracing::warn!(reason, "{VARIABLE} cannot be understood; log_level counts");
    }
    Box::new(move |level| {
        if !fixed {
            // It fails only when the log is gone.
            let _ = handle.reload(filter(level));
        }
    })
}

/// What the environment says.
fn parse(told: &str) -> Result<EnvFilter, String> {
    match LogLevel::from_str(told, true) {
        Ok(level) => Ok(filter(level)),
        Err(_) => EnvFilter::try_new(told).map_err(|error| error.to_string()),
    }
}

/// Slipway's own lines of a level; of libraries no more than what is of interest.
fn filter(level: LogLevel) -> EnvFilter {
    let (own, libraries) = match level {
        LogLevel::Error => ("error", "error"),
        LogLevel::Warn => ("warn", "warn"),
        LogLevel::Info => ("info", "info"),
        LogLevel::Debug => ("debug", "info"),
        LogLevel::Trace => ("trace", "info"),
    };
    EnvFilter::new(format!("{libraries},slipway={own}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_level_is_that_of_slipways_own_lines() {
        for (told, meant) in [
            ("debug", "info,slipway=debug"),
            ("TRACE", "info,slipway=trace"),
            ("warn", "warn,slipway=warn"),
            ("off", "off"),
            (
                "h2=debug,slipway_native=trace",
                "h2=debug,slipway_native=trace",
            ),
        ] {
            // As they are printed, in whichever order that is.
            let expected = EnvFilter::new(meant).to_string();
            assert_eq!(parse(told).unwrap().to_string(), expected, "{told}");
        }
        parse("slipway=loud").unwrap_err();
    }
}
