//! What a plan asks of the Docker that runs.

mod tree;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use slipway_migrate::Root;
use slipway_migrate::node;
use slipway_migrate::plan::{self, Target};

/// Answers as a Docker of this API that runs nothing, as long as the test does.
fn docker(socket: &Path, api: &'static str) {
    fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            thread::spawn(move || answer(&stream, api));
        }
    });
}

fn answer(mut stream: &UnixStream, api: &str) {
    let mut lines = BufReader::new(stream).lines();
    while let Some(Ok(request)) = lines.next() {
        // GET has no body.
        for line in lines.by_ref() {
            if line.unwrap().is_empty() {
                break;
            }
        }
        let body = if request.contains("/version ") {
            format!(r#"{{"ApiVersion": "{api}", "Version": "2x.0"}}"#)
        } else {
            "[]".to_string()
        };
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
    }
}

#[tokio::test]
async fn a_docker_that_is_too_old_for_cri_dockerd_is_told() {
    let text = include_str!("nodes/kubeadm-1.22-debian-11.node");
    for (api, target, told) in [
        ("1.41", Target::CriDockerd, true),
        ("1.42", Target::CriDockerd, false),
        ("1.9", Target::CriDockerd, true),
        ("1.41", Target::Containerd, false),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let version = tree::unpack(text, directory.path());
        docker(&directory.path().join("run/docker.sock"), api);
        let options = plan::Options {
            target,
            drain: true,
            stop_others: false,
            node: node::Options {
                kubelet_version: version.map(|version| version.parse().unwrap()),
            },
        };
        let plan = plan::make(&Root::new(directory.path()), &options).await;
        let remarks = plan.unwrap().remarks.join("\n");
        let says = remarks.contains(&format!("Docker 2x.0 (API {api})"));
        assert_eq!(says, told, "{api}, to {target}: {remarks}");
    }
}
