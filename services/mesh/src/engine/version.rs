//! The version of a nats-server: read from its own words, compared with the floor.

use std::fmt;

/// The oldest server that Mesh talks to. The security notes of 2026 (permissions bypassed by overlapping deny rules and
/// by queue subscriptions, forged request headers) are mended from this version on.
pub const FLOOR: Version = Version { major: 2, minor: 14, patch: 3, release_candidate: false };

/// The version that is installed when none is at hand.
pub const INSTALLED: Version = Version { major: 2, minor: 15, patch: 1, release_candidate: false };

/// A server's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    major: u32,
    minor: u32,
    patch: u32,
    release_candidate: bool,
}

impl Version {
    /// Reads `2.15.1`, `v2.15.1` or `2.15.0-RC.2`. `None` where the text is no version.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix('v').unwrap_or(text);
        let (numbers, suffix) = text.split_once('-').map_or((text, None), |(left, right)| (left, Some(right)));
        let mut parts = numbers.split('.').map(number);
        let version = Self {
            major: parts.next()??,
            minor: parts.next()??,
            patch: parts.next()??,
            release_candidate: suffix.is_some(),
        };
        parts.next().is_none().then_some(version)
    }

    /// Reads what `nats-server --version` prints: `nats-server: v2.15.1`.
    #[must_use]
    pub fn from_output(output: &str) -> Option<Self> {
        output.lines().find_map(|line| Self::parse(line.trim().strip_prefix("nats-server:")?))
    }

    /// True if this version is new enough for Mesh.
    #[must_use]
    pub fn is_safe(self) -> bool {
        self >= FLOOR
    }
}

fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // A release candidate comes before its release.
        let key = |version: &Self| (version.major, version.minor, version.patch, !version.release_candidate);
        key(self).cmp(&key(other))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = if self.release_candidate { " (release candidate)" } else { "" };
        write!(formatter, "{}.{}.{}{suffix}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_server_prints() {
        assert_eq!(Version::from_output("nats-server: v2.15.1\n"), Some(INSTALLED));
        assert_eq!(Version::from_output("warning\nnats-server: v2.14.3\n"), Some(FLOOR));
    }

    #[test]
    fn refuses_what_is_no_version() {
        for text in ["", "2", "2.15", "2.15.1.4", "2.15.x", "2.+15.1", "nats", "2..1"] {
            assert_eq!(Version::parse(text), None, "{text:?}");
        }
        assert_eq!(Version::from_output("GNU bash 5.2.1"), None);
    }

    #[test]
    fn compares_by_number_and_puts_candidates_first() {
        let order = ["2.9.30", "2.14.2", "2.14.3-RC.1", "2.14.3", "2.14.10", "2.15.0", "3.0.0"];
        let versions: Vec<Version> = order.iter().filter_map(|text| Version::parse(text)).collect();
        assert_eq!(versions.len(), order.len());
        assert!(versions.is_sorted());
        let safe: Vec<bool> = versions.iter().map(|version| version.is_safe()).collect();
        assert_eq!(safe, [false, false, false, true, true, true, true]);
    }
}
