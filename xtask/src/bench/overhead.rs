//! What of the calls' times is Slipway's own where it only has others do the work: the rest is
//! dockerd's, by what a proxy on its socket sees, and the network plugins', by Slipway's metrics.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use slipway_testbed::Asked;

use super::cycle::{Call, Life, Timed};
use super::statistics::Statistics;
use super::subject::OnDocker;
use crate::table::Table;

/// The sum of what CNI plugins took in both directions, those of a chain together.
const NETWORK: &str = "slipway_network_operation_duration_seconds_sum";

/// A request that stays open for as long as the daemon runs.
const ENDLESS: &str = "GET /events";

/// One call's time, and whose it was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Split {
    call: Call,
    dockerd: Duration,
    network: Duration,
    own: Duration,
}

/// The times of one call of CRI.
#[derive(Debug, Serialize)]
pub(crate) struct Share {
    pub(crate) call: Call,
    /// While a request to dockerd was under way.
    pub(crate) dockerd: Statistics,
    /// While plugins attached a pod or detached it.
    pub(crate) network: Statistics,
    /// The rest.
    pub(crate) own: Statistics,
}

/// Looks at others while calls are made.
pub(crate) struct Observer<'a> {
    docker: &'a OnDocker,
    network: Duration,
}

impl<'a> Observer<'a> {
    /// # Errors
    /// When the daemon offers no metrics.
    pub(crate) fn new(docker: &'a OnDocker) -> Result<Self> {
        docker.proxy.take();
        Ok(Self {
            docker,
            network: network(docker.metrics)?,
        })
    }

    /// Whose the time of the last call was that a life has made.
    ///
    /// # Errors
    /// When the daemon offers no metrics.
    pub(crate) fn split(&mut self, life: &Life) -> Result<Option<Split>> {
        let network = network(self.docker.metrics)?;
        let took = network.saturating_sub(self.network);
        self.network = network;
        let asked = self.docker.proxy.take();
        let last = life.times.last();
        Ok(last.map(|timed| split(*timed, &asked, took)))
    }
}

fn split(timed: Timed, asked: &[Asked], network: Duration) -> Split {
    let ended = timed.began + timed.took;
    let spans = asked
        .iter()
        .filter(|asked| asked.what != ENDLESS)
        .map(|asked| (asked.began, asked.ended.unwrap_or(ended)));
    let dockerd = covered(timed.began, ended, spans.collect());
    Split {
        call: timed.call,
        dockerd,
        network,
        own: timed.took.saturating_sub(dockerd).saturating_sub(network),
    }
}

/// How much of the time from `began` to `ended` is in one span or several.
fn covered(began: Instant, ended: Instant, mut spans: Vec<(Instant, Instant)>) -> Duration {
    spans.sort_unstable();
    let (mut covered, mut reached) = (Duration::ZERO, began);
    for (from, to) in spans {
        let (from, to) = (from.max(reached), to.min(ended));
        covered += to.saturating_duration_since(from);
        reached = reached.max(to);
    }
    covered
}

/// The statistics of each call over all lives.
pub(crate) fn shares(splits: &[Split]) -> Vec<Share> {
    let of =
        |call: Call| -> Vec<&Split> { splits.iter().filter(|split| split.call == call).collect() };
    Call::all()
        .filter_map(|call| {
            let splits = of(call);
            let statistics = |part: fn(&Split) -> Duration| {
                let times: Vec<_> = splits.iter().map(|split| part(split)).collect();
                Statistics::of(&times)
            };
            Some(Share {
                call,
                dockerd: statistics(|split| split.dockerd)?,
                network: statistics(|split| split.network)?,
                own: statistics(|split| split.own)?,
            })
        })
        .collect()
}

/// None where nobody else was looked at.
pub(crate) fn table(shares: &[Share]) -> Option<Table> {
    if shares.is_empty() {
        return None;
    }
    let heading = ["whose, ms", "dockerd", "network", "own median", "own p95"];
    let mut table = Table::new(heading);
    for share in shares {
        let times = [
            share.dockerd.median_ms,
            share.network.median_ms,
            share.own.median_ms,
            share.own.p95_ms,
        ];
        let cells = times.map(|time| format!("{time:.1}"));
        table.row([format!("{:?}", share.call)].into_iter().chain(cells));
    }
    Some(table)
}

/// How long plugins have taken so far.
fn network(metrics: SocketAddr) -> Result<Duration> {
    let mut stream = TcpStream::connect(metrics).context("the daemon offers no metrics")?;
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: {metrics}\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let seconds = text
        .lines()
        .filter(|line| line.starts_with(NETWORK))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    Ok(Duration::from_secs_f64(seconds.sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_overlaps_counts_once_and_what_lies_outside_does_not() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let asked = |began, ended: Option<u64>, what: &str| Asked {
            what: what.to_owned(),
            began: at(began),
            ended: ended.map(at),
        };
        let timed = Timed {
            call: Call::StartContainer,
            began: at(10),
            took: Duration::from_millis(90),
        };
        let all = [
            asked(0, None, ENDLESS),
            asked(0, Some(20), "before and in it"),
            asked(30, Some(50), "in it"),
            asked(40, Some(60), "overlaps"),
            asked(45, Some(48), "inside of another"),
            asked(95, None, "after it"),
        ];
        let split = split(timed, &all, Duration::from_millis(5));
        assert_eq!(split.dockerd, Duration::from_millis(10 + 30 + 5));
        assert_eq!(split.own, Duration::from_millis(40));
    }
}
