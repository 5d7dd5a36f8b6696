//! The values of flags, and what is told of a mistake in them.

use lexopt::{Parser, ValueExt};
use std::{
    error::Error,
    fmt,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::FileTypeExt,
    path::Path,
    time::Duration,
};
use whit::Policy;

/// A mistake in the command line. It quotes what the user gave.
#[derive(Debug)]
pub(crate) struct Mistake(pub(crate) String);

impl From<lexopt::Error> for Mistake {
    fn from(error: lexopt::Error) -> Self {
        Self(error.to_string())
    }
}

impl Error for Mistake {}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The next argument as the value of `flag`.
pub(crate) fn value<T>(
    args: &mut Parser,
    flag: &str,
    parse: impl Fn(&str) -> Result<T, &'static str>,
) -> Result<T, lexopt::Error> {
    let text = text(args)?;
    parse(&text).map_err(|rule| not_one(flag, &text, rule))
}

/// The next argument. It and the next stand apart, or each flag has them in the program.
#[inline(never)]
pub(crate) fn text(args: &mut Parser) -> Result<String, lexopt::Error> {
    args.value()?.string()
}

#[cold]
fn not_one(flag: &str, text: &str, rule: &str) -> lexopt::Error {
    format!("{flag} {text}: {rule}").into()
}

pub(crate) fn or_off<T>(
    text: &str,
    parse: impl Fn(&str) -> Result<T, &'static str>,
) -> Result<Option<T>, &'static str> {
    if text == "off" {
        Ok(None)
    } else {
        parse(text).map(Some)
    }
}

pub(crate) fn count(text: &str) -> Result<usize, &'static str> {
    text.parse().map_err(|_| "not a whole number")
}

/// What becomes of slow subscribers, once the number of messages is known.
pub(crate) fn policy(text: &str) -> Result<fn(usize) -> Policy, &'static str> {
    match text {
        "drop-oldest" => Ok(Policy::DropOldest),
        "drop-newest" => Ok(Policy::DropNewest),
        "latest" => Ok(|_| Policy::Latest),
        "close" => Ok(Policy::Close),
        _ => Err("not one of drop-oldest, drop-newest, latest and close"),
    }
}

pub(crate) fn at_least_one(
    parse: impl Fn(&str) -> Result<usize, &'static str>,
) -> impl Fn(&str) -> Result<usize, &'static str> {
    move |text| match parse(text)? {
        0 => Err("at least 1"),
        number => Ok(number),
    }
}

pub(crate) fn mode(text: &str) -> Result<u32, &'static str> {
    match u32::from_str_radix(text, 8) {
        Ok(mode @ ..=0o777) if text.len() >= 3 && !text.starts_with('+') => Ok(mode),
        _ => Err("not a mode: three octal digits such as 660"),
    }
}

pub(crate) fn size(text: &str) -> Result<usize, &'static str> {
    const RULE: &str = "not a size: a number of bytes, or one with a unit such as 64KiB or 1MiB";
    let (number, unit) = number_and_unit(text).ok_or(RULE)?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(RULE),
    };
    let bytes = number
        .checked_mul(factor)
        .and_then(|bytes| usize::try_from(bytes).ok());
    bytes.ok_or("more than this machine can count")
}

pub(crate) fn time(text: &str) -> Result<Duration, &'static str> {
    const RULE: &str =
        "not a time: a number of seconds, or one with a unit such as 500ms, 2s or 1m";
    let (number, unit) = number_and_unit(text).ok_or(RULE)?;
    let millis = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(RULE),
    };
    number
        .checked_mul(millis)
        .map(Duration::from_millis)
        .ok_or("longer than anyone can wait")
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// A file of flags, or of another word of the user's, none of which is that long.
pub(crate) fn read_file(file: &Path) -> io::Result<String> {
    const MOST_BYTES: u64 = 64 * 1024;
    // A pipe's words come once, and who reads them again waits for ever.
    if fs::metadata(file)?.file_type().is_fifo() {
        return Err(io::Error::other("a pipe cannot be read again"));
    }
    let mut text = String::new();
    let count = File::open(file)?
        .take(MOST_BYTES)
        .read_to_string(&mut text)?;
    match count as u64 {
        MOST_BYTES => Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "longer than 64 KiB",
        )),
        _ => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("512"), Ok(512));
        assert_eq!(size("64KiB"), Ok(65536));
        assert_eq!(size("2MiB"), Ok(2 << 20));
        for bad in [
            "",
            "KiB",
            "64kb",
            "-1",
            "1.5MiB",
            "99999999999999999999",
            "64 KiB",
        ] {
            assert!(size(bad).is_err(), "{bad:?}");
        }
        assert!(size("99999999999999GiB").is_err());
    }

    #[test]
    fn a_policy_has_a_capacity() {
        let policies = ["drop-oldest", "drop-newest", "latest", "close"];
        assert_eq!(
            policies.map(|text| policy(text).unwrap()(5)),
            [
                Policy::DropOldest(5),
                Policy::DropNewest(5),
                Policy::Latest,
                Policy::Close(5)
            ]
        );
    }

    #[test]
    fn a_mode_is_octal() {
        assert_eq!(mode("660"), Ok(0o660));
        assert_eq!(mode("0600"), Ok(0o600));
        for bad in ["", "6", "888", "1777", "rw-", "-60", "+66", "0o660"] {
            assert!(mode(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times_have_units() {
        assert_eq!(time("1"), Ok(Duration::from_secs(1)));
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(time("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "s", "1.5", "-1s", "1d", "18446744073709551615h"] {
            assert!(time(bad).is_err(), "{bad:?}");
        }
    }
}
