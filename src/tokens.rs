//! Tokens: the words in files that clients have to show.

use crate::values::{Mistake, read_file};
use constant_time_eq::constant_time_eq;
use percent_encoding::percent_decode_str;
use std::{borrow::Cow, fs, os::unix::fs::PermissionsExt, path::Path};
use whit::Request;

/// What a browser can show a token in, beside the query: a subprotocol that begins so.
const SUBPROTOCOL_PREFIX: &str = "whit.token.";

/// A word that clients have to show for a right.
pub(crate) struct Token(String);

impl Token {
    /// Reads the one in the file that `flag` names.
    pub(crate) fn read(flag: &str, file: &Path) -> Result<Self, Mistake> {
        let wrong = |what: &str| Mistake(format!("{flag} {}: {what}", file.display()));
        let text = read_file(file).map_err(|error| wrong(&error.to_string()))?;
        let token = text.strip_suffix('\n').unwrap_or(&text);
        let token = token.strip_suffix('\r').unwrap_or(token);
        if token.is_empty() {
            return Err(wrong("there is no token in it"));
        }
        // What an Authorization header can have (RFC 9110 11.2).
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        if !token.bytes().all(is_fit) {
            return Err(wrong(
                "a token is one line of letters, digits and -._~+/= without spaces",
            ));
        }
        if fs::metadata(file).is_ok_and(|file| file.permissions().mode() & 0o004 != 0) {
            log::warn!(
                "{flag} {}: every user of this machine can read it: chmod o= would change that",
                file.display()
            );
        }
        Ok(Self(token.into()))
    }

    /// Whether a client shows it.
    ///
    /// How long that takes tells nothing of it but its length.
    pub(crate) fn is_shown_in(&self, request: &Request) -> bool {
        shown(request).any(|token| constant_time_eq(&token, self.0.as_bytes()))
    }
}

/// All that a client shows as tokens.
fn shown(request: &Request) -> impl Iterator<Item = Cow<'_, [u8]>> {
    let queried = queried(request)
        .filter(|(name, _)| *name == "token")
        .map(|(_, token)| percent_decode_str(token).into());
    let others = request.headers().flat_map(|(name, value)| {
        let subprotocols = match name.eq_ignore_ascii_case("sec-websocket-protocol") {
            true => value,
            false => "",
        };
        // Its characters are fewer than a header's: a browser has to encode the others.
        let offered = subprotocols
            .split(',')
            .filter_map(|offered| offered.trim().strip_prefix(SUBPROTOCOL_PREFIX))
            .map(|token| percent_decode_str(token).into());
        let bearer = match name.eq_ignore_ascii_case("authorization") {
            true => value.split_once(' '),
            false => None,
        };
        let bearer = bearer
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| Cow::from(token.trim_start().as_bytes()));
        offered.chain(bearer)
    });
    queried.chain(others)
}

/// The parts of a request's query, as they were sent: each a name and a value, which may be missing.
pub(crate) fn queried(request: &Request) -> impl Iterator<Item = (&str, &str)> {
    let parts = request.query().unwrap_or_default().split('&');
    parts.map(|part| part.split_once('=').unwrap_or((part, "")))
}
