//! How far pulls are, told to whoever watches (`slipway.v1.Pulls/Watch`).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bollard::models::CreateImageInfo;
use futures_util::stream;
use slipway_cri_api::slipway::{LayerProgress, LayerState, PullProgress};
use slipway_engine::PullProgressStream;
use tokio::sync::watch;

/// Pulls that are watched, by the image's name.
#[derive(Debug, Default)]
pub(crate) struct Pulls(Mutex<HashMap<String, watch::Sender<PullProgress>>>);

/// A pull that goes on. Dropping it ends what its watchers see.
pub(crate) struct Pull<'a> {
    pulls: &'a Pulls,
    name: String,
}

impl Pulls {
    /// The states of the pull that is under way, or of the next one; each one once, to its end.
    pub(crate) fn watch(&self, name: &str) -> PullProgressStream {
        let mut pulls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody waits any more for what never came.
        pulls.retain(|_, states| states.receiver_count() > 0);
        let states = pulls.entry(name.to_owned()).or_default();
        Box::pin(stream::unfold(
            states.subscribe(),
            |mut states| async move {
                states.changed().await.ok()?;
                let state = states.borrow_and_update().clone();
                Some((state, states))
            },
        ))
    }

    /// A pull begins.
    pub(crate) fn begin(&self, name: &str) -> Pull<'_> {
        Pull {
            pulls: self,
            name: name.to_owned(),
        }
    }
}

impl Pull<'_> {
    /// Takes what Docker tells of it.
    pub(crate) fn take(&self, told: &CreateImageInfo) {
        let pulls = self.pulls.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(states) = pulls.get(&self.name) {
            states.send_if_modified(|progress| take(progress, told));
        }
    }
}

impl Drop for Pull<'_> {
    fn drop(&mut self) {
        let mut pulls = self.pulls.0.lock().unwrap_or_else(PoisonError::into_inner);
        pulls.remove(&self.name);
    }
}

/// Answers whether there is anything new.
fn take(progress: &mut PullProgress, told: &CreateImageInfo) -> bool {
    let (Some(id), Some(status)) = (&told.id, &told.status) else {
        return false;
    };
    let state = match status.as_str() {
        "Pulling fs layer" | "Waiting" => LayerState::LayerWaiting,
        "Downloading" | "Verifying Checksum" | "Download complete" => LayerState::LayerDownloading,
        "Extracting" => LayerState::LayerUnpacking,
        "Pull complete" => LayerState::LayerDone,
        "Already exists" => LayerState::LayerPresent,
        _ => return false,
    };
    let known = progress.layers.iter().position(|layer| layer.digest == *id);
    let position = known.unwrap_or_else(|| {
        progress.layers.push(LayerProgress {
            digest: id.clone(),
            ..LayerProgress::default()
        });
        progress.layers.len() - 1
    });
    let layer = &mut progress.layers[position];
    let before = layer.clone();
    layer.state = state.into();
    let detail = told.progress_detail.as_ref();
    let number = |number: Option<i64>| number.and_then(|number| number.try_into().ok());
    // While it is unpacked, Docker counts anew.
    if status == "Downloading" {
        layer.total = detail
            .and_then(|detail| number(detail.total))
            .unwrap_or(layer.total);
        layer.done = detail
            .and_then(|detail| number(detail.current))
            .unwrap_or(layer.done);
    }
    if matches!(state, LayerState::LayerDone | LayerState::LayerPresent) {
        layer.done = layer.total;
    }
    known.is_none() || *layer != before
}

#[cfg(test)]
mod tests {
    use bollard::models::ProgressDetail;
    use futures_util::StreamExt as _;

    use super::*;

    fn told(status: &str, current: i64) -> CreateImageInfo {
        CreateImageInfo {
            id: Some("0a1b".to_owned()),
            status: Some(status.to_owned()),
            progress_detail: Some(ProgressDetail {
                current: Some(current),
                total: Some(10),
            }),
            ..CreateImageInfo::default()
        }
    }

    #[tokio::test]
    async fn a_watcher_sees_the_pull_that_comes_to_its_end() {
        let pulls = Pulls::default();
        let mut seen = pulls.watch("a:1");
        let pull = pulls.begin("a:1");
        pull.take(&told("Downloading", 4));
        let layer = seen.next().await.unwrap().layers.remove(0);
        assert_eq!((layer.done, layer.total), (4, 10));
        assert_eq!(layer.state(), LayerState::LayerDownloading);
        pull.take(&told("Extracting", 3));
        pull.take(&told("Pull complete", 0));
        let layer = seen.next().await.unwrap().layers.remove(0);
        assert_eq!((layer.done, layer.state()), (10, LayerState::LayerDone));
        drop(pull);
        assert!(seen.next().await.is_none());
    }

    #[test]
    fn what_tells_nothing_new_is_not_told() {
        let mut progress = PullProgress::default();
        assert!(!take(
            &mut progress,
            &told("Pulling from library/busybox", 0)
        ));
        assert!(take(&mut progress, &told("Waiting", 0)));
        assert!(!take(&mut progress, &told("Waiting", 0)));
        assert_eq!(progress.layers.len(), 1);
    }
}
