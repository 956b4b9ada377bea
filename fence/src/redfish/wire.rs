//! Requests and answers. A BMC may close the connection after each answer, be busy for a while, or
//! send us elsewhere on itself; each is dealt with here, within the visit's time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use host::https::{Client, HttpsError};
use http_body_util::Full;
use hyper::header::{
    ACCEPT, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER,
    USER_AGENT,
};
use hyper::{Method, Request, StatusCode, Uri};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::resource;
use super::trust::{Tls, handshake_error};
use crate::device::DeviceError;

/// The longest body that is read, in bytes: a system with everything in it has a tenth of it.
const BODY_BYTES_MAX: usize = 512 * 1024;

/// The longest path that is asked for, in bytes.
const PATH_BYTES_MAX: usize = 1024;

/// More redirects than this lead nowhere.
const REDIRECTS_MAX: usize = 3;

/// A busy BMC is asked again after this long, if it does not say when (RFC 9110, 10.2.3).
const RETRY_DEFAULT: Duration = Duration::from_secs(1);

/// And never sooner, so that one that says "at once" is not asked all the time.
const RETRY_MIN: Duration = Duration::from_millis(200);

/// A BMC and how to reach it.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Option<Tls>,
}

/// Connections to one BMC, one after the other.
#[derive(Debug)]
pub(super) struct Wire {
    endpoint: Arc<Endpoint>,
    /// Idle; whoever uses it takes it out and brings it back when the answer was read, so that a
    /// visit that ends in the middle leaves none behind.
    client: Option<Client>,
    until: Instant,
}

/// What is asked.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Option<Bytes>,
}

/// What is answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// A point in time, for waiting.
pub(super) fn after(limit: Duration) -> Instant {
    Instant::now() + limit
}

impl Endpoint {
    /// The path of a link that a BMC gave, if it leads to this BMC.
    pub(super) fn local(&self, link: &str) -> Result<String, DeviceError> {
        let shown = || crate::text::printable(link.as_bytes(), 100);
        let odd = || DeviceError::Garbage(format!("a link of the bmc makes no sense: {}", shown()));
        if link.len() > PATH_BYTES_MAX {
            return Err(odd());
        }
        let uri: Uri = link.parse().map_err(|_| odd())?;
        if let Some(authority) = uri.authority() {
            let usual = if self.tls.is_some() { 443 } else { 80 };
            let host = authority.host().trim_matches(['[', ']']);
            let same = uri.scheme_str() == Some(self.scheme())
                && host.eq_ignore_ascii_case(&self.host)
                && authority.port_u16().unwrap_or(usual) == self.port;
            if !same {
                let text = format!("the bmc sends us to another host, {}", shown());
                return Err(DeviceError::Refused(text));
            }
        }
        let path = uri.path_and_query().map(|path| path.as_str().to_owned());
        path.filter(|path| path.starts_with('/')).ok_or_else(odd)
    }

    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// The value of the header `Host`.
    fn authority(&self) -> String {
        let v6 = self.host.contains(':');
        let host = if v6 { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.tls.is_some(), self.port) {
            (true, 443) | (false, 80) => host,
            (true | false, port) => format!("{host}:{port}"),
        }
    }

    async fn connect(&self, limit: Duration) -> Result<Client, DeviceError> {
        let connected = match &self.tls {
            Some((tls, name)) => {
                let (tls, name) = (Arc::clone(tls), name.clone());
                Client::connect(&self.host, self.port, tls, name, limit).await
            }
            None => Client::connect_plain(&self.host, self.port, limit).await,
        };
        connected.map_err(|error| device_error(error, &self.authority()))
    }
}

impl Call {
    pub(super) fn get(path: &str) -> Self {
        Self { method: Method::GET, path: path.to_owned(), body: None }
    }
}

impl Wire {
    pub(super) fn new(endpoint: Arc<Endpoint>, until: Instant) -> Self {
        Self { endpoint, client: None, until }
    }

    /// This wire with another limit; nothing is left here but the way.
    pub(super) fn take_over(&mut self, until: Instant) -> Self {
        Self { endpoint: Arc::clone(&self.endpoint), client: self.client.take(), until }
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Asks without a login.
    pub(super) async fn call(&mut self, call: &Call) -> Result<Answer, DeviceError> {
        self.call_as(call, None).await
    }

    /// Asks, and asks again where the BMC is busy or wants to be asked elsewhere. The answer may
    /// be any other status.
    pub(super) async fn call_as(
        &mut self,
        call: &Call,
        who: Option<&(HeaderName, HeaderValue)>,
    ) -> Result<Answer, DeviceError> {
        let mut path = call.path.clone();
        let mut redirects = 0;
        loop {
            let answer = self.exchange(call, &path, who).await?;
            if answer.is_busy() {
                self.pause(&answer).await?;
            } else if answer.is_redirect(&call.method) {
                redirects += 1;
                let to = answer.headers.get(LOCATION).and_then(|to| to.to_str().ok());
                path = self.endpoint.local(to.unwrap_or_default())?;
                if redirects > REDIRECTS_MAX {
                    let text = format!("the bmc redirects {} in circles", call.path);
                    return Err(DeviceError::Garbage(text));
                }
            } else {
                return Ok(answer);
            }
        }
    }

    /// One request. A connection that was used before may have been closed meanwhile, even while
    /// the request was on its way; everything that is sent here may be sent twice.
    async fn exchange(
        &mut self,
        call: &Call,
        path: &str,
        who: Option<&(HeaderName, HeaderValue)>,
    ) -> Result<Answer, DeviceError> {
        let mut fresh = self.client.is_none();
        loop {
            let mut client = match self.client.take() {
                Some(client) => client,
                None => self.endpoint.connect(self.rest()).await?,
            };
            let request = self.request(call, path, who)?;
            match client.call(request, self.rest(), BODY_BYTES_MAX).await {
                Ok(response) => {
                    self.client = Some(client);
                    let (head, body) = response.into_parts();
                    return Ok(Answer { status: head.status, headers: head.headers, body });
                }
                Err(HttpsError::Http(error)) if !fresh && !error.is_parse() => fresh = true,
                Err(error) => return Err(device_error(error, &self.endpoint.authority())),
            }
        }
    }

    fn request(
        &self,
        call: &Call,
        path: &str,
        who: Option<&(HeaderName, HeaderValue)>,
    ) -> Result<Request<Full<Bytes>>, DeviceError> {
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(path)
            .header(HOST, self.endpoint.authority())
            .header(ACCEPT, "application/json")
            .header("odata-version", "4.0")
            .header(USER_AGENT, "haguard");
        if let Some((name, value)) = who {
            request = request.header(name, value);
        }
        if call.body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = Full::new(call.body.clone().unwrap_or_default());
        request.body(body).map_err(|error| {
            let host = &self.endpoint.host;
            DeviceError::Local(format!("cannot ask {host:?} for {path:?}: {error}"))
        })
    }

    /// Waits as long as a busy BMC wants.
    async fn pause(&self, answer: &Answer) -> Result<(), DeviceError> {
        let after = answer.headers.get(RETRY_AFTER).and_then(|after| after.to_str().ok());
        // The other form is a date, by the BMC's clock, which may be any.
        let seconds = after.and_then(|after| after.trim().parse().ok()).map(Duration::from_secs);
        let pause = seconds.unwrap_or(RETRY_DEFAULT).max(RETRY_MIN);
        if pause >= self.rest() {
            let text = format!("{}; it wants to be asked again in {pause:?}", answer.complaint());
            return Err(DeviceError::Refused(text));
        }
        sleep(pause).await;
        Ok(())
    }

    /// How much of the visit's time is left.
    fn rest(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

impl Answer {
    /// Its content, if the answer is a success.
    pub(super) fn json(&self) -> Result<Value, DeviceError> {
        serde_json::from_slice(&self.body)
            .map_err(|error| DeviceError::Garbage(format!("no json in the answer ({error})")))
    }

    /// What the BMC says about a failure.
    pub(super) fn complaint(&self) -> String {
        let words = resource::complaint(&self.body);
        if words.is_empty() {
            format!("http {}", self.status.as_u16())
        } else {
            format!("http {}: {words}", self.status.as_u16())
        }
    }

    pub(super) fn has_message(&self, name: &str) -> bool {
        resource::has_message(&self.body, name)
    }

    /// All sessions in use is not for waiting: there is a way without one.
    fn is_busy(&self) -> bool {
        matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)
            && !self.has_message(super::session::FULL)
    }

    /// A redirect that keeps the method; the others would make another request of it.
    fn is_redirect(&self, method: &Method) -> bool {
        let kept = [StatusCode::TEMPORARY_REDIRECT, StatusCode::PERMANENT_REDIRECT];
        let for_get = [StatusCode::MOVED_PERMANENTLY, StatusCode::FOUND];
        kept.contains(&self.status) || (*method == Method::GET && for_get.contains(&self.status))
    }
}

fn device_error(error: HttpsError, at: &str) -> DeviceError {
    match error {
        HttpsError::Slow(limit) => DeviceError::Silent(limit),
        HttpsError::Connect(error) => {
            DeviceError::Refused(format!("cannot connect to {at} ({error}): is redfish enabled?"))
        }
        HttpsError::Tls(error) => handshake_error(&error),
        HttpsError::Http(error) => DeviceError::Garbage(format!("no http from {at} ({error})")),
        HttpsError::TooLong(max) => {
            DeviceError::Garbage(format!("an answer is longer than {max} bytes"))
        }
    }
}
