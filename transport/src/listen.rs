//! Where a server listens: TCP addresses and Unix sockets, bound before anything is served, and
//! the loops that accept connections.

use crate::call::Peer;
use crate::connection::Driver;
use crate::core::{ConnectionPermit, Core, Phase};
use crate::counters::Counter;
use crate::mailbox::Mailbox;
use crate::meter::Metered;
use crate::tls::{Reload, Tls};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

const BACKLOG: u32 = 1024;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50); // when no descriptor is left
const SEND_BUFFER: usize = 1 << 20; // what h2 buffers a stream, once flow control allows it
                                    // Headers over the limit, by at most so much, are read and refused with a status of gRPC. What is
                                    // larger h2 refuses by itself with HTTP's 431, which clients make UNKNOWN of.
const HEADER_MARGIN: u32 = 64 << 10;
const PENDING_RESETS: usize = 1024; // streams reset before they were looked at; their rate is `scan`'s
const LOCAL_RESETS: usize = 1024; // streams that we reset because of errors of the peer

/// A place to listen at.
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Bind an address, `host:port` or `unix:/path`. A host name may stand for several.
    ///
    /// # Errors
    /// With a sentence that names the address.
    pub fn bind(address: &str) -> Result<Vec<Self>, String> {
        let bound = match address.strip_prefix("unix:") {
            Some(path) => bind_unix(Path::new(path)).map(|listener| vec![listener]),
            None => bind_tcp(address),
        };
        bound.map_err(|error| format!("cannot listen on {address}: {error}"))
    }

    /// The address with its real port.
    #[must_use]
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|error| error.to_string(), |address| address.to_string()),
            Self::Unix(_, path) => format!("unix:{}", path.display()),
        }
    }

    /// Accept connections until the server drains.
    pub async fn serve(
        self,
        core: Arc<Core>,
        tls: Option<Arc<Tls>>,
        mut phase: watch::Receiver<Phase>,
    ) {
        loop {
            let accepted = tokio::select! {
                accepted = self.accept() => accepted,
                _ = phase.wait_for(|phase| *phase != Phase::Serving) => break,
            };
            match accepted {
                Ok(connection) => start(connection, &core, tls.as_ref()),
                // The peer left at once; or no descriptor is left, then others need time to end.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Without it small answers wait for acknowledgements; it fails on a dead peer only.
                let _ = stream.set_nodelay(true);
                Ok(Accepted { stream: Socket::Tcp(stream), address: address.to_string() })
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok(Accepted { stream: Socket::Unix(stream), address: "unix".to_owned() })
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            // Gone already: nothing is left to do.
            let _ = std::fs::remove_file(path);
        }
    }
}

enum Socket {
    Tcp(tokio::net::TcpStream),
    Unix(UnixStream),
}

struct Accepted {
    stream: Socket,
    address: String,
}

fn bind_tcp(address: &str) -> io::Result<Vec<Listener>> {
    let mut listeners: Vec<Listener> = Vec::new();
    let mut port = None;
    let mut unavailable = None;
    for mut resolved in address.to_socket_addrs()? {
        // A free port is chosen once, for every address of the name.
        resolved.set_port(port.unwrap_or(resolved.port()));
        match bind_one(resolved) {
            Ok(listener) => {
                port = Some(listener.local_addr()?.port());
                listeners.push(Listener::Tcp(listener));
            }
            // The name has an address of a family that this machine does not have.
            Err(error) if is_unavailable(&error) => unavailable = Some(error),
            Err(error) => return Err(error),
        }
    }
    match unavailable {
        Some(error) if listeners.is_empty() => Err(error),
        _ => Ok(listeners),
    }
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Lets a server start again at once. It does not let two listen: SO_REUSEPORT would.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn is_unavailable(error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97; // Linux
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT)
}

fn bind_unix(path: &Path) -> io::Result<Listener> {
    let bound = match UnixListener::bind(path) {
        // Left behind by a server that was killed: nobody answers there.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        bound => bound,
    };
    bound.map(|listener| Listener::Unix(listener, path.to_owned()))
}

fn is_stale(path: &Path) -> bool {
    let is_socket = path.symlink_metadata().is_ok_and(|found| found.file_type().is_socket());
    let connected = std::os::unix::net::UnixStream::connect(path);
    is_socket && connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

fn start(accepted: Accepted, core: &Arc<Core>, tls: Option<&Arc<Tls>>) {
    let mailbox = Arc::default();
    let Some(permit) = core.admit_connection(&mailbox) else {
        core.counters.count(Counter::RefusedConnections);
        return;
    };
    core.counters.count(Counter::ConnectionsTotal);
    let start = Start { core: Arc::clone(core), mailbox, permit, address: accepted.address };
    let acceptor = tls.map(|tls| acceptor(core, tls));
    match accepted.stream {
        Socket::Tcp(stream) => tokio::spawn(start.secure(stream, acceptor)),
        Socket::Unix(stream) => tokio::spawn(start.secure(stream, acceptor)),
    };
}

fn acceptor(core: &Core, tls: &Arc<Tls>) -> TlsAcceptor {
    let reload = tls.refresh();
    match reload {
        Reload::Unchanged => {}
        Reload::Loaded => core.counters.count(Counter::TlsReloads),
        Reload::Failed(_) => core.counters.count(Counter::TlsReloadFailures),
    }
    if reload != Reload::Unchanged {
        let tls = Arc::clone(tls);
        tokio::task::spawn_blocking(move || tls.tell(&reload));
    }
    TlsAcceptor::from(tls.current())
}

/// A connection before its first byte.
struct Start {
    core: Arc<Core>,
    mailbox: Arc<Mailbox>,
    permit: ConnectionPermit,
    address: String,
}

impl Start {
    async fn secure<S>(self, stream: S, acceptor: Option<TlsAcceptor>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some(acceptor) = acceptor else { return self.run(stream, None).await };
        let limit = self.core.limits.handshake_timeout;
        // Pinned here to be dropped, and the connection closed, after it has been counted.
        let mut handshake = pin!(acceptor.accept(stream));
        let Ok(Ok(stream)) = timeout(limit, handshake.as_mut()).await else {
            self.core.counters.count(Counter::RefusedHandshakes);
            return;
        };
        let presented = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let certificate = presented.map(|certificate| certificate.to_vec());
        self.run(stream, certificate).await;
    }

    async fn run<S>(self, stream: S, certificate: Option<Vec<u8>>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { core, mailbox, permit, address } = self;
        let limits = &core.limits;
        let (stream, meter) = Metered::new(stream, &core);
        let handshake = h2::server::Builder::new()
            .initial_window_size(limits.http2_stream_window)
            .initial_connection_window_size(limits.http2_connection_window)
            .max_concurrent_streams(limits.streams_per_connection)
            .max_header_list_size(limits.header_list_bytes.saturating_add(HEADER_MARGIN))
            .max_send_buffer_size(SEND_BUFFER)
            .max_pending_accept_reset_streams(PENDING_RESETS)
            .max_local_error_reset_streams(Some(LOCAL_RESETS))
            .handshake(stream);
        let mut handshake = pin!(handshake);
        let Ok(Ok(http)) = timeout(limits.handshake_timeout, handshake.as_mut()).await else {
            core.counters.count(Counter::RefusedHandshakes);
            return;
        };
        let peer = Peer { address, certificate };
        let driver = Driver::new(http, core, Arc::clone(&mailbox), meter, peer, permit);
        // A server that began to drain during the handshake has knocked already.
        mailbox.knock();
        driver.await;
    }
}
