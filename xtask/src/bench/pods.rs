//! `cargo xtask bench pods`.

use std::path::PathBuf;

use anyhow::Result;
use slipway_testbed::Image;

use super::cycle::{Call, Life, advance};
use super::overhead::{self, Observer, Share, Split};
use super::report::{Figures, Report, operations};
use super::subject::{Ground, Subject};
use super::{Pods, memory, progress};

/// Measures all runtimes in rounds, and then their memory one after the other.
///
/// # Errors
/// With the first call that fails, and the end of the log of the daemon that it was made to.
pub(crate) async fn measure(options: &Pods, slipway: Option<PathBuf>) -> Result<Report> {
    let parallel = usize::from(options.parallel);
    let ground = Ground::new().await?;
    let image = ground
        .registry
        .push("busybox:1", &Image::busybox())
        .await?
        .reference;
    let subjects = ground.start(&options.contest, slipway).await?;
    for subject in &subjects {
        subject
            .runtime
            .cri()
            .pull(&image)
            .await
            .map_err(|error| subject.explain(error.into()))?;
        // The first pod also makes the bridge, and pulls containerd's pause image.
        round(subject, &image, 1).await?;
    }
    let mut lives: Vec<Vec<Life>> = subjects.iter().map(|_| Vec::new()).collect();
    let mut splits = Vec::new();
    let rounds = usize::from(options.number).div_ceil(parallel);
    for number in 0..rounds {
        progress(number + 1, rounds);
        // Whoever comes second in a round may find the machine busier or warmer.
        for turn in 0..subjects.len() {
            let index = (number + turn) % subjects.len();
            lives[index].extend(round(&subjects[index], &image, parallel).await?);
        }
        // By itself, so that looking on takes no time of the calls above. Of several calls at once
        // nobody could say for which of them dockerd works.
        for subject in &subjects {
            splits.extend(observed(subject, &image).await?);
        }
    }
    let mut runtimes = Vec::new();
    for (subject, lives) in subjects.iter().zip(&lives) {
        let shares = match subject.docker {
            Some(_) => overhead::shares(&splits),
            None => Vec::new(),
        };
        let idle = usize::from(options.idle);
        runtimes.push(figures(subject, lives, shares, &image, idle).await?);
    }
    Ok(Report { parallel, runtimes })
}

/// Runs and removes `count` pods at once.
async fn round(subject: &Subject, image: &str, count: usize) -> Result<Vec<Life>> {
    let lives = (0..count)
        .map(|_| Life::new(&subject.scratch, image))
        .collect();
    let cri = subject.runtime.cri();
    let up = advance(cri, lives, &Call::UP)
        .await
        .map_err(|error| subject.explain(error))?;
    advance(cri, up, &Call::DOWN)
        .await
        .map_err(|error| subject.explain(error))
}

/// Runs and removes one pod where it is on Docker, and says whose the time of each call was.
async fn observed(subject: &Subject, image: &str) -> Result<Vec<Split>> {
    let Some(docker) = &subject.docker else {
        return Ok(Vec::new());
    };
    let mut lives = vec![Life::new(&subject.scratch, image)];
    let mut splits = Vec::new();
    let mut observer = Observer::new(docker)?;
    for call in Call::all() {
        lives = advance(subject.runtime.cri(), lives, &[call])
            .await
            .map_err(|error| subject.explain(error))?;
        for life in &lives {
            splits.extend(observer.split(life)?);
        }
    }
    Ok(splits)
}

async fn figures(
    subject: &Subject,
    lives: &[Life],
    shares: Vec<Share>,
    image: &str,
    idle: usize,
) -> Result<Figures> {
    let memory = memory::of_pods(subject, image, idle)
        .await
        .map_err(|error| subject.explain(error))?;
    Ok(Figures {
        name: subject.name.to_owned(),
        version: subject.runtime.cri().version().await?.runtime_version,
        operations: operations(lives),
        shares,
        memory,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Contest, Output, Peer};

    #[tokio::test(flavor = "multi_thread")]
    async fn both_runtimes_are_measured_call_by_call() {
        let options = Pods {
            contest: Contest {
                against: Some(Peer::Containerd),
                engine: crate::bench::Engine::Native,
                alone: false,
                output: Output::Json,
            },
            number: 2,
            parallel: 2,
            idle: 1,
        };
        let slipway = slipway_testbed::slipway_binary().unwrap();
        let report = measure(&options, Some(slipway)).await.unwrap();
        let json = serde_json::to_value(&report).unwrap();
        let runtimes = json["runtimes"].as_array().unwrap();
        assert_eq!(runtimes.len(), 2);
        for runtime in runtimes {
            let operations = runtime["operations"].as_array().unwrap();
            assert!(operations.len() >= 6, "{runtime}");
            for operation in operations {
                assert!(
                    operation["median_ms"].as_f64().unwrap() > 0.0,
                    "{operation}"
                );
            }
            assert!(
                runtime["memory"]["daemon_at_rest"].as_u64().unwrap() > 0,
                "{runtime}"
            );
        }
    }
}
