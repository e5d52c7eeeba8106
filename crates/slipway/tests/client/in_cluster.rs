//! `slipway check cluster` in a pod: with the credentials of its service account, and nothing else.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::CertifiedKey;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use slipway_testbed::KubernetesServer;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::fake::stderr;
use super::root_directory::RootDirectory;

const ACCOUNT: &str = "var/run/secrets/kubernetes.io/serviceaccount";

/// Serves TLS for `server`, as API servers do; the certificate, and where.
async fn with_tls(server: SocketAddr) -> (String, SocketAddr) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let CertifiedKey { cert, signing_key } = made;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // Who does not trust the certificate hangs up.
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let mut plain = TcpStream::connect(server).await.unwrap();
                let _ = copy_bidirectional(&mut stream, &mut plain).await;
            });
        }
    });
    (cert.pem(), address)
}

fn cluster() -> KubernetesServer {
    let server = KubernetesServer::start().unwrap();
    server.put(json!({
        "kind": "Node", "metadata": { "name": "a" },
        "status": { "nodeInfo": {
            "containerRuntimeVersion": "docker://20.10.8", "kubeletVersion": "v1.23.1",
        } },
    }));
    server.put(json!({
        "kind": "ClusterRole", "metadata": { "name": "checks" },
        "rules": [{ "apiGroups": ["*"], "resources": ["*"], "verbs": ["list"] }],
    }));
    server.put(json!({
        "kind": "ClusterRoleBinding", "metadata": { "name": "checks" },
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "checks",
        },
        "subjects": [{ "kind": "ServiceAccount", "namespace": "ops", "name": "checker" }],
    }));
    server
}

#[tokio::test]
async fn a_pods_own_credentials_are_used() {
    let server = cluster();
    let (authority, address) = with_tls(server.address()).await;
    let root = RootDirectory::new();
    let token = server.token_of("ops", "checker");
    root.write(&format!("{ACCOUNT}/token"), &token);
    root.write(&format!("{ACCOUNT}/ca.crt"), &authority);
    root.write(&format!("{ACCOUNT}/namespace"), "ops");
    let check = async || {
        let mut command = root.slipway(&["check", "cluster", "-o", "json"]);
        command
            .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
            .env("KUBERNETES_SERVICE_PORT", address.port().to_string());
        command.output().await.unwrap()
    };
    let output = check().await;
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", stderr(&output)));
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    let findings = report["findings"].as_array().unwrap();
    let rules: Vec<_> = findings.iter().map(|one| &one["rule"]).collect();
    assert_eq!(rules, ["node-runtime-docker"], "{report:#}");
    assert_eq!(report["unseen"].as_array().map(Vec::len), Some(0));

    // Another one may nothing, and it is said what is missing.
    root.write(
        &format!("{ACCOUNT}/token"),
        &server.token_of("ops", "other"),
    );
    let output = check().await;
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("list") && said.contains("nodes"), "{said}");

    // A server that somebody else vouches for is given no token.
    let (_, other) = with_tls(server.address()).await;
    let mut command = root.slipway(&["check", "cluster"]);
    command
        .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        .env("KUBERNETES_SERVICE_PORT", other.port().to_string());
    server.take();
    let output = command.output().await.unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("certificate"),
        "{}",
        stderr(&output)
    );
    assert!(server.take().is_empty());

    // Outside of any pod it is said what there is none of.
    let output = root.slipway(&["check", "cluster"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(
        stderr(&output).contains("--kubeconfig"),
        "{}",
        stderr(&output)
    );
}
