//! Where a server is, and a byte stream to it: TCP or a Unix socket, with or without TLS.

use super::tls::Tls;
use std::path::PathBuf;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// A connected byte stream.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}
pub type Socket = Box<dyn Stream>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// A server: its place, and how it is spoken to.
#[derive(Clone)]
pub struct Peer {
    text: String,
    place: Place,
    tls: Option<Tls>,
}

impl Peer {
    /// text: `host:port` or `unix:/path`.
    ///
    /// # Errors
    /// With a sentence about what is wrong with the address.
    pub fn new(text: &str, tls: Option<Tls>) -> Result<Self, String> {
        Ok(Self { text: text.to_owned(), place: parse(text)?, tls })
    }

    /// What stands in `:authority`.
    pub fn authority(&self) -> &str {
        match &self.place {
            Place::Tcp { .. } => &self.text,
            Place::Unix(_) => "localhost",
        }
    }

    /// What stands in `:scheme`.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() {
            "https"
        } else {
            "http"
        }
    }

    /// The address as it was given.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Connect, TLS included.
    ///
    /// # Errors
    /// With a sentence that names the address and what went wrong.
    pub async fn connect(&self) -> Result<Socket, String> {
        let explain =
            |error: &dyn std::fmt::Display| format!("cannot connect to {}: {error}", self.text);
        match &self.place {
            Place::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| explain(&error))?;
                self.secure(stream, "localhost").await
            }
            Place::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await;
                let stream = stream.map_err(|error| explain(&error))?;
                stream.set_nodelay(true).map_err(|error| explain(&error))?;
                self.secure(stream, host).await
            }
        }
    }

    async fn secure<S: Stream + 'static>(&self, stream: S, host: &str) -> Result<Socket, String> {
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some(tls) => tls.connect(stream, host).await.map_err(|error| {
                format!("cannot connect to {}: no TLS connection: {error}", self.text)
            }),
        }
    }
}

fn parse(text: &str) -> Result<Place, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() {
            return Err(format!("address {text:?} names no path, expected unix:/PATH"));
        }
        return Ok(Place::Unix(path.into()));
    }
    let wrong = || format!("address {text:?} is neither HOST:PORT nor unix:/PATH");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().map_err(|_| wrong())?;
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    if bare.is_empty() || (bare.contains(':') && bare == host) || bare.contains('/') {
        return Err(wrong());
    }
    Ok(Place::Tcp { host: bare.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::{parse, Place};

    #[test]
    fn addresses_are_hosts_with_ports_or_unix_paths() {
        let tcp = |host: &str, port| Ok(Place::Tcp { host: host.to_owned(), port });
        assert_eq!(parse("localhost:80"), tcp("localhost", 80));
        assert_eq!(parse("[::1]:8001"), tcp("::1", 8001));
        assert_eq!(parse("unix:/tmp/s"), Ok(Place::Unix("/tmp/s".into())));
        assert_eq!(parse("unix:///tmp/s"), Ok(Place::Unix("/tmp/s".into())));
    }

    #[test]
    fn what_is_no_address_is_quoted() {
        for text in
            ["", "host", ":1", "host:", "host:x", "host:70000", "::1:80", "unix:", "http://a:1"]
        {
            let error = parse(text).expect_err(text);
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
