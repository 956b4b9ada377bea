//! Logging in, and logging out whatever happens: a BMC has few sessions and keeps forgotten ones
//! for a long time (DSP0266, 13.3).

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue, LOCATION};
use hyper::{Method, StatusCode};
use serde::Serialize;
use serde_json::Value;
use tokio::runtime::Handle;
use tracing::debug;
use zeroize::Zeroizing;

use super::wire::{Answer, Call, Wire, after};
use crate::device::DeviceError;
use crate::secret::Secret;

/// The header with a session's token.
const TOKEN: HeaderName = HeaderName::from_static("x-auth-token");

/// The name of the message that says that all sessions are in use (Base registry).
pub(super) const FULL: &str = "SessionLimitExceeded";

/// Logging out takes no longer; nobody waits for it.
const LOGOUT_LIMIT: Duration = Duration::from_secs(5);

/// A visit to a BMC: logged in, and logged out when dropped.
#[derive(Debug)]
pub(super) struct Visit {
    wire: Wire,
    /// The header that says who asks.
    who: (HeaderName, HeaderValue),
    /// The session to be ended; none where each request carries the password.
    session: Option<String>,
}

/// Checks what can never work.
pub(super) fn check(user: &str, password: &Secret) -> Result<(), DeviceError> {
    let local = |text: &str| Err(DeviceError::Local(text.to_owned()));
    if user.is_empty() || user.contains(':') || user.chars().any(char::is_control) {
        return local("a redfish user has a name, without colons: correct it");
    }
    if std::str::from_utf8(password.expose()).is_err() {
        return local("a redfish password is text in utf-8: correct the password file");
    }
    Ok(())
}

impl Visit {
    /// Makes a session where there are sessions to be had. Else every request carries the password:
    /// with a BMC that has none, or whose sessions are all in use, and which has to be fenced by
    /// all the same.
    pub(super) async fn login(
        mut wire: Wire,
        (user, password): (&str, &Secret),
        sessions: Option<&str>,
    ) -> Result<Self, DeviceError> {
        if let Some(sessions) = sessions {
            let call = Call {
                method: Method::POST,
                path: wire.endpoint().local(sessions)?,
                body: Some(login_body(user, password)?),
            };
            let answer = wire.call(&call).await?;
            let without = [
                StatusCode::NOT_FOUND,
                StatusCode::METHOD_NOT_ALLOWED,
                StatusCode::NOT_IMPLEMENTED,
            ];
            if answer.status.is_success() {
                return Self::begun(wire, &call.path, &answer);
            }
            if !without.contains(&answer.status) && !answer.has_message(FULL) {
                return Err(login_error(&answer));
            }
        }
        let who = (AUTHORIZATION, basic(user, password)?);
        Ok(Self { wire, who, session: None })
    }

    fn begun(wire: Wire, sessions: &str, answer: &Answer) -> Result<Self, DeviceError> {
        let body: Option<Value> = serde_json::from_slice(&answer.body).ok();
        let id = |key| body.as_ref()?.get(key)?.as_str();
        let at = answer.headers.get(LOCATION).and_then(|at| at.to_str().ok());
        let at = at.or_else(|| id("@odata.id")).map(|at| wire.endpoint().local(at));
        let token = answer.headers.get(TOKEN).cloned();
        let mut token = token.ok_or_else(|| {
            DeviceError::Garbage(format!("a session without a token ({})", answer.status))
        })?;
        token.set_sensitive(true);
        // From here on it is ended, however little the BMC says about where it is.
        let session = match (at, id("Id")) {
            (Some(Ok(path)), _) => Some(path),
            (Some(Err(_)) | None, Some(id)) => {
                wire.endpoint().local(&format!("{}/{id}", sessions.trim_end_matches('/'))).ok()
            }
            (Some(Err(_)) | None, None) => None,
        };
        if session.is_none() {
            debug!("the bmc does not say where its session is: it stays until the bmc ends it");
        }
        Ok(Self { wire, who: (TOKEN, token), session })
    }

    /// Asks, and takes nothing but success for an answer.
    pub(super) async fn call(&mut self, call: &Call) -> Result<Answer, DeviceError> {
        let answer = self.try_call(call).await?;
        if answer.status.is_success() { Ok(answer) } else { Err(self.refused(&answer)) }
    }

    /// Asks.
    pub(super) async fn try_call(&mut self, call: &Call) -> Result<Answer, DeviceError> {
        self.wire.call_as(call, Some(&self.who)).await
    }

    /// The error for an answer that is no success.
    pub(super) fn refused(&self, answer: &Answer) -> DeviceError {
        let complaint = answer.complaint();
        match answer.status {
            // A session that is gone is a matter of the next visit, a wrong password is not.
            StatusCode::UNAUTHORIZED if self.session.is_some() => {
                DeviceError::Refused(format!("the session was ended by the bmc: {complaint}"))
            }
            StatusCode::UNAUTHORIZED => DeviceError::Login(complaint),
            StatusCode::FORBIDDEN => DeviceError::Login(format!(
                "the user has not the right to do this ({complaint}): make it an operator"
            )),
            _ => DeviceError::Refused(complaint),
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let (Some(path), Ok(runtime)) = (self.session.take(), Handle::try_current()) else {
            return;
        };
        let mut wire = self.wire.take_over(after(LOGOUT_LIMIT));
        let who = self.who.clone();
        runtime.spawn(async move {
            let call = Call { method: Method::DELETE, path, body: None };
            match tokio::time::timeout(LOGOUT_LIMIT, wire.call_as(&call, Some(&who))).await {
                Ok(Ok(answer)) if answer.status.is_success() => {}
                Ok(Ok(answer)) => debug!("a session is not ended: {}", answer.complaint()),
                Ok(Err(error)) => debug!("a session is not ended: {error}"),
                Err(_) => debug!("a session is not ended in {LOGOUT_LIMIT:?}"),
            }
        });
    }
}

fn login_error(answer: &Answer) -> DeviceError {
    let complaint = answer.complaint();
    match answer.status {
        // Some say 400 about a wrong password.
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
            DeviceError::Login(complaint)
        }
        _ => DeviceError::Refused(format!("no session: {complaint}")),
    }
}

/// The body of the request for a session. Its memory is wiped; the copy that the connection writes
/// from is not ours.
fn login_body(user: &str, password: &Secret) -> Result<Bytes, DeviceError> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Login<'a> {
        user_name: &'a str,
        password: &'a str,
    }
    let wrong = |error: &dyn std::fmt::Display| {
        DeviceError::Local(format!("the user and password cannot be sent: {error}"))
    };
    let password = std::str::from_utf8(password.expose()).map_err(|error| wrong(&error))?;
    // Enough for every letter as `\u0000`: a vector that grows leaves copies behind.
    let mut body = Zeroizing::new(Vec::with_capacity(64 + 6 * (user.len() + password.len())));
    serde_json::to_writer(&mut *body, &Login { user_name: user, password })
        .map_err(|error| wrong(&error))?;
    Ok(Bytes::from_owner(body))
}

/// The value of the header for a request that carries the password (RFC 7617).
fn basic(user: &str, password: &Secret) -> Result<HeaderValue, DeviceError> {
    let wrong = || DeviceError::Local("the user and password cannot be sent".to_owned());
    let mut pair = Zeroizing::new(Vec::with_capacity(user.len() + 1 + password.expose().len()));
    pair.extend_from_slice(user.as_bytes());
    pair.push(b':');
    pair.extend_from_slice(password.expose());
    let start = b"Basic ";
    let mut value = Zeroizing::new(vec![0; start.len() + pair.len().div_ceil(3) * 4]);
    let (head, tail) = value.split_at_mut(start.len());
    head.copy_from_slice(start);
    STANDARD.encode_slice(pair.as_slice(), tail).map_err(|_| wrong())?;
    let mut value =
        HeaderValue::from_maybe_shared(Bytes::from_owner(value)).map_err(|_| wrong())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_encoded_as_the_standards_say() {
        let secret = Secret::new(b"open \"sesame\"".to_vec());
        // RFC 7617, 2, has this pair.
        let rfc = Secret::new(b"open sesame".to_vec());
        assert_eq!(basic("Aladdin", &rfc).unwrap(), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        let body: Value = serde_json::from_slice(&login_body("root", &secret).unwrap()).unwrap();
        assert_eq!(body["UserName"], "root");
        assert_eq!(body["Password"], "open \"sesame\"");
    }

    #[test]
    fn a_user_or_password_that_cannot_be_sent_is_refused_at_once() {
        let fine = Secret::new(b"x".to_vec());
        for user in ["", "a:b", "a\n"] {
            assert!(matches!(check(user, &fine), Err(DeviceError::Local(_))), "{user:?}");
        }
        let odd = Secret::new(vec![0xff]);
        assert!(matches!(check("root", &odd), Err(DeviceError::Local(_))));
        check("root", &fine).unwrap();
    }
}
