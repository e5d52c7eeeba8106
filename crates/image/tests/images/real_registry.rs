//! Debian's `docker-registry` on a loopback port of its own.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use reqwest::Client;
use reqwest::header::{CONTENT_TYPE, LOCATION};
use tempfile::TempDir;

use crate::image::TestImage;

pub(crate) struct RealRegistry {
    process: Child,
    _directory: TempDir,
    pub(crate) address: String,
}

impl RealRegistry {
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// With a certificate that nobody knows.
    pub(crate) fn start_tls() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let made = Command::new("openssl")
            .args(["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt"])
            .args([
                "ec_paramgen_curve:prime256v1",
                "-subj",
                "/CN=localhost",
                "-days",
                "2",
            ])
            .args(["-keyout", &path("key.pem"), "-out", &path("cert.pem")])
            .stderr(Stdio::null())
            .status()
            .expect("openssl is needed for this test");
        assert!(made.success());
        let tls = format!(
            "\n  tls:\n    certificate: {}\n    key: {}",
            path("cert.pem"),
            path("key.pem")
        );
        let registry = Self::start_with(&tls);
        drop(directory);
        registry
    }

    fn start_with(extra: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("config.yml");
        let storage = directory.path().join("storage");
        let text = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:0{extra}\n",
            storage.display()
        );
        fs::write(&config, text).unwrap();
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry is needed for this test: apt install docker-registry");
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut seen = String::new();
        let port = loop {
            let mut line = String::new();
            let length = log.read_line(&mut line).unwrap();
            assert!(length > 0, "docker-registry ended: {seen}");
            seen.push_str(&line);
            if let Some((_, rest)) = line.split_once("listening on 127.0.0.1:") {
                let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
                break digits;
            }
        };
        // Its log must be read, or it stops.
        std::thread::spawn(move || for _ in log.lines() {});
        Self {
            process,
            _directory: directory,
            address: format!("127.0.0.1:{port}"),
        }
    }

    pub(crate) async fn push(&self, repository: &str, tag: &str, image: &TestImage) {
        for (digest, blob) in &image.blobs {
            self.push_blob(repository, digest, blob).await;
        }
        self.push_manifest(repository, tag, &image.media_type(), image.manifest_bytes())
            .await;
    }

    async fn push_blob(&self, repository: &str, digest: &str, blob: &[u8]) {
        let client = Client::new();
        let url = format!("http://{}/v2/{repository}/blobs/uploads/", self.address);
        let begun = client
            .post(url)
            .send()
            .await
            .unwrap()
            .error_for_status()
            .unwrap();
        let location = begun.headers()[LOCATION].to_str().unwrap();
        let target = format!("{location}&digest={digest}");
        let pushed = client.put(target).body(blob.to_vec()).send().await.unwrap();
        pushed.error_for_status().unwrap();
    }

    pub(crate) async fn push_manifest(
        &self,
        repository: &str,
        tag: &str,
        media_type: &str,
        bytes: Vec<u8>,
    ) {
        let url = format!("http://{}/v2/{repository}/manifests/{tag}", self.address);
        let request = Client::new()
            .put(url)
            .header(CONTENT_TYPE, media_type)
            .body(bytes);
        let response = request.send().await.unwrap();
        assert!(
            response.status().is_success(),
            "{}",
            response.text().await.unwrap()
        );
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
