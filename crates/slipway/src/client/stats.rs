//! `slipway stats`.

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use slipway_cri_api::v1::{
    ContainerStats, ContainerStatsFilter, ListContainerStatsRequest, ListContainerStatsResponse,
    UInt64Value,
};
use tonic::Code;

use super::connection::Client;
use super::images::human_size;
use super::output::ListArgs;
use super::table::Table;

/// How long the use of the processor is measured where the runtime does not do so itself.
const SAMPLE: Duration = Duration::from_secs(1);

/// What `slipway stats` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
100 in the column CPU % is one processor.

Examples:
  slipway stats
  slipway stats web
  slipway stats -o json")]
pub(crate) struct StatsArgs {
    /// Name or ID [default: all running containers]
    container: Option<String>,

    #[command(flatten)]
    list: ListArgs,
}

impl StatsArgs {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        let id = match &self.container {
            Some(query) => Some(
                client
                    .container_id(query)
                    .await
                    .with_context(|| format!("stats {query}"))?,
            ),
            None => None,
        };
        let mut response = sample(client, id.as_ref()).await?;
        let mut earlier = HashMap::new();
        if response
            .stats
            .iter()
            .any(|stats| nano_cores(stats).is_none())
        {
            earlier = response
                .stats
                .iter()
                .filter_map(|stats| Some((id_of(stats).to_string(), used_time(stats)?)))
                .collect();
            tokio::time::sleep(SAMPLE).await;
            response = sample(client, id.as_ref()).await?;
        }
        response.stats.sort_by(|a, b| name_of(a).cmp(name_of(b)));
        let ids = response.stats.iter().map(id_of);
        self.list
            .print(&response, ids, || self.table(&response.stats, &earlier))?;
        Ok(ExitCode::SUCCESS)
    }

    fn table(&self, all: &[ContainerStats], earlier: &HashMap<String, Used>) -> Table {
        let mut table = Table::new(["CONTAINER", "NAME", "CPU %", "MEM", "DISK", "INODES"]);
        for stats in all {
            let memory = stats
                .memory
                .as_ref()
                .and_then(|memory| memory.working_set_bytes);
            let layer = stats.writable_layer.as_ref();
            let disk = layer.and_then(|layer| layer.used_bytes);
            let inodes = layer.and_then(|layer| layer.inodes_used);
            let cores =
                nano_cores(stats).or_else(|| used_time(stats)?.since(earlier.get(id_of(stats))?));
            table.push([
                self.list.id(id_of(stats)).into(),
                name_of(stats).into(),
                shown(cores, |cores| {
                    format!("{}.{:02}", cores / 10_000_000, cores / 100_000 % 100)
                })
                .into(),
                shown(number(memory), human_size).into(),
                shown(number(disk), human_size).into(),
                shown(number(inodes), |inodes| inodes.to_string()).into(),
            ]);
        }
        table
    }
}

async fn sample(
    client: &Client,
    id: Option<&String>,
) -> anyhow::Result<ListContainerStatsResponse> {
    let filter = id.map(|id| ContainerStatsFilter {
        id: id.clone(),
        ..Default::default()
    });
    let request = client.request(ListContainerStatsRequest { filter });
    match client.runtime().list_container_stats(request).await {
        Ok(response) => Ok(response.into_inner()),
        Err(status) if status.code() == Code::Unimplemented => Err(anyhow!(
            "stats: this runtime does not measure what containers use"
        )),
        Err(status) => Err(status).context("stats"),
    }
}

/// How much processor time was used, and when that was measured, both in nanoseconds.
struct Used {
    time: u64,
    at: i64,
}

impl Used {
    /// The mean use since `earlier`, in billionths of a processor.
    fn since(&self, earlier: &Used) -> Option<u64> {
        let elapsed = u64::try_from(self.at - earlier.at)
            .ok()
            .filter(|elapsed| *elapsed > 0)?;
        let used = self.time.saturating_sub(earlier.time);
        u64::try_from(u128::from(used) * 1_000_000_000 / u128::from(elapsed)).ok()
    }
}

fn used_time(stats: &ContainerStats) -> Option<Used> {
    let cpu = stats.cpu.as_ref()?;
    Some(Used {
        time: cpu.usage_core_nano_seconds?.value,
        at: cpu.timestamp,
    })
}

fn nano_cores(stats: &ContainerStats) -> Option<u64> {
    number(stats.cpu.as_ref()?.usage_nano_cores)
}

fn number(value: Option<UInt64Value>) -> Option<u64> {
    value.map(|value| value.value)
}

fn shown(value: Option<u64>, show: impl FnOnce(u64) -> String) -> String {
    value.map_or_else(|| "-".to_string(), show)
}

fn id_of(stats: &ContainerStats) -> &str {
    stats
        .attributes
        .as_ref()
        .map_or("", |attributes| &attributes.id)
}

fn name_of(stats: &ContainerStats) -> &str {
    let metadata = stats
        .attributes
        .as_ref()
        .and_then(|attributes| attributes.metadata.as_ref());
    metadata.map_or("", |metadata| &metadata.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_is_measured_between_two_samples() {
        let earlier = Used {
            time: 1_000_000_000,
            at: 0,
        };
        let now = Used {
            time: 1_500_000_000,
            at: 2_000_000_000,
        };
        assert_eq!(now.since(&earlier), Some(250_000_000));
        assert_eq!(earlier.since(&now), None, "time does not run backwards");
    }
}
