//! TLS on both sides, by rustls.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::error::ConfigError;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn unusable(what: &str, path: &Path, why: impl std::fmt::Display) -> ConfigError {
    ConfigError::new(format!("could not use {what} \"{}\": {why}", path.display()))
        .with_hint("A file in PEM is expected, its path relative to the deployment's folder.")
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable("certificate", path, error))?;
    match certificates.is_empty() {
        true => Err(unusable("certificate", path, "no certificate is in it")),
        false => Ok(certificates),
    }
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, ConfigError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| unusable("key", path, error))
}

fn roots(path: &Path) -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| unusable("certificate", path, error))?;
    }
    Ok(roots)
}

/// Returns how to trust a broker: whom `ca` vouches for, else whom the system trusts; with a certificate of one's own
/// where it asks for one.
pub(crate) fn client(ca: Option<&Path>, own: Option<(&Path, &Path)>) -> Result<Arc<ClientConfig>, ConfigError> {
    let roots = match ca {
        Some(ca) => roots(ca)?,
        None => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(ConfigError::new("the system trusts no certificate authorities")
                    .with_hint("Name one in `ca`, or install the system's (Debian: ca-certificates)."));
            }
            roots
        }
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| ConfigError::new(format!("could not set up TLS: {error}")))?
        .with_root_certificates(roots);
    let config = match own {
        Some((certificate, own_key)) => builder
            .with_client_auth_cert(certificates(certificate)?, key(own_key)?)
            .map_err(|error| unusable("certificate", certificate, error))?,
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

/// Returns what a listener shows; with `ca`, only clients that it vouches for are let in.
pub(crate) fn server(certificate: &Path, own_key: &Path, ca: Option<&Path>) -> Result<Arc<ServerConfig>, ConfigError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| ConfigError::new(format!("could not set up TLS: {error}")))?;
    let builder = match ca {
        Some(ca) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca)?), provider())
                .build()
                .map_err(|error| unusable("certificate", ca, error))?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let config = builder
        .with_single_cert(certificates(certificate)?, key(own_key)?)
        .map_err(|error| unusable("certificate", certificate, error))?;
    Ok(Arc::new(config))
}
