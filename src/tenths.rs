//! Numbers with one decimal, as they are shown.

use std::{fmt, time::Duration};

/// So many tenths. What formats floating-point numbers is 12 KB of the program.
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
