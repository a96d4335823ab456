//! TLS from PEM files that may change while the server runs. New files take effect when they fit
//! together; until then connections go on with the old ones.

use crate::sync::lock;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{version, RootCertStore, ServerConfig};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

const LOOK_EVERY: Duration = Duration::from_secs(1); // at new connections only

/// Paths of PEM files.
#[derive(Clone, Debug)]
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Clients must present a certificate of it.
    pub client_ca: Option<PathBuf>,
}

/// Hears what came of files that have changed. It is called on a thread of its own.
pub type Listener = Box<dyn Fn(&Reload) + Send + Sync>;

/// The TLS settings of a server, as of the last good state of their files.
pub struct Tls {
    files: Files,
    listener: Option<Listener>,
    state: Mutex<State>,
}

struct State {
    config: Arc<ServerConfig>,
    stamp: Stamp,
    looked: Instant,
}

/// What came of looking at the files.
#[derive(Debug, PartialEq, Eq)]
pub enum Reload {
    Unchanged,
    Loaded,
    Failed(String),
}

type Stamp = Vec<Option<(SystemTime, u64)>>;

impl Tls {
    /// Load the files.
    ///
    /// # Errors
    /// With a sentence that names the file and what is wrong with it.
    pub fn load(files: Files, listener: Option<Listener>) -> Result<Self, String> {
        let stamp = stamp(&files);
        let config = Arc::new(load(&files)?);
        let state = Mutex::new(State { config, stamp, looked: Instant::now() });
        Ok(Self { files, listener, state })
    }

    /// The settings for a new connection.
    pub fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&lock(&self.state).config)
    }

    /// Load the files if they have changed and have not been looked at just now.
    pub fn refresh(&self) -> Reload {
        let mut state = lock(&self.state);
        if state.looked.elapsed() < LOOK_EVERY {
            return Reload::Unchanged;
        }
        state.looked = Instant::now();
        if stamp(&self.files) == state.stamp {
            return Reload::Unchanged;
        }
        drop(state);
        self.reload()
    }

    /// Tell the listener. It may take its time.
    pub fn tell(&self, reload: &Reload) {
        if let Some(listener) = &self.listener {
            listener(reload);
        }
    }

    /// Load the files now.
    pub fn reload(&self) -> Reload {
        let stamp = stamp(&self.files);
        let loaded = load(&self.files);
        let mut state = lock(&self.state);
        state.stamp = stamp;
        match loaded {
            Ok(config) => {
                state.config = Arc::new(config);
                Reload::Loaded
            }
            Err(error) => Reload::Failed(error),
        }
    }
}

fn stamp(files: &Files) -> Stamp {
    let paths = [Some(&files.certificate), Some(&files.key), files.client_ca.as_ref()];
    let stamp_of = |path: &PathBuf| {
        let metadata = path.metadata().ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    paths.into_iter().flatten().map(stamp_of).collect()
}

fn load(files: &Files) -> Result<ServerConfig, String> {
    let certificates = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| explain("private key", &files.key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(|error| error.to_string())?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(roots(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
            let verifier = verifier.map_err(|error| explain("client CA", path, &error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(certificates, key)
        .map_err(|error| explain("certificate and key", &files.certificate, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn roots(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| explain("client CA", path, &error))?;
    }
    Ok(roots)
}

pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| explain("certificate", path, &error))?;
    if certificates.is_empty() {
        return Err(explain("certificate", path, &"the file has no PEM certificate"));
    }
    Ok(certificates)
}

pub fn explain(what: &str, path: &Path, error: &dyn Display) -> String {
    format!("cannot use the {what} in {}: {error}", path.display())
}
