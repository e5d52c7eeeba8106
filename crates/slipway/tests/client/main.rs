//! The client commands against a runtime that is a part of the test: what they ask for, what they
//! print and how they end.

mod check;
mod engines;
mod fake;
mod in_cluster;
mod interrupt;
mod migrate;
mod root_directory;
mod session;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use slipway_cri_api::v1::{ContainerState, PodSandboxState};
use tokio::io::{AsyncBufReadExt, BufReader};

use fake::{Fake, Script, leftovers, slipway, stderr};

/// Two pods with a container each, of which the older has exited, and an image.
fn populated() -> Fake {
    let fake = Fake::start();
    let [ready, not_ready] = [
        PodSandboxState::SandboxReady,
        PodSandboxState::SandboxNotready,
    ];
    fake.add_pod("bbbb0000000000000000", "job", not_ready);
    fake.add_pod("aaaa0000000000000000", "web", ready);
    let [running, exited] = [
        ContainerState::ContainerRunning,
        ContainerState::ContainerExited,
    ];
    fake.add_container(
        "abce2222222222222222",
        "bbbb0000000000000000",
        "once",
        exited,
    );
    fake.add_container(
        "abcd1111111111111111",
        "aaaa0000000000000000",
        "server",
        running,
    );
    fake.add_image(
        "sha256:0123456789abcdef0123",
        &["docker.io/library/busybox:1"],
        &["docker.io/library/busybox@sha256:fedcba9876543210"],
    );
    fake
}

#[tokio::test]
async fn tables_are_aligned() {
    let fake = populated();
    assert_eq!(
        fake.stdout(&["ps"]).await,
        "CONTAINER       IMAGE       CREATED         STATE     NAME     ATTEMPT   POD ID          POD\n\
         abcd111111111   busybox:1   3 minutes ago   Running   server   1         aaaa000000000   web\n"
    );
    let all = fake.stdout(&["ps", "-a"]).await;
    assert!(all.lines().count() == 3 && all.contains("Exited"), "{all}");
    assert_eq!(
        fake.stdout(&["pods", "--no-trunc"]).await,
        "POD ID                 CREATED         STATE      NAME   NAMESPACE   ATTEMPT   RUNTIME\n\
         aaaa0000000000000000   5 minutes ago   Ready      web    default     0         (default)\n\
         bbbb0000000000000000   5 minutes ago   NotReady   job    default     0         (default)\n"
    );
    assert_eq!(
        fake.stdout(&["images"]).await,
        "IMAGE                       TAG   IMAGE ID        SIZE\n\
         docker.io/library/busybox   1     0123456789abc   2.17MB\n"
    );
    assert_eq!(
        fake.stdout(&["images", "--digests"]).await,
        "IMAGE                       TAG   DIGEST          IMAGE ID        SIZE\n\
         docker.io/library/busybox   1     fedcba9876543   0123456789abc   2.17MB\n"
    );
    assert_eq!(
        fake.stdout(&["info"]).await,
        "WHAT           VALUE     REASON\n\
         RuntimeReady   true\n\
         NetworkReady   false     NoNetwork\n\
         CgroupDriver   systemd\n"
    );
}

#[tokio::test]
async fn quiet_lists_are_whole_ids() {
    let fake = populated();
    let ids = "abcd1111111111111111\nabce2222222222222222\n";
    assert_eq!(fake.stdout(&["ps", "-aq"]).await, ids);
    assert_eq!(
        fake.stdout(&["ps", "-aq", "--pod", "job"]).await,
        "abce2222222222222222\n"
    );
    assert_eq!(
        fake.stdout(&["images", "-q"]).await,
        "sha256:0123456789abcdef0123\n"
    );
}

#[tokio::test]
async fn json_is_what_scripts_for_crictl_read() {
    let fake = populated();
    let json: Value =
        serde_json::from_str(&fake.stdout(&["ps", "-a", "-o", "json"]).await).unwrap();
    let container = &json["containers"][0];
    assert_eq!(container["podSandboxId"], "aaaa0000000000000000");
    assert_eq!(container["state"], "CONTAINER_RUNNING");
    assert!(container["createdAt"].is_string(), "{container}");
    assert_eq!(container["labels"], serde_json::json!({}));

    let yaml = fake.stdout(&["pods", "-o", "yaml"]).await;
    assert!(
        yaml.starts_with("items:\n- id: aaaa0000000000000000\n  metadata:\n"),
        "{yaml}"
    );
    assert!(yaml.contains("state: SANDBOX_NOTREADY"), "{yaml}");

    let info: Value = serde_json::from_str(&fake.stdout(&["info", "-o", "json"]).await).unwrap();
    assert_eq!(info["config"]["root"], "/x");
    assert_eq!(info["status"]["conditions"][1]["reason"], "NoNetwork");
    assert_eq!(info["runtimeConfig"]["linux"]["cgroupDriver"], "SYSTEMD");

    let version = fake.stdout(&["version", "-o", "json"]).await;
    let version: Value = serde_json::from_str(&version).unwrap();
    assert_eq!(version["runtimeName"], "fake");
}

#[tokio::test]
async fn inspect_finds_whatever_has_the_name() {
    let fake = populated();
    let container = fake.stdout(&["inspect", "abcd"]).await;
    let container: Value = serde_json::from_str(&container).unwrap();
    assert_eq!(container["status"]["id"], "abcd1111111111111111");
    assert_eq!(container["info"]["pid"], 42);
    assert_eq!(container["note"], "not JSON");
    let pod = fake.stdout(&["inspect", "web", "-o", "yaml"]).await;
    assert!(
        pod.starts_with("status:\n  id: aaaa0000000000000000\n"),
        "{pod}"
    );
    let image = fake.stdout(&["inspect", "busybox:1"]).await;
    let image: Value = serde_json::from_str(&image).unwrap();
    assert_eq!(image["status"]["size"], "2166802");
    let none = fake.failure(1, &["inspect", "nothing"]).await;
    assert!(none.contains("no container, pod or image"), "{none}");
    let none = fake
        .failure(1, &["inspect", "--type", "image", "web"])
        .await;
    assert!(none.contains("there is no such image"), "{none}");
}

#[tokio::test]
async fn an_id_that_can_mean_several_is_refused_with_all_of_them() {
    let fake = populated();
    let error = fake.failure(1, &["stop", "abc"]).await;
    assert!(error.starts_with("slipway: stop abc: "), "{error}");
    assert!(error.contains("abcd111111111  container server"), "{error}");
    assert!(error.contains("abce222222222  container once"), "{error}");
    assert!(fake.calls().is_empty());
}

#[tokio::test]
async fn several_are_done_though_one_of_them_fails() {
    let fake = populated();
    let output = fake
        .slipway(&["stop", "--timeout", "90s", "nosuch", "server"])
        .await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output),
        "slipway: stop nosuch: there is no such container\n"
    );
    assert_eq!(output.stdout, b"abcd1111111111111111\n");
    assert_eq!(fake.calls(), ["StopContainer 90s abcd1111111111111111"]);
}

#[tokio::test]
async fn a_running_container_is_removed_by_force_only() {
    let fake = populated();
    let error = fake.failure(1, &["rm", "server"]).await;
    assert!(
        error.contains("is running") && error.contains("-f"),
        "{error}"
    );
    assert!(fake.calls().is_empty());
    fake.stdout(&["rm", "-f", "server", "once"]).await;
    assert_eq!(
        fake.calls(),
        [
            "StopContainer 0s abcd1111111111111111",
            "RemoveContainer abcd1111111111111111",
            "RemoveContainer abce2222222222222222",
        ]
    );
}

#[tokio::test]
async fn a_pods_containers_may_end_by_themselves_before_it_is_removed() {
    let fake = populated();
    fake.stdout(&["rmp", "default/web"]).await;
    fake.stdout(&["rmp", "-f", "bbbb"]).await;
    assert_eq!(
        fake.calls(),
        [
            "StopContainer 10s abcd1111111111111111",
            "StopPodSandbox aaaa0000000000000000",
            "RemovePodSandbox aaaa0000000000000000",
            "StopPodSandbox bbbb0000000000000000",
            "RemovePodSandbox bbbb0000000000000000",
        ]
    );
}

#[tokio::test]
async fn an_image_is_removed_by_what_it_was_called() {
    let fake = populated();
    fake.stdout(&["rmi", "busybox:1", "01234"]).await;
    assert_eq!(
        fake.calls(),
        [
            "RemoveImage busybox:1",
            "RemoveImage sha256:0123456789abcdef0123"
        ]
    );
    let error = fake.failure(1, &["rmi", "busybox:2"]).await;
    assert_eq!(error, "slipway: rmi busybox:2: there is no such image\n");
}

#[tokio::test]
async fn exec_passes_everything_on() {
    let fake = populated();
    let output = fake
        .slipway(&["exec", "--timeout", "1500ms", "server", "--", "ls", "-l"])
        .await;
    assert_eq!(output.status.code(), Some(42));
    assert_eq!(output.stdout, b"ls|-l");
    assert_eq!(output.stderr, b"timeout 2");
}

#[tokio::test]
async fn logs_show_lines_and_not_records() {
    let fake = populated();
    let log = "2024-01-01T00:00:00Z stdout F one\n\
               2024-01-01T00:00:01Z stderr F oops\n\
               2024-01-01T00:00:02Z stdout P lo\n\
               2024-01-01T00:00:02Z stdout F ng\n";
    fs::write(fake.directory.path().join("server.log"), log).unwrap();
    let output = fake.slipway(&["logs", "server"]).await;
    assert_eq!(output.stdout, b"one\nlong\n");
    assert_eq!(output.stderr, b"oops\n");
    assert_eq!(
        fake.stdout(&["logs", "--tail", "1", "server"]).await,
        "long\n"
    );
    assert_eq!(
        fake.stdout(&["logs", "-t", "--since", "2024-01-01T00:00:02Z", "server"])
            .await,
        "2024-01-01T00:00:02Z long\n"
    );
    let error = fake.failure(1, &["logs", "once"]).await;
    assert!(error.contains("once.log is not there"), "{error}");
}

#[tokio::test]
async fn following_ends_with_the_container_and_misses_nothing() {
    let fake = populated();
    let path = fake.directory.path().join("server.log");
    fs::write(&path, "t stdout F 1\n").unwrap();
    let mut following = fake.command(&["logs", "-f", "server"]);
    let mut following = following.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("1"));
    fs::rename(&path, path.with_extension("log.1")).unwrap();
    fs::write(&path, "t stdout F 2\nt stdout F 3").unwrap();
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("2"));
    fake.slipway(&["stop", "server"]).await;
    assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("3"));
    assert_eq!(lines.next_line().await.unwrap(), None);
    assert_eq!(following.wait().await.unwrap().code(), Some(0));
}

const RUN_CALLS: [&str; 7] = [
    "PullImage busybox",
    "RunPodSandbox",
    "CreateContainer",
    "StartContainer c1",
    "exit",
    "StopPodSandbox pod1",
    "RemovePodSandbox pod1",
];

#[tokio::test]
async fn run_gives_the_commands_output_and_code_and_leaves_nothing() {
    let fake = Fake::start();
    let log = "t stdout F out\nt stderr F err\nt stdout P no line feed\n";
    fake.state.lock().unwrap().script = Script::Exits { log, code: 137 };
    let output = fake
        .slipway(&["run", "busybox", "--", "sh", "-c", "x"])
        .await;
    assert_eq!(output.status.code(), Some(137), "{}", stderr(&output));
    assert_eq!(output.stdout, b"out\nno line feed");
    assert_eq!(output.stderr, b"err\n");
    assert_eq!(fake.calls(), RUN_CALLS);
    assert!(leftovers(fake.directory.path()).is_empty());
    let state = fake.state.lock().unwrap();
    let config = state.container_config.as_ref().unwrap();
    assert_eq!(config.args, ["sh", "-c", "x"]);
    assert!(config.command.is_empty());
}

#[tokio::test]
async fn run_asks_for_what_its_flags_say() {
    let fake = Fake::start();
    let arguments = [
        "run",
        "--name",
        "n",
        "-e",
        "A=b",
        "-v",
        "/h:/c:ro",
        "--user",
        "5:6",
        "--workdir",
        "/w",
        "--hostname",
        "h",
        "-p",
        "8080:80",
        "--memory",
        "64Mi",
        "--cpus",
        "0.5",
        "--pull",
        "always",
        "busybox",
    ];
    fake.stdout(&arguments).await;
    let state = fake.state.lock().unwrap();
    let pod = state.pod_config.as_ref().unwrap();
    assert_eq!(
        (pod.hostname.as_str(), pod.port_mappings[0].host_port),
        ("h", 8080)
    );
    let container = state.container_config.as_ref().unwrap();
    assert_eq!(container.envs[0].value, "b");
    assert!(container.mounts[0].readonly);
    assert_eq!(container.working_dir, "/w");
    let linux = container.linux.as_ref().unwrap();
    let resources = linux.resources.as_ref().unwrap();
    assert_eq!(
        (resources.memory_limit_in_bytes, resources.cpu_quota),
        (64 << 20, 50_000)
    );
    let security = linux.security_context.as_ref().unwrap();
    assert_eq!(security.run_as_user.unwrap().value, 5);
    assert_eq!(security.run_as_group.unwrap().value, 6);
    assert!(security.readonly_paths.contains(&"/proc/sys".to_string()));
}

#[tokio::test]
async fn run_ends_with_125_where_the_runtime_failed() {
    let fake = Fake::start();
    fake.state.lock().unwrap().pod_fails = true;
    let error = fake.failure(125, &["run", "busybox"]).await;
    assert_eq!(
        error,
        "slipway: run busybox: make the pod: plugin bridge: no address is left\n"
    );
    assert!(leftovers(fake.directory.path()).is_empty());

    let fake = Fake::start();
    fake.state.lock().unwrap().script = Script::Fails;
    let error = fake.failure(125, &["run", "busybox"]).await;
    assert_eq!(
        error,
        "slipway: run busybox: start it: exec nothing: not found\n"
    );
    assert_eq!(
        fake.calls()[4..],
        ["StopPodSandbox pod1", "RemovePodSandbox pod1"]
    );

    let error = fake
        .failure(125, &["run", "--pull", "never", "other"])
        .await;
    assert!(error.contains("--pull never"), "{error}");
    fake.failure(125, &["--endpoint", "/no/such/socket", "run", "busybox"])
        .await;
}

#[tokio::test]
async fn run_removes_what_it_made_when_it_is_told_to_end() {
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let fake = Fake::start();
        fake.state.lock().unwrap().script = Script::Runs {
            log: "t stdout F up\n",
        };
        let mut running = fake.command(&["run", "busybox"]);
        let mut running = running.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
        assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("up"));
        let pid = rustix::process::Pid::from_raw(running.id().unwrap().cast_signed()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
        assert_eq!(running.wait().await.unwrap().code(), Some(130));
        assert_eq!(
            fake.calls()[4..],
            [
                "StopContainer 10s c1",
                "StopPodSandbox pod1",
                "RemovePodSandbox pod1"
            ]
        );
        assert!(leftovers(fake.directory.path()).is_empty());
    }
}

#[tokio::test]
async fn what_run_detaches_from_stays_with_its_log_until_the_pod_is_removed() {
    let fake = Fake::start();
    fake.state.lock().unwrap().script = Script::Runs {
        log: "t stdout F up\n",
    };
    assert_eq!(fake.stdout(&["run", "-d", "busybox"]).await, "c1\n");
    assert_eq!(fake.calls(), RUN_CALLS[..4]);
    assert_eq!(leftovers(fake.directory.path()).len(), 1);
    fake.stdout(&["rmp", "-f", "pod1"]).await;
    assert!(leftovers(fake.directory.path()).is_empty());
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_the_command_quietly() {
    let fake = Fake::start();
    fake.state.lock().unwrap().script = Script::Runs {
        log: "t stdout F up\n",
    };
    let mut running = fake.command(&["run", "busybox"]);
    let mut running = running
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(running.stdout.take());
    let output = running.wait_with_output().await.unwrap();
    assert_eq!(output.status.signal(), None);
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(stderr(&output), "");
    assert!(fake.calls().contains(&"RemovePodSandbox pod1".to_string()));
}

#[tokio::test]
async fn a_pull_ends_with_one_line_and_its_errors_say_what_was_asked() {
    let fake = Fake::start();
    assert_eq!(
        fake.stdout(&["pull", "example.com/a:1"]).await,
        "Pulled example.com/a:1: sha256:abc\n"
    );
    assert_eq!(
        fake.stdout(&["pull", "-q", "example.com/a:1"]).await,
        "sha256:abc\n"
    );
    let error = fake.failure(1, &["pull", "example.com/none"]).await;
    assert_eq!(
        error,
        "slipway: pull example.com/none: registry has no example.com/none\n"
    );
}

#[tokio::test]
async fn a_pull_on_a_terminal_shows_each_layer() {
    let fake = Fake::start();
    // script(1) gives its command a terminal.
    let output = tokio::process::Command::new("script")
        .args([
            "-qec",
            concat!(env!("CARGO_BIN_EXE_slipway"), " pull example.com/layers"),
        ])
        .arg("/dev/null")
        .env("SLIPWAY_ENDPOINT", fake.socket())
        .env("TERM", "xterm")
        .env("COLUMNS", "100")
        .stdin(Stdio::null())
        .output()
        .await
        .expect("script, of Debian's bsdutils");
    let screen = String::from_utf8_lossy(&output.stdout);
    assert!(screen.contains("aaaaaaaaaaaaa  downloading"), "{screen}");
    assert!(screen.contains("1.00 MB of 2.00 MB"), "{screen}");
    assert!(screen.contains("bbbbbbbbbbbbb  present"), "{screen}");
    assert!(
        screen.ends_with("Pulled example.com/layers: sha256:abc\r\n"),
        "{screen}"
    );
}

#[tokio::test]
async fn credentials_come_from_the_flag_a_file_or_a_helper() {
    let fake = Fake::start();
    let used = || fake.state.lock().unwrap().pulled_with.clone();
    fake.stdout(&["pull", "example.com/a"]).await;
    assert_eq!(used(), None);
    fake.stdout(&["pull", "--creds", "u:p", "example.com/a"])
        .await;
    assert_eq!(
        used().map(|auth| (auth.username, auth.password)),
        Some(("u".into(), "p".into()))
    );

    let docker = fake.directory.path().join(".docker");
    fs::create_dir(&docker).unwrap();
    let config = r#"{"auths": {"example.com": {"auth": "ZmlsZTpw"}}, "credsStore": "fake"}"#;
    fs::write(docker.join("config.json"), config).unwrap();
    fake.stdout(&["pull", "example.com/a"]).await;
    assert_eq!(used().unwrap().username, "file");

    let helper = fake.directory.path().join("docker-credential-fake");
    let script = r#"#!/bin/sh
read server
printf '{"Username": "%s", "Secret": "%s"}' "$1" "$server"
"#;
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!(
        "{}:{}",
        fake.directory.path().display(),
        std::env::var("PATH").unwrap()
    );
    let output = fake
        .command(&["pull", "busybox"])
        .env("PATH", path)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let auth = used().unwrap();
    assert_eq!(
        (auth.username.as_str(), auth.password.as_str()),
        ("get", "https://index.docker.io/v1/")
    );
}

#[tokio::test]
async fn what_the_runtime_lacks_is_said_plainly() {
    let fake = populated();
    let error = fake.failure(1, &["stats"]).await;
    assert_eq!(
        error,
        "slipway: stats: this runtime does not measure what containers use\n"
    );
}

#[tokio::test]
async fn a_socket_that_cannot_be_reached_is_named_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s.sock");
    let endpoint = socket.to_str().unwrap();
    let ask = async || {
        let output = slipway(&["ps", "--endpoint", endpoint])
            .output()
            .await
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        stderr(&output)
    };
    let error = ask().await;
    assert!(
        error.contains(endpoint) && error.contains("is `slipway serve` running?"),
        "{error}"
    );
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let error = ask().await;
    assert!(
        error.contains("connection refused") && error.contains("--endpoint"),
        "{error}"
    );
}

#[tokio::test]
async fn a_runtime_that_hangs_is_given_up_when_asked_to() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s.sock");
    let _hanging = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let asking = slipway(&[
        "--timeout",
        "200ms",
        "--endpoint",
        socket.to_str().unwrap(),
        "pods",
    ]);
    let asking = { asking }.output();
    let output = tokio::time::timeout(Duration::from_secs(8), asking)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("--timeout"), "{}", stderr(&output));
}

#[tokio::test]
async fn the_endpoint_comes_from_the_flag_before_the_environment() {
    let fake = Fake::start();
    let version = async |variable: &str, arguments: &[&str]| {
        let url = format!("unix://{}", fake.socket().display());
        slipway(arguments)
            .env(variable, url)
            .output()
            .await
            .unwrap()
            .status
            .code()
    };
    assert_eq!(version("SLIPWAY_ENDPOINT", &["version"]).await, Some(0));
    assert_eq!(
        version("CONTAINER_RUNTIME_ENDPOINT", &["version"]).await,
        Some(0)
    );
    let elsewhere = ["version", "--endpoint", "/no/such/socket"];
    assert_eq!(version("SLIPWAY_ENDPOINT", &elsewhere).await, Some(1));
}

#[tokio::test]
async fn a_wrong_command_line_ends_with_2() {
    for arguments in [
        &["run"][..],
        &["frobnicate"],
        &["ps", "-q", "-o", "json"],
        &["ps", "--endpoint", "tcp://127.0.0.1:1"],
        &["run", "--memory", "lots", "busybox"],
        &["serve", "--endpoint", "/run/x.sock"],
    ] {
        let output = slipway(arguments).output().await.unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}

#[tokio::test]
async fn manual_pages_and_completions_are_written() {
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man1");
    let output = slipway(&["man", pages.to_str().unwrap()])
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let page = fs::read_to_string(pages.join("slipway-run.1")).unwrap();
    assert!(page.contains("Examples:"), "{page}");
    for shell in ["bash", "zsh", "fish"] {
        let output = slipway(&["completions", shell]).output().await.unwrap();
        assert!(
            String::from_utf8_lossy(&output.stdout).contains("slipway"),
            "{shell}"
        );
    }
}
