//! Which clusters run on this machine, so that a command in another terminal finds them.
//!
//! A running cluster has a file `clusters/<name>.json` in the state folder (`MESH_STATE_DIR`, else `$XDG_STATE_HOME/mesh`,
//! else `~/.local/state/mesh`). One whose process has ended is stale: it is not seen, and it is removed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mesh_core::config::Environment;
use mesh_core::fault::{Code, Effect, Fault, Reason};
use mesh_core::identity::Credential;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

/// What a command needs to reach a running cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterContext {
    /// Its name: what `--cluster` takes.
    pub name: String,
    /// The broker's address for clients.
    pub url: String,
    /// The region.
    pub region: String,
    /// The `mesh` process that holds it.
    pub pid: u32,
    /// When it was started, Unix milliseconds.
    pub started_at_ms: i64,
    /// Its folder.
    pub folder: PathBuf,
    /// Whether the folder goes with the cluster.
    #[serde(default)]
    pub temporary: bool,
    /// The mesh file that it runs by.
    pub mesh_file: PathBuf,
    /// The file with the seed of each user, by the user's name.
    pub seeds: BTreeMap<String, PathBuf>,
    /// The address of the stand-in vendors, where there are any.
    pub vendors: Option<String>,
}

impl ClusterContext {
    /// The credential of a user: a service's name, or [`OPERATOR`](super::OPERATOR).
    ///
    /// # Errors
    /// The cluster has no such user, or its seed can't be read.
    pub fn credential(&self, user: &str) -> Result<Credential, Fault> {
        let path = self.seed_file(user)?;
        let seed = fs::read_to_string(path).map_err(|error| {
            let message = format!("the seed {} can't be read: {error}", path.display());
            Fault::new(Code::FailedPrecondition, Effect::None, Reason::SecretMissing, message)
        })?;
        Ok(Credential::Nkey(SecretString::from(seed.trim().to_owned())))
    }

    /// The file with the seed of a user.
    ///
    /// # Errors
    /// The cluster has no such user.
    pub fn seed_file(&self, user: &str) -> Result<&Path, Fault> {
        self.seeds.get(user).map(PathBuf::as_path).ok_or_else(|| {
            let known: Vec<_> = self.seeds.keys().map(String::as_str).collect();
            let message = format!("the cluster {:?} has no user {user:?}; it has {}", self.name, known.join(", "));
            Fault::new(Code::NotFound, Effect::None, Reason::UnknownName, message)
        })
    }
}

/// The clusters of this user on this machine.
#[derive(Debug, Clone)]
pub struct Registry(PathBuf);

/// A cluster's entry, for as long as this lives.
#[derive(Debug)]
pub struct Registered(PathBuf);

impl Drop for Registered {
    fn drop(&mut self) {
        // A stale entry is removed by the next who looks.
        let _ = fs::remove_file(&self.0);
    }
}

impl Registry {
    /// The registry in the state folder that the environment names.
    ///
    /// # Errors
    /// No state folder is known.
    pub fn of(environment: &Environment) -> Result<Registry, Fault> {
        state_folder(environment).map(|folder| Registry(folder.join("clusters")))
    }

    /// Enters a running cluster.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn enter(&self, context: &ClusterContext) -> Result<Registered, Fault> {
        let path = self.path(&context.name);
        write(&self.0, &path, context).map_err(|error| unwritable(&path, &error))?;
        Ok(Registered(path))
    }

    /// The clusters that run, the newest first. Entries of ended processes are removed, and their temporary folders.
    #[must_use]
    pub fn running(&self) -> Vec<ClusterContext> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut running: Vec<_> = entries.filter_map(|path| read_running(&path)).collect();
        running.sort_by_key(|context| std::cmp::Reverse(context.started_at_ms));
        running
    }

    /// The running cluster of this name, or the only one.
    ///
    /// # Errors
    /// There is none, or several run and none is named: the fault says which there are.
    pub fn find(&self, name: Option<&str>) -> Result<ClusterContext, Fault> {
        let mut running = self.running();
        let names: Vec<_> = running.iter().map(|context| context.name.clone()).collect();
        let found = match name {
            Some(name) => running.into_iter().find(|context| context.name == name),
            // What is meant for the one must not be done to another that happens to be newer.
            None if names.len() > 1 => return Err(unclear(&names)),
            None => running.pop(),
        };
        found.ok_or_else(|| missing(name, &names))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.json"))
    }
}

/// The folder for what is to stay between runs.
///
/// # Errors
/// None is known.
pub fn state_folder(environment: &Environment) -> Result<PathBuf, Fault> {
    // The XDG rules: a relative folder is to be ignored.
    let xdg = environment.get("XDG_STATE_HOME").map(PathBuf::from).filter(|folder| folder.is_absolute());
    let home = || environment.get("HOME").map(|home| Path::new(home).join(".local/state"));
    let own = environment.get("MESH_STATE_DIR").map(PathBuf::from);
    own.or_else(|| xdg.or_else(home).map(|folder| folder.join("mesh"))).ok_or_else(|| {
        let message = "no folder for state is known: set MESH_STATE_DIR to a folder that you may write";
        Fault::new(Code::FailedPrecondition, Effect::None, Reason::InvalidFile, message)
    })
}

/// Writes beside the place and moves it there: a reader sees the old file or the new one.
fn write(folder: &Path, path: &Path, context: &ClusterContext) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    let beside = path.with_extension(format!("{}.new", context.pid));
    fs::write(&beside, serde_json::to_vec_pretty(context)?)?;
    fs::rename(&beside, path)
}

fn read_running(path: &Path) -> Option<ClusterContext> {
    if path.extension()? != "json" {
        return None;
    }
    let context: ClusterContext = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    if runs(context.pid) {
        return Some(context);
    }
    // Two who look at one time: the second finds it gone.
    if context.temporary {
        let _ = fs::remove_dir_all(&context.folder);
    }
    let _ = fs::remove_file(path);
    None
}

fn runs(pid: u32) -> bool {
    i32::try_from(pid).is_ok_and(|pid| !matches!(kill(Pid::from_raw(pid), None), Err(nix::errno::Errno::ESRCH)))
}

fn unclear(names: &[String]) -> Fault {
    let message = format!("{} clusters run here and none is named: {}", names.len(), names.join(", "));
    Fault::new(Code::InvalidArgument, Effect::None, Reason::InvalidInput, message)
}

fn missing(name: Option<&str>, names: &[String]) -> Fault {
    let message = match name {
        Some(name) if !names.is_empty() => format!("no cluster {name:?} runs here; these do: {}", names.join(", ")),
        Some(name) => {
            format!("no cluster {name:?} runs here, and no other: start one with mesh dev or mesh demo --keep")
        }
        None => "no cluster runs here: start one with mesh dev or mesh demo --keep, or set MESH_NATS_URL".to_owned(),
    };
    Fault::new(Code::NotFound, Effect::None, Reason::BusUnavailable, message)
}

fn unwritable(path: &Path, error: &std::io::Error) -> Fault {
    let message =
        format!("{} can't be written: {error}; set MESH_STATE_DIR to a folder that you may write", path.display());
    Fault::new(Code::FailedPrecondition, Effect::None, Reason::InvalidFile, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(name: &str, pid: u32, started_at_ms: i64) -> ClusterContext {
        ClusterContext {
            name: name.into(),
            url: "nats://127.0.0.1:1".into(),
            region: "local".into(),
            pid,
            started_at_ms,
            folder: "/run".into(),
            temporary: false,
            mesh_file: "/run/mesh.yaml".into(),
            seeds: BTreeMap::new(),
            vendors: None,
        }
    }

    fn registry(folder: &Path) -> Registry {
        let folder = folder.to_str().unwrap();
        Registry::of(&Environment::from_iter([("MESH_STATE_DIR", folder)])).unwrap()
    }

    #[test]
    fn the_only_running_cluster_is_found_of_several_the_named_one_and_stale_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let registry = registry(folder.path());
        assert!(registry.find(None).unwrap_err().message().contains("mesh dev"));
        let me = std::process::id();
        let _old = registry.enter(&context("dev", me, 1)).unwrap();
        let newest = registry.enter(&context("demo-7", me, 2)).unwrap();
        // No process has this id: Linux counts to 4,194,304 at most.
        let _stale = registry.enter(&context("gone", 2_000_000_000, 3)).unwrap();
        let unclear = registry.find(None).unwrap_err();
        assert_eq!(unclear.reason(), Reason::InvalidInput, "{unclear}");
        assert!(unclear.message().contains("demo-7, dev"), "{unclear}");
        assert_eq!(registry.find(Some("demo-7")).unwrap().name, "demo-7");
        assert_eq!(registry.find(Some("dev")).unwrap().name, "dev");
        assert!(!registry.path("gone").exists());
        let error = registry.find(Some("gone")).unwrap_err();
        assert!(error.message().contains("demo-7, dev"), "{error}");
        drop(newest);
        assert_eq!(registry.find(None).unwrap().name, "dev");
    }

    #[test]
    fn what_a_killed_demonstration_left_behind_goes_too() {
        let folder = tempfile::tempdir().unwrap();
        let (registry, left) = (registry(folder.path()), folder.path().join("left"));
        fs::create_dir_all(left.join("broker")).unwrap();
        let gone = ClusterContext { folder: left.clone(), ..context("gone", 2_000_000_000, 3) };
        let _stays = registry.enter(&gone).unwrap();
        assert!(registry.running().is_empty() && left.exists());
        let _goes = registry.enter(&ClusterContext { temporary: true, ..gone }).unwrap();
        assert!(registry.running().is_empty() && !left.exists());
    }

    #[test]
    fn the_state_folder_follows_the_environment() {
        for (variables, expected) in [
            (vec![("MESH_STATE_DIR", "/a"), ("HOME", "/h")], "/a"),
            (vec![("XDG_STATE_HOME", "/x"), ("HOME", "/h")], "/x/mesh"),
            (vec![("XDG_STATE_HOME", "relative"), ("HOME", "/h")], "/h/.local/state/mesh"),
        ] {
            assert_eq!(state_folder(&Environment::from_iter(variables)).unwrap(), Path::new(expected));
        }
        assert!(state_folder(&Environment::default()).is_err());
    }
}
