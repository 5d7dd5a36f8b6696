//! Numbers and times, as they are shown. What the standard library has for the same is 15 KB of the program.

use std::{fmt, time::Duration};

/// So many tenths.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tenths(u64);

impl Tenths {
    pub(crate) fn seconds(time: Duration) -> Self {
        Self(time.as_secs() * 10 + u64::from(time.subsec_millis() + 50) / 100)
    }

    #[cfg(all(feature = "systemd", target_os = "linux"))]
    pub(crate) fn mebibytes(bytes: usize) -> Self {
        const MIB: u64 = 1024 * 1024;

        let bytes = bytes as u64;
        Self(bytes / MIB * 10 + (bytes % MIB * 10 + MIB / 2) / MIB)
    }
}

impl fmt::Display for Tenths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 / 10, self.0 % 10)
    }
}

/// A time that somebody chose, in the largest unit of which it is a multiple.
pub(crate) struct Time(pub(crate) Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.subsec_nanos();
        let (per_second, unit) = match nanos {
            0 => (1, "s"),
            _ if nanos % 1_000_000 == 0 => (1_000, "ms"),
            _ if nanos % 1_000 == 0 => (1_000_000, "us"),
            _ => (1_000_000_000, "ns"),
        };
        let part = u64::from(nanos) * per_second / 1_000_000_000;
        let count = self
            .0
            .as_secs()
            .saturating_mul(per_second)
            .saturating_add(part);
        write!(f, "{count}{unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_rounded() {
        let seconds = |millis| Tenths::seconds(Duration::from_millis(millis)).to_string();
        assert_eq!(
            [0, 49, 50, 1949, 1950].map(seconds),
            ["0.0", "0.0", "0.1", "1.9", "2.0"]
        );
    }

    #[test]
    fn times_are_as_they_were_chosen() {
        let time = |millis| Time(Duration::from_millis(millis)).to_string();
        assert_eq!(
            [10_000, 1500, 50, 0].map(time),
            ["10s", "1500ms", "50ms", "0s"]
        );
    }

    #[cfg(all(feature = "systemd", target_os = "linux"))]
    #[test]
    fn any_number_of_bytes_can_be_told() {
        let mebibytes = |bytes| Tenths::mebibytes(bytes).to_string();
        assert_eq!(
            [0, 52_428, 52_429, 32 << 20].map(mebibytes),
            ["0.0", "0.0", "0.1", "32.0"]
        );
        assert!(mebibytes(usize::MAX).len() > 5);
    }
}
