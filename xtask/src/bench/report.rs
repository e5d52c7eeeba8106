//! The figures of a run, for people and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use super::cycle::{Call, Life};
use super::memory::Memory;
use super::overhead::{self, Share};
use super::statistics::Statistics;
use crate::table::Table;

/// What is measured: a call, or calls that together make one thing for the user.
const OPERATIONS: [(&str, &[Call]); 9] = [
    ("RunPodSandbox", &[Call::RunPodSandbox]),
    ("CreateContainer", &[Call::CreateContainer]),
    ("StartContainer", &[Call::StartContainer]),
    (
        "CreateContainer + StartContainer",
        &[Call::CreateContainer, Call::StartContainer],
    ),
    ("StopContainer", &[Call::StopContainer]),
    ("RemoveContainer", &[Call::RemoveContainer]),
    ("StopPodSandbox", &[Call::StopPodSandbox]),
    ("RemovePodSandbox", &[Call::RemovePodSandbox]),
    (
        "StopPodSandbox + RemovePodSandbox",
        &[Call::StopPodSandbox, Call::RemovePodSandbox],
    ),
];

/// All figures of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Pods at a time.
    pub(crate) parallel: usize,
    /// The runtimes, Slipway first if it took part.
    pub(crate) runtimes: Vec<Figures>,
}

/// The figures of one runtime.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) operations: Vec<Operation>,
    /// On Docker: what of each call is Slipway's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) shares: Vec<Share>,
    pub(crate) memory: Memory,
}

/// The times of one operation.
#[derive(Debug, Serialize)]
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    #[serde(flatten)]
    pub(crate) statistics: Statistics,
}

/// The statistics of every operation over `lives`.
pub(crate) fn operations(lives: &[Life]) -> Vec<Operation> {
    OPERATIONS
        .iter()
        .filter_map(|&(name, calls)| {
            let samples: Vec<_> = lives
                .iter()
                .map(|life| {
                    life.times
                        .iter()
                        .filter(|timed| calls.contains(&timed.call))
                        .map(|timed| timed.took)
                        .sum()
                })
                .collect();
            Some(Operation {
                name,
                statistics: Statistics::of(&samples)?,
            })
        })
        .collect()
}

impl Report {
    /// Two tables: times and memory, with a column of ratios (the first runtime to the second).
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        for figures in &self.runtimes {
            let _ = writeln!(text, "  {} {}", figures.name, figures.version);
        }
        let count = self
            .runtimes
            .first()
            .and_then(|figures| figures.operations.first());
        let count = count.map_or(0, |operation| operation.statistics.count);
        let parallel = match self.parallel {
            1 => "one at a time".to_owned(),
            several => format!("{several} at a time"),
        };
        let _ = writeln!(text, "\n  times in ms, {count} pods each, {parallel}\n");
        let _ = writeln!(text, "{}", self.times());
        for figures in &self.runtimes {
            if let Some(table) = overhead::table(&figures.shares) {
                let _ = writeln!(text, "{table}");
            }
        }
        let _ = write!(text, "{}", self.memory());
        text
    }

    fn times(&self) -> Table {
        let mut table = self.heading("operation", &["median", "p95"]);
        for (name, _) in OPERATIONS {
            let found: Vec<_> = self
                .runtimes
                .iter()
                .filter_map(|figures| figures.operations.iter().find(|other| other.name == name))
                .map(|operation| operation.statistics)
                .collect();
            let times = found
                .iter()
                .flat_map(|statistics| [statistics.median_ms, statistics.p95_ms]);
            let cells = times.map(|time| format!("{time:.1}"));
            let ratio = ratio(
                found.first().map(|one| one.median_ms),
                found.get(1).map(|one| one.median_ms),
            );
            table.row([name.to_owned()].into_iter().chain(cells).chain(ratio));
        }
        table
    }

    fn memory(&self) -> Table {
        type Figure = (&'static str, fn(&Memory) -> u64);
        const FIGURES: [Figure; 4] = [
            ("a pod", |memory| memory.pod),
            ("  in its shim, monitor, pause", |memory| {
                memory.pod_processes
            }),
            ("  in the daemon, which grows", |memory| memory.pod_daemon),
            ("the daemon at rest", |memory| memory.daemon_at_rest),
        ];
        let mut table = self.heading("memory (PSS)", &["KiB"]);
        for (name, figure) in FIGURES {
            let found: Vec<_> = self
                .runtimes
                .iter()
                .map(|one| figure(&one.memory) / 1024)
                .collect();
            #[expect(clippy::cast_precision_loss, reason = "no runtime has 2^52 KiB")]
            let number = |index: usize| found.get(index).map(|&kib| kib as f64);
            let ratio = ratio(number(0), number(1));
            let cells = found.iter().map(u64::to_string);
            table.row([name.to_owned()].into_iter().chain(cells).chain(ratio));
        }
        table
    }

    fn heading(&self, first: &str, columns: &[&str]) -> Table {
        let names = self.runtimes.iter().flat_map(|figures| {
            columns
                .iter()
                .map(move |column| format!("{} {column}", figures.name))
        });
        let ratio = (self.runtimes.len() == 2).then(|| "ratio".to_owned());
        Table::new([first.to_owned()].into_iter().chain(names).chain(ratio))
    }
}

/// The ratio of two figures as a cell, if there are two.
pub(crate) fn ratio(ours: Option<f64>, theirs: Option<f64>) -> Option<String> {
    let (ours, theirs) = (ours?, theirs?);
    Some(if theirs > 0.0 {
        format!("{:.2}", ours / theirs)
    } else {
        "-".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(name: &str, median_ms: f64) -> Figures {
        let statistics = Statistics {
            count: 3,
            median_ms,
            p95_ms: median_ms * 2.0,
        };
        let memory = Memory {
            daemon_at_rest: 10 << 20,
            pod: 300 << 10,
            pod_processes: 200 << 10,
            pod_daemon: 100 << 10,
            pods: 12,
        };
        let operations = vec![Operation {
            name: "RunPodSandbox",
            statistics,
        }];
        Figures {
            name: name.into(),
            version: "1".into(),
            operations,
            shares: Vec::new(),
            memory,
        }
    }

    #[test]
    fn two_runtimes_have_a_ratio_and_one_has_none() {
        let mut report = Report {
            parallel: 1,
            runtimes: vec![figures("slipway", 10.0), figures("other", 40.0)],
        };
        let both = report.table();
        assert!(both.contains("0.25"), "{both}");
        assert!(both.contains(" ratio"), "{both}");
        report.runtimes.pop();
        let one = report.table();
        assert!(!one.contains(" ratio"), "{one}");
    }

    #[test]
    fn json_has_the_statistics_beside_the_name() {
        let report = Report {
            parallel: 1,
            runtimes: vec![figures("slipway", 10.0)],
        };
        let json = serde_json::to_value(report).unwrap();
        let operation = &json["runtimes"][0]["operations"][0];
        assert_eq!(operation["name"], "RunPodSandbox");
        assert_eq!(operation["median_ms"], 10.0);
    }
}
