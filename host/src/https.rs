//! HTTP/1.1 over TLS, as a client: for a node that asks its fencing gateway, and for a gateway that
//! speaks with a Redfish BMC. One connection, one request at a time, every wait with a limit and
//! every body with an end.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

/// A streamed line is never longer than this many bytes.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// Why a request was not answered.
#[derive(Debug, Error)]
pub enum HttpsError {
    /// Something took too long.
    #[error("no answer within {0:?}")]
    Slow(Duration),
    /// There is no connection.
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    /// The TLS handshake failed: a certificate, usually.
    #[error("tls handshake failed: {0}")]
    Tls(std::io::Error),
    /// The other side does not speak HTTP, or ended in the middle.
    #[error("the connection failed: {0}")]
    Http(hyper::Error),
    /// A body, or a line of one, is too long.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
}

impl Client {
    /// Connects, within `limit`. `host` is a name or an address, without brackets. The name for TLS
    /// matters only to configurations that verify host names.
    ///
    /// # Errors
    /// If there is no connection in time, or the server is not believed.
    pub async fn connect(
        host: &str,
        port: u16,
        tls: Arc<ClientConfig>,
        name: ServerName<'static>,
        limit: Duration,
    ) -> Result<Self, HttpsError> {
        let until = deadline(limit);
        let tcp = within(until, limit, TcpStream::connect((host, port))).await?;
        let tcp = tcp.map_err(HttpsError::Connect)?;
        // Requests are small and answered at once.
        let _ = tcp.set_nodelay(true);
        let secure = within(until, limit, TlsConnector::from(tls).connect(name, tcp)).await?;
        Self::over(secure.map_err(HttpsError::Tls)?, limit).await
    }

    /// The same without TLS, for peers that are configured so in so many words.
    ///
    /// # Errors
    /// If there is no connection in time.
    pub async fn connect_plain(host: &str, port: u16, limit: Duration) -> Result<Self, HttpsError> {
        let tcp = within(deadline(limit), limit, TcpStream::connect((host, port))).await?;
        Self::over(tcp.map_err(HttpsError::Connect)?, limit).await
    }

    /// Over a stream that stands already.
    ///
    /// # Errors
    /// If the HTTP connection cannot be set up.
    pub async fn over<S>(stream: S, limit: Duration) -> Result<Self, HttpsError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let shake = within(deadline(limit), limit, handshake(TokioIo::new(stream))).await?;
        let (sender, connection) = shake.map_err(HttpsError::Http)?;
        // Its errors come out of the requests.
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, driver })
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// If it is not there in time, breaks off, or its body is longer than `bytes_max`.
    pub async fn call(
        &mut self,
        request: Request<Full<Bytes>>,
        limit: Duration,
        bytes_max: usize,
    ) -> Result<Response<Bytes>, HttpsError> {
        let until = deadline(limit);
        let answer = self.send(request, until, limit).await?;
        let (head, mut body) = answer.into_parts();
        let mut whole = BytesMut::new();
        while let Some(frame) = within(until, limit, body.frame()).await? {
            if let Ok(data) = frame.map_err(HttpsError::Http)?.into_data() {
                if whole.len() + data.len() > bytes_max {
                    return Err(HttpsError::TooLong(bytes_max));
                }
                whole.extend_from_slice(&data);
            }
        }
        Ok(Response::from_parts(head, whole.freeze()))
    }

    /// Sends a request whose answer comes line by line. The connection is used up by it.
    ///
    /// # Errors
    /// If the answer's head is not there in time, or the connection breaks.
    pub async fn lines(
        mut self,
        request: Request<Full<Bytes>>,
        limit: Duration,
    ) -> Result<Lines, HttpsError> {
        let answer = self.send(request, deadline(limit), limit).await?;
        let status = answer.status();
        Ok(Lines { status, body: answer.into_body(), buffer: BytesMut::new(), _client: self })
    }

    async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
        until: Instant,
        limit: Duration,
    ) -> Result<Response<Incoming>, HttpsError> {
        within(until, limit, self.sender.ready()).await?.map_err(HttpsError::Http)?;
        let answer = within(until, limit, self.sender.send_request(request)).await?;
        answer.map_err(HttpsError::Http)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// The lines of an answer that is still being written.
#[derive(Debug)]
pub struct Lines {
    /// What the head of the answer said.
    pub status: hyper::StatusCode,
    body: Incoming,
    buffer: BytesMut,
    _client: Client,
}

impl Lines {
    /// The next line, without its end; `None` after the last one.
    ///
    /// # Errors
    /// If none comes in time, it is too long, or the connection breaks off in the middle.
    pub async fn next(&mut self, limit: Duration) -> Result<Option<Bytes>, HttpsError> {
        let until = deadline(limit);
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end).freeze();
                self.buffer.advance(1);
                return Ok(Some(line));
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(HttpsError::TooLong(LINE_BYTES_MAX));
            }
            match within(until, limit, self.body.frame()).await? {
                Some(frame) => {
                    if let Ok(data) = frame.map_err(HttpsError::Http)?.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                None if self.buffer.is_empty() => return Ok(None),
                None => return Ok(Some(self.buffer.split().freeze())),
            }
        }
    }
}

fn deadline(limit: Duration) -> Instant {
    Instant::now() + limit
}

async fn within<T>(
    until: Instant,
    limit: Duration,
    work: impl Future<Output = T>,
) -> Result<T, HttpsError> {
    timeout_at(until, work).await.map_err(|_| HttpsError::Slow(limit))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    /// A server that reads one request and answers these bytes.
    fn server(answer: &'static [u8]) -> DuplexStream {
        let (near, mut far) = duplex(65536);
        tokio::spawn(async move {
            let mut seen = Vec::new();
            let mut byte = [0];
            while !seen.ends_with(b"\r\n\r\n") && far.read(&mut byte).await.unwrap() == 1 {
                seen.push(byte[0]);
            }
            far.write_all(answer).await.unwrap();
        });
        near
    }

    fn get() -> Request<Full<Bytes>> {
        Request::get("/x").header("host", "h").body(Full::default()).unwrap()
    }

    #[tokio::test]
    async fn a_whole_answer_is_read_and_an_endless_one_refused() {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
        let mut client = Client::over(server(answer), LIMIT).await.unwrap();
        assert_eq!(client.call(get(), LIMIT, 5).await.unwrap().body(), "hello");
        let mut client = Client::over(server(answer), LIMIT).await.unwrap();
        let refused = client.call(get(), LIMIT, 4).await;
        assert!(matches!(refused, Err(HttpsError::TooLong(4))), "{refused:?}");
    }

    #[tokio::test]
    async fn lines_come_one_by_one() {
        let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
            3\r\na\nb\r\n3\r\nc\nd\r\n0\r\n\r\n";
        let client = Client::over(server(answer), LIMIT).await.unwrap();
        let mut lines = client.lines(get(), LIMIT).await.unwrap();
        for line in ["a", "bc", "d"] {
            assert_eq!(lines.next(LIMIT).await.unwrap().unwrap(), line);
        }
        assert!(lines.next(LIMIT).await.unwrap().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_is_given_up() {
        let (near, _far) = duplex(65536);
        let mut client = Client::over(near, LIMIT).await.unwrap();
        let refused = client.call(get(), LIMIT, 100).await;
        assert!(matches!(refused, Err(HttpsError::Slow(LIMIT))), "{refused:?}");
    }

    #[tokio::test]
    async fn what_is_no_http_is_an_error() {
        let mut client = Client::over(server(b"SSH-2.0-x\r\n"), LIMIT).await.unwrap();
        assert!(matches!(client.call(get(), LIMIT, 100).await, Err(HttpsError::Http(_))));
    }
}
