//! The keys of a cluster's users: one nkey each, its seed in a file that its owner alone can read.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use mesh_core::fault::{Code, Effect, Fault, Reason};
use nkeys::KeyPair;

/// A user's key: where its seed lies, and the public half that the broker knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UserKey {
    /// The file with the seed.
    pub(super) seed_file: PathBuf,
    /// `U…`
    pub(super) public: String,
}

/// The key of `user` in `folder`: the one that lies there, else a new one.
pub(super) fn key_of(folder: &Path, user: &str) -> Result<UserKey, Fault> {
    let seed_file = folder.join(format!("{user}.seed"));
    let key = match fs::read_to_string(&seed_file) {
        Ok(seed) => KeyPair::from_seed(seed.trim()).map_err(|error| unusable(&seed_file, &error))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(folder, &seed_file)?,
        Err(error) => return Err(unusable(&seed_file, &error)),
    };
    Ok(UserKey { public: key.public_key(), seed_file })
}

fn make(folder: &Path, seed_file: &Path) -> Result<KeyPair, Fault> {
    let key = KeyPair::new_user();
    let seed = key.seed().map_err(|error| unusable(seed_file, &error))?;
    let write = || {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(seed_file)?;
        file.write_all(seed.as_bytes())
    };
    write().map_err(|error: io::Error| unusable(seed_file, &error))?;
    Ok(key)
}

fn unusable(path: &Path, error: &dyn std::error::Error) -> Fault {
    let message = format!("the key {} can't be used: {error}; remove it to have a new one made", path.display());
    Fault::new(Code::FailedPrecondition, Effect::None, Reason::InvalidFile, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_is_made_once_and_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        let first = key_of(&keys, "orders").unwrap();
        assert_eq!(key_of(&keys, "orders").unwrap(), first);
        assert_ne!(key_of(&keys, "payments").unwrap().public, first.public);
        let mode = fs::metadata(&first.seed_file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_broken_key_is_told_without_its_content() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("orders.seed"), "SUSECRET").unwrap();
        let text = key_of(folder.path(), "orders").unwrap_err().to_string();
        assert!(text.contains("orders.seed") && !text.contains("SUSECRET"), "{text}");
    }
}
