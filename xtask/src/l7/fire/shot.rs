//! What the load sends where, as words of a command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

/// One kind of request to one proxy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shot {
    /// Listener of the proxy.
    pub(crate) address: SocketAddr,
    /// Server name of the handshake.
    pub(crate) sni: String,
    /// `Host` or `:authority`.
    pub(crate) host: String,
    /// Target of the request.
    pub(crate) path: String,
    /// Further fields.
    pub(crate) headers: Vec<(String, String)>,
    /// Directory with `cert-chain.pem` and `key.pem` of the client.
    pub(crate) identity: Option<PathBuf>,
    /// `:authority` of tunnels.
    pub(crate) authority: String,
    /// Status of every answer.
    pub(crate) status: u16,
    /// Bytes of every answer's body.
    pub(crate) length: usize,
    /// Connections, or tunnels.
    pub(crate) connections: usize,
    /// Streams on each connection at a time; with tunnels: connections that carry them.
    pub(crate) streams: usize,
    /// How long.
    pub(crate) span: Duration,
}

impl Default for Shot {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 443)),
            sni: "localhost".to_owned(),
            host: "localhost".to_owned(),
            path: "/".to_owned(),
            headers: Vec::new(),
            identity: None,
            authority: String::new(),
            status: 200,
            length: 0,
            connections: 1,
            streams: 1,
            span: Duration::from_secs(1),
        }
    }
}

impl Shot {
    /// The words that `parse` reads.
    pub(crate) fn words(&self) -> Vec<String> {
        let mut words = vec![
            format!("address={}", self.address),
            format!("sni={}", self.sni),
            format!("host={}", self.host),
            format!("path={}", self.path),
            format!("authority={}", self.authority),
            format!("status={}", self.status),
            format!("length={}", self.length),
            format!("connections={}", self.connections),
            format!("streams={}", self.streams),
            format!("seconds={}", self.span.as_secs_f64()),
        ];
        let headers = self.headers.iter();
        words.extend(headers.map(|(name, value)| format!("header={name}: {value}")));
        let identity = self.identity.iter();
        words.extend(identity.map(|path| format!("identity={}", path.display())));
        words
    }

    /// Reads `name=value` words.
    pub(crate) fn parse(words: &[&str]) -> Result<Self> {
        let mut shot = Self::default();
        for word in words {
            let (name, value) = word
                .split_once('=')
                .with_context(|| format!("`{word}` is not name=value"))?;
            let number = || value.parse::<usize>().with_context(|| name.to_owned());
            match name {
                "address" => shot.address = value.parse().context("address")?,
                "sni" => shot.sni = value.to_owned(),
                "host" => shot.host = value.to_owned(),
                "path" => shot.path = value.to_owned(),
                "authority" => shot.authority = value.to_owned(),
                "status" => shot.status = value.parse().context("status")?,
                "length" => shot.length = number()?,
                "connections" => shot.connections = number()?,
                "streams" => shot.streams = number()?,
                "seconds" => shot.span = Duration::from_secs_f64(value.parse().context("seconds")?),
                "identity" => shot.identity = Some(value.into()),
                "header" => {
                    let (name, value) = value
                        .split_once(": ")
                        .with_context(|| format!("`{value}` is no header"))?;
                    shot.headers.push((name.to_owned(), value.to_owned()));
                }
                other => bail!("no word `{other}`"),
            }
        }
        ensure!(
            shot.connections > 0 && shot.streams > 0,
            "at least one connection and stream"
        );
        Ok(shot)
    }

    /// The request as HTTP/1.1.
    pub(super) fn http1(&self, close: bool) -> Vec<u8> {
        let mut text = format!("GET {} HTTP/1.1\r\nhost: {}\r\n", self.path, self.host);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str(if close {
            "connection: close\r\n\r\n"
        } else {
            "\r\n"
        });
        text.into_bytes()
    }

    /// The request as HTTP/2.
    pub(super) fn http2(&self) -> Result<http::Request<()>> {
        let uri = format!("https://{}{}", self.host, self.path);
        let mut request = http::Request::builder().uri(uri);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        Ok(request.body(())?)
    }
}

#[cfg(test)]
mod tests {
    use super::Shot;

    #[test]
    fn words_are_read_back() {
        let shot = Shot {
            path: "/a?b=c".to_owned(),
            headers: vec![
                ("authorization".to_owned(), "Bearer x=y".to_owned()),
                ("cookie".to_owned(), "session=z".to_owned()),
            ],
            identity: Some("/pki/client".into()),
            connections: 64,
            ..Shot::default()
        };
        let words = shot.words();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        assert_eq!(Shot::parse(&words).expect("own words"), shot);
        assert!(shot.http1(true).ends_with(b"connection: close\r\n\r\n"));
        let two = shot.http2().expect("a request");
        assert_eq!(two.uri().to_string(), "https://localhost/a?b=c");
        for bad in ["path", "connections=0", "colour=red", "header=x"] {
            assert!(Shot::parse(&[bad]).is_err(), "{bad}");
        }
    }
}
