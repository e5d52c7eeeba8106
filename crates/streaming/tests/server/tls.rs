//! TLS, with a certificate made for the test.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use slipway_streaming::{Config, StartError, Streaming, TlsError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::engine::Tasks;
use crate::{OUT_ERR, Server, http, soon, spdy};

fn certificate(directory: &tempfile::TempDir) -> (Config, rcgen::Certificate) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (
        directory.path().join("tls.crt"),
        directory.path().join("tls.key"),
    );
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let config = Config {
        tls_cert: Some(cert),
        tls_key: Some(key),
        ..Config::default()
    };
    (config, made.cert)
}

#[tokio::test]
async fn with_a_certificate_sessions_go_over_tls() {
    soon(async {
        let directory = tempfile::tempdir().unwrap();
        let (config, certificate) = certificate(&directory);
        let server = Server::with(config).await;
        let url = server.exec(&["say", "out", "", "0"], OUT_ERR);
        assert!(url.starts_with("https://127.0.0.1:"), "{url}");
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (stream, path) = http::connect(&url).await;
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(client));
        let mut stream = connector.connect(name, stream).await.unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
             X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let head = http::head(&mut stream).await;
        assert_eq!(http::status(&head), 101, "{head}");
        let mut client = spdy::Client::over(stream);
        let error = client.stream("error").await;
        let (stdout, stderr) = (client.stream("stdout").await, client.stream("stderr").await);
        let [_, stdout, _] = client.until_finished([error, stdout, stderr]).await;
        assert_eq!(stdout, "out");
        // Whoever speaks no TLS gets no answer.
        let (mut plain, path) = http::connect(&url).await;
        let request = format!("GET {path} HTTP/1.1\r\n\r\n");
        plain.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = TcpStream::read_to_end(&mut plain, &mut answer).await;
        assert!(!answer.starts_with(b"HTTP"));
    })
    .await;
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_named() {
    let start = async |config: &Config| {
        Streaming::start(config, Arc::new(Tasks::default()))
            .await
            .unwrap_err()
    };
    let directory = tempfile::tempdir().unwrap();
    let (good, _) = certificate(&directory);
    let error = start(&Config {
        tls_key: None,
        ..good.clone()
    })
    .await;
    assert!(
        matches!(error, StartError::Tls(TlsError::OneOfTwo)),
        "{error}"
    );
    let missing = directory.path().join("missing");
    let error = start(&Config {
        tls_cert: Some(missing.clone()),
        ..good.clone()
    })
    .await;
    let message = error.to_string();
    assert!(message.contains("streaming.tls_cert"), "{message}");
    assert!(message.contains(missing.to_str().unwrap()), "{message}");
    // The certificate has no key in it.
    let error = start(&Config {
        tls_key: good.tls_cert.clone(),
        ..good.clone()
    })
    .await;
    assert!(error.to_string().contains("streaming.tls_key"), "{error}");
}

#[tokio::test]
async fn a_reload_takes_a_certificate_that_can_be_used_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let (good, _) = certificate(&directory);
    let server = Streaming::start(&Config::default(), Arc::new(Tasks::default()))
        .await
        .unwrap();
    let base = server.base();
    assert!(base.starts_with("http://"), "{base}");
    let reloader = server.reloader();
    let half = Config {
        tls_key: None,
        ..good.clone()
    };
    assert!(matches!(reloader.reload(&half), Err(TlsError::OneOfTwo)));
    assert_eq!(server.base(), base);
    reloader.reload(&good).unwrap();
    assert_eq!(server.base(), base.replace("http:", "https:"));
    reloader.reload(&Config::default()).unwrap();
    assert_eq!(server.base(), base);
}
