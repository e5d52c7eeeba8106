//! `cargo xtask bench pull`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;
use slipway_cri_api::v1::{ImageSpec, RemoveImageRequest};
use slipway_testbed::{Image, Layer};

use super::report::ratio;
use super::statistics::Statistics;
use super::subject::{Ground, Subject};
use super::{Pull, progress};
use crate::table::Table;

const LAYERS: u64 = 8;

/// Files of each layer; an image of a distribution's packages has some hundred in a layer.
const FILES: u64 = 100;

/// The times of PullImage.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Of the compressed image.
    pub(crate) size_mib: u16,
    pub(crate) layers: u64,
    pub(crate) runtimes: Vec<Figures>,
}

/// The figures of one runtime.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) name: String,
    pub(crate) version: String,
    #[serde(flatten)]
    pub(crate) statistics: Statistics,
}

/// Pulls and removes the same image in alternating rounds.
///
/// # Errors
/// With the first call that fails, and the end of the log of the daemon that it was made to.
pub(crate) async fn measure(options: &Pull, slipway: Option<PathBuf>) -> Result<Report> {
    let ground = Ground::new().await?;
    let pushed = ground
        .registry
        .push("large:1", &image(u64::from(options.size) << 20))
        .await?;
    let subjects = ground.start(&options.contest, slipway).await?;
    let mut times: Vec<Vec<Duration>> = subjects.iter().map(|_| Vec::new()).collect();
    let rounds = usize::from(options.number);
    for number in 0..rounds {
        progress(number + 1, rounds);
        for turn in 0..subjects.len() {
            let index = (number + turn) % subjects.len();
            let pull = pull(&subjects[index], &pushed.reference).await;
            times[index].push(pull.map_err(|error| subjects[index].explain(error))?);
        }
    }
    let mut runtimes = Vec::new();
    for (subject, times) in subjects.iter().zip(&times) {
        let version = subject.runtime.cri().version().await?.runtime_version;
        runtimes.extend(Statistics::of(times).map(|statistics| Figures {
            name: subject.name.to_owned(),
            version,
            statistics,
        }));
    }
    Ok(Report {
        size_mib: options.size,
        layers: LAYERS,
        runtimes,
    })
}

async fn pull(subject: &Subject, image: &str) -> Result<Duration> {
    let cri = subject.runtime.cri();
    let begin = Instant::now();
    cri.pull(image).await?;
    let took = begin.elapsed();
    let spec = Some(ImageSpec {
        image: image.to_owned(),
        ..Default::default()
    });
    Box::pin(
        cri.images()
            .remove_image(RemoveImageRequest { image: spec }),
    )
    .await?;
    // The next pull begins with nothing left to be written to the disk.
    let synced = tokio::process::Command::new("sync").status().await?;
    ensure!(synced.success(), "`sync` ended with {synced}");
    Ok(took)
}

/// An image that is `size` bytes long when compressed. Half of what it unpacks to is noise, which
/// no compression makes smaller, and half is as good as nothing.
fn image(size: u64) -> Image {
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    (0..LAYERS).fold(Image::empty(), |image, number| {
        let root = format!("layer{number}");
        let layer = (0..FILES).fold(Layer::new().directory(&root, 0o755), |layer, file| {
            let mut data = noise.bytes(size / LAYERS / FILES);
            data.resize(data.len() * 2, b'.');
            layer.file(&format!("{root}/file{file}"), 0o644, data)
        });
        image.layer(layer)
    })
}

/// Marsaglia's xorshift: the same image in every run.
struct Noise(u64);

impl Noise {
    fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length.div_ceil(8))
            .flat_map(|_| self.next().to_le_bytes())
            .collect()
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

impl Report {
    /// One row for each runtime; below them the ratio of the first to the second.
    pub(crate) fn table(&self) -> String {
        let mut table = Table::new(["PullImage", "pulls", "median ms", "p95 ms"]);
        for Figures {
            name,
            version,
            statistics,
        } in &self.runtimes
        {
            table.row([
                format!("{name} {version}"),
                statistics.count.to_string(),
                format!("{:.0}", statistics.median_ms),
                format!("{:.0}", statistics.p95_ms),
            ]);
        }
        let median = |index: usize| self.runtimes.get(index).map(|one| one.statistics.median_ms);
        if let Some(ratio) = ratio(median(0), median(1)) {
            table.row(["ratio".to_owned(), String::new(), ratio]);
        }
        format!(
            "  {} MiB in {} layers\n\n{table}",
            self.size_mib, self.layers
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_the_same_in_every_run_and_does_not_repeat() {
        let bytes = |length| Noise(1).bytes(length);
        assert_eq!(bytes(16), bytes(16));
        assert_ne!(bytes(16)[..8], bytes(16)[8..]);
    }
}
