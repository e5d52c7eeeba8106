//! TLS, where a certificate is configured.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use tokio_rustls::TlsAcceptor;

use crate::Config;

/// What is wrong with the configured files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One of the two is missing.
    #[error("streaming.tls_cert and streaming.tls_key are only good together; one is not set")]
    OneOfTwo,
    /// A file cannot be read, or has no PEM section of its kind.
    #[error("streaming.{key} {path} cannot be used: {error}")]
    File {
        /// The configuration's key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        error: pem::Error,
    },
    /// The two do not go together, or are of a kind that is not supported.
    #[error("streaming.tls_cert and streaming.tls_key cannot be used: {0}")]
    Refused(#[from] rustls::Error),
}

/// What makes connections TLS; none when no certificate is configured.
pub(crate) fn acceptor(config: &Config) -> Result<Option<TlsAcceptor>, TlsError> {
    let (certificate, key) = match (&config.tls_cert, &config.tls_key) {
        (None, None) => return Ok(None),
        (Some(certificate), Some(key)) => (certificate, key),
        _ => return Err(TlsError::OneOfTwo),
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .and_then(|chain| {
            if chain.is_empty() {
                Err(pem::Error::NoItemsFound)
            } else {
                Ok(chain)
            }
        })
        .map_err(file("tls_cert", certificate))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(file("tls_key", key))?;
    let mut tls = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    // SPDY and WebSocket both begin as HTTP/1.1.
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(tls))))
}

fn file(key: &'static str, path: &Path) -> impl Fn(pem::Error) -> TlsError {
    move |error| TlsError::File {
        key,
        path: path.to_owned(),
        error,
    }
}
