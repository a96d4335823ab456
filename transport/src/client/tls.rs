//! TLS of a client: whom it trusts, and who it says that it is.

use super::address::{Socket, Stream};
use crate::tls::{certificates, explain};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{ring, verify_tls12_signature, verify_tls13_signature, CryptoProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{version, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::path::PathBuf;
use std::sync::Arc;
use tokio_rustls::TlsConnector;

/// Paths of PEM files, and whether the server is verified at all.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// Certificates that vouch for the server; None: the server is not verified.
    pub ca: Option<PathBuf>,
    /// Our own certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// The TLS settings of a client.
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
    name: Option<ServerName<'static>>,
}

impl Tls {
    /// Load the files. name: in the server's certificate, where it is not that of the address.
    ///
    /// # Errors
    /// With a sentence that names the file and what is wrong with it.
    pub fn load(files: &Files, name: Option<&str>) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .map_err(|error| error.to_string())?;
        let builder = match &files.ca {
            Some(path) => {
                let mut roots = RootCertStore::empty();
                // Bundles of a system hold some that nothing can verify with.
                let (added, _) = roots.add_parsable_certificates(certificates(path)?);
                if added == 0 {
                    return Err(explain("CA", path, &"none of its certificates can be used"));
                }
                builder.with_root_certificates(roots)
            }
            None => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Unverified { provider })),
        };
        let mut config = match &files.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates(certificate)?;
                let loaded = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| explain("private key", key, &error))?;
                builder
                    .with_client_auth_cert(chain, loaded)
                    .map_err(|error| explain("certificate and key", certificate, &error))?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = name.map(server_name).transpose()?;
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    /// Do the handshake.
    ///
    /// # Errors
    /// With what went wrong.
    pub async fn connect<S: Stream + 'static>(
        &self,
        stream: S,
        host: &str,
    ) -> Result<Socket, String> {
        let name = self.name.clone().map_or_else(|| server_name(host), Ok)?;
        let connected = self.connector.connect(name, stream).await;
        let connected = connected.map_err(|error| error.to_string())?;
        if connected.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err("the server does not offer HTTP/2".to_owned());
        }
        Ok(Box::new(connected))
    }
}

fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(host.to_owned())
        .map_err(|_| format!("{host:?} is not a name that a certificate can have"))
}

/// Takes any certificate: only for those who ask for it by name.
#[derive(Debug)]
struct Unverified {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
