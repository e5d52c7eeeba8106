//! `slipway pull`, and the pull before `slipway run`.

use std::collections::HashMap;
use std::io::{IsTerminal, stderr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use slipway_cri_api::slipway::{LayerProgress, LayerState, PullProgress, WatchRequest};
use slipway_cri_api::v1::{AuthConfig, ImageSpec, PullImageRequest};
use tonic::{Status, Streaming};

use super::connection::Client;
use super::credentials;
use super::output::{print_line, short_id};

/// What `slipway pull` is told.
#[derive(Debug, Args)]
#[command(after_help = "\
Without --creds, the credentials are those of `docker login` or `podman login`: in the file
$REGISTRY_AUTH_FILE, or else in auth.json in $XDG_RUNTIME_DIR/containers and ~/.config/containers,
in ~/.docker/config.json and in /etc/containers/auth.json, with their credential helpers.

Examples:
  slipway pull busybox
  slipway pull registry.example.com/app:1.2
  slipway pull --creds \"$USER:$TOKEN\" registry.example.com/app@sha256:…")]
pub(crate) struct PullArgs {
    /// Credentials for the registry
    #[arg(long, value_name = "USER:PASSWORD", value_parser = credentials::parse)]
    creds: Option<AuthConfig>,

    /// No progress, and only the reference of the pulled image
    #[arg(short, long)]
    quiet: bool,

    /// Name, with a tag or a digest
    image: String,
}

impl PullArgs {
    pub(super) async fn run(self, client: &Client) -> anyhow::Result<ExitCode> {
        let reference = pull(client, &self.image, self.creds, self.quiet).await?;
        if self.quiet {
            print_line(&reference)?;
        } else {
            print_line(&format!("Pulled {}: {reference}", self.image))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Pulls an image, with progress on standard error if that is a terminal, and returns the runtime's
/// reference to it. Credentials that are not given are looked for.
pub(super) async fn pull(
    client: &Client,
    image: &str,
    credentials: Option<AuthConfig>,
    quiet: bool,
) -> anyhow::Result<String> {
    let asked = || format!("pull {image}");
    let auth = match credentials {
        Some(credentials) => Some(credentials),
        None => credentials::for_image(image).with_context(asked)?,
    };
    let request = client.request(PullImageRequest {
        image: Some(ImageSpec {
            image: image.into(),
            ..Default::default()
        }),
        auth,
        sandbox_config: None,
    });
    let mut images = client.images();
    let pulling = images.pull_image(request);
    let response = if !quiet && stderr().is_terminal() {
        let mut display = Display::new(image);
        tokio::select! {
            response = pulling => response,
            never = display.show(client, image) => match never {},
        }
    } else {
        pulling.await
    };
    Ok(response.with_context(asked)?.into_inner().image_ref)
}

/// The progress of a pull on a terminal, which is clean again when this is dropped.
struct Display {
    bars: MultiProgress,
    spinner: ProgressBar,
    layers: HashMap<String, ProgressBar>,
}

impl Drop for Display {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = self.bars.clear();
    }
}

enum Never {}

impl Display {
    fn new(image: &str) -> Self {
        let bars = MultiProgress::new();
        let spinner = bars.add(ProgressBar::new_spinner().with_message(format!("Pulling {image}")));
        spinner.enable_steady_tick(Duration::from_millis(100));
        Self {
            bars,
            spinner,
            layers: HashMap::new(),
        }
    }

    /// Shows the layers as far as the runtime tells of them, for ever.
    async fn show(&mut self, client: &Client, image: &str) -> Never {
        let request = WatchRequest {
            image: image.into(),
        };
        // Most runtimes have nothing to watch. The pull's own answer is what counts.
        if let Ok(response) = client.pulls().watch(request).await {
            let _ = self.follow(response.into_inner()).await;
        }
        std::future::pending().await
    }

    async fn follow(&mut self, mut progress: Streaming<PullProgress>) -> Result<(), Status> {
        while let Some(now) = progress.message().await? {
            for layer in &now.layers {
                self.update(layer);
            }
        }
        Ok(())
    }

    fn update(&mut self, layer: &LayerProgress) {
        let bar = self.layers.entry(layer.digest.clone()).or_insert_with(|| {
            let bar =
                ProgressBar::new(layer.total).with_prefix(short_id(&layer.digest).to_string());
            self.bars
                .insert_before(&self.spinner, bar)
                .with_style(bytes_style())
        });
        bar.set_length(layer.total);
        bar.set_position(layer.done);
        let word = match layer.state() {
            LayerState::LayerWaiting => "waiting",
            LayerState::LayerDownloading => "downloading",
            LayerState::LayerUnpacking => "unpacking",
            LayerState::LayerDone => "done",
            LayerState::LayerPresent => "present",
        };
        if bar.message() != word {
            bar.set_message(word);
            match layer.state() {
                LayerState::LayerDone | LayerState::LayerPresent => bar.abandon(),
                LayerState::LayerUnpacking => bar.set_style(unpacking_style()),
                _ => {}
            }
        }
    }
}

fn bytes_style() -> ProgressStyle {
    style("{prefix}  {msg:11}  {bar:30}  {decimal_bytes:>9} of {decimal_total_bytes}")
}

fn unpacking_style() -> ProgressStyle {
    style("{prefix}  {msg:11}  {bar:30}  {decimal_total_bytes:>9}")
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the template is well-formed")
        .progress_chars("━╸ ")
}
