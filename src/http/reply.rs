//! Answers that the gateway gives itself, byte for byte as an Istio user knows them.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

/// A complete answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status.
    pub status: StatusCode,
    /// Its `content-type` is `text/plain`, which is not among `headers`: most answers of ours have no other field.
    pub is_text: bool,
    /// Header fields without `content-length`, `date` and `server`.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

/// `content-type` of an answer that is text.
pub const TEXT: HeaderValue = HeaderValue::from_static("text/plain");

/// What a browser or curl sees in `server`.
pub const SERVER: HeaderValue = HeaderValue::from_static("ringgate");

impl Reply {
    /// Plain text.
    #[must_use]
    pub fn text(status: StatusCode, body: &'static str) -> Self {
        Self {
            status,
            is_text: true,
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    /// All header fields, in their order.
    #[must_use]
    pub fn fields(self) -> HeaderMap {
        if !self.is_text {
            return self.headers;
        }
        let mut all = HeaderMap::with_capacity(self.headers.len().saturating_add(1));
        all.insert(header::CONTENT_TYPE, TEXT);
        all.extend(self.headers);
        all
    }

    /// The same answer, with all its fields among `headers`.
    #[must_use]
    pub fn spelled_out(self) -> Self {
        Self {
            status: self.status,
            is_text: false,
            body: self.body.clone(),
            headers: self.fields(),
        }
    }

    /// 403, as Envoy's RBAC filter answers.
    #[must_use]
    pub fn denied() -> Self {
        Self::text(StatusCode::FORBIDDEN, "RBAC: access denied")
    }

    /// 401 or 403 of the token check, as Envoy's jwt_authn answers.
    #[must_use]
    pub fn unauthenticated(status: StatusCode, text: &str, www_authenticate: &str) -> Self {
        let mut reply = Self::text(status, "");
        reply.body = Bytes::copy_from_slice(text.as_bytes());
        if let Ok(value) = HeaderValue::try_from(www_authenticate) {
            reply.headers.insert(header::WWW_AUTHENTICATE, value);
        }
        reply
    }

    /// The answer to a gRPC call whose deadline is over (`DEADLINE_EXCEEDED`).
    #[must_use]
    pub fn deadline_exceeded() -> Self {
        let mut reply = Self::text(StatusCode::GATEWAY_TIMEOUT, "deadline exceeded").into_grpc();
        reply
            .headers
            .insert("grpc-status", HeaderValue::from_static("4"));
        reply
    }

    /// The answer as gRPC reads it: HTTP 200 and the status in the head (trailers-only).
    #[must_use]
    pub fn into_grpc(self) -> Self {
        let code = match self.status {
            StatusCode::UNAUTHORIZED => "16",
            StatusCode::FORBIDDEN => "7",
            StatusCode::BAD_REQUEST => "13",
            StatusCode::NOT_FOUND => "12",
            // What gRPC's own servers say to it; RESOURCE_EXHAUSTED.
            StatusCode::TOO_MANY_REQUESTS => "8",
            StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => "14",
            // The table of gRPC over HTTP/2 knows no more: unknown.
            _ => "2",
        };
        let message = HeaderValue::from_bytes(&self.body);
        let mut headers = self.fields();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/grpc"),
        );
        headers.insert("grpc-status", HeaderValue::from_static(code));
        if let Ok(message) = message {
            headers.insert("grpc-message", message);
        }
        Self {
            status: StatusCode::OK,
            is_text: false,
            headers,
            body: Bytes::new(),
        }
    }
}

/// A date as HTTP writes it (RFC 9110 section 5.6.7).
#[must_use]
pub fn http_date(since_epoch: std::time::Duration) -> String {
    let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or(0);
    let Ok(t) = time::OffsetDateTime::from_unix_timestamp(seconds) else {
        return String::new();
    };
    let (day, month) = (t.weekday().to_string(), t.month().to_string());
    format!(
        "{}, {:02} {} {:04} {:02}:{:02}:{:02} GMT",
        day.get(..3).unwrap_or_default(),
        t.day(),
        month.get(..3).unwrap_or_default(),
        t.year(),
        t.hour(),
        t.minute(),
        t.second()
    )
}

/// Whether a request wants its answers as gRPC.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(
            http_date(std::time::Duration::from_secs(784_111_777)),
            "Sun, 06 Nov 1994 08:49:37 GMT"
        );
    }

    #[test]
    fn denial_is_nineteen_bytes() {
        assert_eq!(Reply::denied().body.len(), 19);
    }
}
