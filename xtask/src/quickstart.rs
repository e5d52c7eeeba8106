//! `cargo xtask quickstart`: a reader's first two minutes with Slipway, nothing of it left behind.

use std::fmt::Display;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use slipway_cri_api::v1::{ContainerConfig, PodSandboxConfig};
use slipway_testbed::{Cri, Image, Node, Pushed, eventually, leaks, pod, read_log};

use crate::build;
use crate::prerequisites::{self, Needs};

/// What the server's container answers on port 80.
const GREETING: &str = "Ahoy from slipway";

/// Installs, builds, shows and cleans up.
///
/// # Errors
/// With the first step that fails. What was started is ended and removed all the same.
pub(crate) fn run() -> Result<()> {
    let begin = Instant::now();
    step("Debian packages");
    let missing = prerequisites::missing(Needs::Node);
    prerequisites::provide(Needs::Node, true)?;
    match missing.as_slice() {
        [] => say("all there", "nothing to install", None),
        names => say("installed", names.join(" "), None),
    }

    step("Build slipway and slipway-shim (the first time takes minutes)");
    let slipway = build::release(build::Sizes::Printed)?;
    say(
        "built",
        format!("in {:.1} s", begin.elapsed().as_secs_f64()),
        None,
    );

    let begin = Instant::now();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(show(&slipway))?;
    farewell(&slipway, begin.elapsed());
    Ok(())
}

async fn show(slipway: &Path) -> Result<()> {
    step("A node in a scratch directory: registry, pod network, slipway serve");
    let begin = Instant::now();
    let node = Node::start_with(|daemon| daemon.binary(slipway)).await?;
    say("directory", node.scratch.path().display(), None);
    say("registry", node.registry.address(), None);
    say(
        "pod network",
        format!("{} on bridge {}", node.cni.subnet(), node.cni.bridge()),
        None,
    );
    let version = node.cri().version().await?;
    say(
        &version.runtime_name,
        version.runtime_version,
        Some(begin.elapsed()),
    );

    step("An image of busybox, pushed to the registry and pulled through CRI");
    let image = node.registry.push("busybox:1", &Image::busybox()).await?;
    timed(
        "PullImage",
        &image.reference,
        node.cri().pull(&image.reference),
    )
    .await?;

    let pods = run_pods(&node, &image).await?;
    clean_up(node, &pods).await
}

/// A pod that runs, with its containers: id and name.
struct Running {
    id: String,
    name: &'static str,
    containers: Vec<(String, String)>,
}

async fn run_pods(node: &Node, image: &Pushed) -> Result<Vec<Running>> {
    let cri = node.cri();
    step("A pod of two containers that reach each other over localhost");
    let config = node.pod("web");
    let mut web = run_pod(cri, "web", &config).await?;
    let server = pod::shell("server", &image.reference, &serve(GREETING));
    launch(cri, &mut web, &config, &server).await?;
    let client = pod::shell("client", &image.reference, &ask("127.0.0.1"));
    let client_id = launch(cri, &mut web, &config, &client).await?;
    expect_greeting(&config, &client).await?;

    let status = timed("PodSandboxStatus", "web", cri.pod_status(&web.id)).await?;
    let address = status.network.context("the pod has no network")?.ip;
    step(&format!(
        "A second pod that reaches the first one at {address}"
    ));
    let config = node.pod("visitor");
    let mut visitor = run_pod(cri, "visitor", &config).await?;
    let caller = pod::shell("caller", &image.reference, &ask(&address));
    launch(cri, &mut visitor, &config, &caller).await?;
    expect_greeting(&config, &caller).await?;

    step("A command in a running container");
    let output = timed(
        "ExecSync",
        "ip -4 address",
        cri.exec(&client_id, &["ip", "-4", "address"]),
    )
    .await?;
    ensure!(
        output.exit_code == 0,
        "`ip` ended with code {}",
        output.exit_code
    );
    quote(&String::from_utf8_lossy(&output.stdout));
    Ok(vec![visitor, web])
}

/// A server of one page. The shell is there because a PID namespace's first process ignores the
/// SIGTERM that it has no handler for, and httpd has none.
fn serve(page: &str) -> String {
    format!(
        "mkdir -p /tmp/www; echo '{page}' > /tmp/www/index.html; \
         trap 'exit 0' TERM; httpd -f -p 80 -h /tmp/www & wait"
    )
}

/// Fetches the page as soon as the server listens, then stays until SIGTERM.
fn ask(address: &str) -> String {
    format!(
        "trap 'exit 0' TERM; \
         until page=$(wget -q -O - http://{address}/ 2> /dev/null); do sleep 0.05; done; \
         echo \"asked {address}: $page\"; sleep 3600 & wait"
    )
}

async fn run_pod(cri: &Cri, name: &'static str, config: &PodSandboxConfig) -> Result<Running> {
    let id = timed("RunPodSandbox", name, cri.run_pod(config)).await?;
    Ok(Running {
        id,
        name,
        containers: Vec::new(),
    })
}

async fn launch(
    cri: &Cri,
    pod: &mut Running,
    config: &PodSandboxConfig,
    container: &ContainerConfig,
) -> Result<String> {
    let name = container
        .metadata
        .as_ref()
        .map(|metadata| metadata.name.clone());
    let name = name.unwrap_or_default();
    let id = timed(
        "CreateContainer",
        &name,
        cri.create(&pod.id, config, container),
    )
    .await?;
    timed("StartContainer", &name, cri.start(&id)).await?;
    pod.containers.push((id.clone(), name));
    Ok(id)
}

/// Waits for the container's line with the greeting and shows its log.
async fn expect_greeting(config: &PodSandboxConfig, container: &ContainerConfig) -> Result<()> {
    let path = pod::log_path(config, container);
    eventually(
        "the server's greeting in the log",
        Duration::from_secs(20),
        async || {
            Ok(read_log(&path)
                .iter()
                .any(|line| line.text.ends_with(GREETING)))
        },
    )
    .await
    .with_context(|| {
        let lines = read_log(&path);
        let last = &lines[lines.len().saturating_sub(5)..];
        format!("{} ends with {last:?}", path.display())
    })?;
    say("log", container.log_path.as_str(), None);
    quote(&std::fs::read_to_string(path)?);
    Ok(())
}

async fn clean_up(node: Node, pods: &[Running]) -> Result<()> {
    step("Clean up");
    let cri = node.cri();
    for pod in pods {
        for (id, name) in &pod.containers {
            timed("StopContainer", name, cri.stop(id, 10)).await?;
            timed("RemoveContainer", name, cri.remove(id)).await?;
        }
        timed("StopPodSandbox", pod.name, cri.stop_pod(&pod.id)).await?;
        timed("RemovePodSandbox", pod.name, cri.remove_pod(&pod.id)).await?;
    }
    leaks::assert_none(&node.scratch);
    say(
        "left behind",
        "no process, mount, address, interface, rule, cgroup",
        None,
    );
    node.finish().await
}

fn farewell(slipway: &Path, took: Duration) {
    let directory = slipway.parent().unwrap_or(Path::new("."));
    let directory = directory
        .strip_prefix(crate::cargo::workspace())
        .unwrap_or(directory);
    println!(
        "\nDone in {:.1} s. Under a kubelet, with the CNI plugins in /opt/cni/bin and a \
         configuration in /etc/cni/net.d:\n\n  \
         sudo install {}/slipway {}/slipway-shim /usr/local/bin/\n  \
         sudo slipway serve\n  \
         kubelet --container-runtime-endpoint=unix:///run/slipway/slipway.sock ...",
        took.as_secs_f64(),
        directory.display(),
        directory.display(),
    );
}

fn step(title: &str) {
    println!("\n==> {title}");
}

fn say(what: &str, detail: impl Display, took: Option<Duration>) {
    let detail = detail.to_string();
    match took {
        Some(took) => println!(
            "  {what:<18}{detail:<40}{:>9.1} ms",
            took.as_secs_f64() * 1000.0
        ),
        None => println!("  {what:<18}{detail}"),
    }
}

fn quote(text: &str) {
    for line in text.lines() {
        println!("    | {line}");
    }
}

/// Makes a call and prints how long it took.
async fn timed<T, E>(
    call: &str,
    subject: &str,
    future: impl Future<Output = Result<T, E>>,
) -> Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let begin = Instant::now();
    let outcome = future.await.with_context(|| format!("{call} {subject}"))?;
    say(call, subject, Some(begin.elapsed()));
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn everything_it_shows_works_and_is_removed() {
        let slipway = slipway_testbed::slipway_binary().unwrap();
        show(&slipway).await.unwrap();
    }
}
