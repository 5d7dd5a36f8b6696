//! One HTTP/1.1 answer out.

use crate::error::Refusal;
use bytes::Bytes;
use std::{fmt::Write, time::Duration};

/// An answer to a plain HTTP request, for [`Server::page`](crate::Server::page).
///
/// The connection is closed after it.
///
/// # Examples
///
/// ```
/// use whit::{Response, Server};
///
/// let server = Server::new()
///     .page("/", |_| Response::html("<!doctype html><title>My Pi</title>"))
///     .page("/health", |_| Response::text("ok\n"))
///     .page("/data.json", |_| Response::new(200, "application/json", r#"{"answer": 42}"#));
/// ```
#[derive(Clone, Debug)]
pub struct Response {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

impl Response {
    /// An answer of this status, with a body of this content type. A status outside 200 to 599 is sent as 500; 204
    /// and 304 are sent without the body (RFC 9110 6.4.1).
    pub fn new(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        Self {
            status: if (200..600).contains(&status) {
                status
            } else {
                500
            },
            headers: Vec::new(),
            body: body.into(),
        }
        .header("Content-Type", content_type)
    }

    /// A web page, with status 200.
    pub fn html(body: impl Into<Bytes>) -> Self {
        Self::new(200, "text/html; charset=utf-8", body)
    }

    /// Plain text, with status 200.
    pub fn text(body: impl Into<Bytes>) -> Self {
        Self::new(200, "text/plain; charset=utf-8", body)
    }

    /// Adds a header field. Control characters in the value become spaces, so that no value can add a field
    /// of its own (RFC 9110 5.5).
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        let value = value
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        self.headers.push((name, value));
        self
    }

    /// The status code.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// What its body says in its first line, behind the status, if it is a short text.
    pub(crate) fn words(&self) -> Option<&str> {
        const LONGEST: usize = 256;

        let line = std::str::from_utf8(&self.body).ok()?.lines().next()?;
        let status = format!("{} {}: ", self.status, reason_phrase(self.status));
        let words = line.strip_prefix(&status).unwrap_or(line);
        (!words.is_empty() && words.len() <= LONGEST).then_some(words)
    }

    /// The head and, unless only the head was asked for, the body.
    pub(crate) fn into_bytes(self, with_body: bool) -> Vec<u8> {
        let mut head = format!(
            "HTTP/1.1 {} {}\r\n",
            self.status,
            reason_phrase(self.status)
        );
        for (name, value) in &self.headers {
            // Writing to a string does not fail.
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if !self
            .headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("connection"))
        {
            head += "Connection: close\r\n";
        }
        let bodiless = matches!(self.status, 204 | 304);
        if !bodiless {
            let _ = write!(head, "Content-Length: {}\r\n", self.body.len());
        }
        head += "X-Content-Type-Options: nosniff\r\n\r\n";
        let mut bytes = head.into_bytes();
        if with_body && !bodiless {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

/// What a client that was turned away for want of room should wait before it tries again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

impl From<&Refusal> for Response {
    fn from(refusal: &Refusal) -> Self {
        let response = Self::new(
            refusal.status(),
            "text/plain; charset=utf-8",
            format!(
                "{} {}: {refusal}\n",
                refusal.status(),
                reason_phrase(refusal.status())
            ),
        );
        match refusal {
            // RFC 9110 15.5.22 and 7.8, RFC 6455 4.4.
            Refusal::NotAnUpgrade { .. } | Refusal::WrongVersion => response
                .header("Upgrade", "websocket")
                .header("Connection", "Upgrade, close")
                .header("Sec-WebSocket-Version", "13"),
            Refusal::MethodNotAllowed(allowed) => response.header("Allow", allowed),
            Refusal::TooManyFromAddress
            | Refusal::Full
            | Refusal::OutOfMemory
            | Refusal::ShuttingDown => {
                response.header("Retry-After", &RETRY_AFTER.as_secs().to_string())
            }
            _ => response,
        }
    }
}

fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        // The phrase has no meaning to a client and may be empty (RFC 9112 4).
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_add_a_header() {
        let bytes = Response::text("x")
            .header("X-Name", "a\r\nSet-Cookie: b")
            .into_bytes(true);
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains("X-Name: a  Set-Cookie: b\r\n"), "{text}");
    }

    #[test]
    fn an_answer_without_content_has_no_body() {
        let text =
            String::from_utf8(Response::new(204, "text/plain", "hello").into_bytes(true)).unwrap();
        assert!(
            !text.contains("Content-Length") && text.ends_with("\r\n\r\n"),
            "{text}"
        );
        assert_eq!(Response::new(7, "text/plain", "").status(), 500);
    }

    #[test]
    fn a_head_alone_tells_the_length_of_the_body() {
        let text = String::from_utf8(Response::text("hello").into_bytes(false)).unwrap();
        assert!(
            text.contains("Content-Length: 5\r\n") && text.ends_with("\r\n\r\n"),
            "{text}"
        );
    }
}
