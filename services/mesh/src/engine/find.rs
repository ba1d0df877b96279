//! Finds a nats-server: `MESH_NATS_SERVER`, then PATH, then the user's cache.
//!
//! What is named by hand must work, or it is an error: falling through would run another server than the one asked for. What
//! merely lies about on PATH is passed over with a reason when it is too old.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use backon::{ConstantBuilder, Retryable as _};

use super::error::{EngineError, floor_reason};
use super::progress::{Listener, Progress};
use super::version::{INSTALLED, Version};

/// How long `nats-server --version` may take. It takes about 20 ms.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// What the search depends on, passed in so that a test can choose it.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `MESH_NATS_SERVER`: the one program to use.
    pub mesh_nats_server: Option<PathBuf>,
    /// `PATH`, as the process has it.
    pub path: Option<OsString>,
    /// The folder for caches of all programs; ours is `mesh` in it.
    pub cache_dir: Option<PathBuf>,
}

impl Environment {
    /// Reads `MESH_NATS_SERVER`, `PATH`, `MESH_CACHE_DIR`, `XDG_CACHE_HOME` and `HOME`. An empty variable counts as unset.
    #[must_use]
    pub fn from_process() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "the engine's one look at the environment; all else is passed in"
        )]
        let read = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        Self::from_variables(read)
    }

    fn from_variables(read: impl Fn(&str) -> Option<OsString>) -> Self {
        let path = |name| read(name).map(PathBuf::from);
        // The XDG rules: a relative XDG_CACHE_HOME is to be ignored.
        let xdg = path("XDG_CACHE_HOME").filter(|folder| folder.is_absolute());
        let home = || path("HOME").map(|home| home.join(".cache"));
        Self {
            mesh_nats_server: path("MESH_NATS_SERVER"),
            path: read("PATH"),
            cache_dir: path("MESH_CACHE_DIR").or(xdg).or_else(home),
        }
    }

    /// Where the installed nats-server lies, or would lie.
    #[must_use]
    pub fn installed_path(&self) -> Option<PathBuf> {
        Some(self.cache_dir.as_ref()?.join("mesh").join(format!("nats-server-{INSTALLED}")).join("nats-server"))
    }

    /// Every program of this name on PATH, in order.
    pub(super) fn programs(&self, name: &str) -> Vec<PathBuf> {
        let folders = std::env::split_paths(self.path.as_deref().unwrap_or(OsStr::new("")));
        // A relative entry would make the answer depend on the current folder.
        folders.filter(|folder| folder.is_absolute()).map(|folder| folder.join(name)).filter(|p| p.is_file()).collect()
    }
}

/// How a nats-server was come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Named by `MESH_NATS_SERVER`.
    Variable,
    /// Found on PATH.
    Path,
    /// Installed earlier, into the user's cache.
    Cache,
    /// Installed just now.
    Installed,
}

/// A nats-server that answers and is new enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binary {
    /// The program.
    pub path: PathBuf,
    /// Its version, from its own mouth.
    pub version: Version,
    /// How it was come by.
    pub origin: Origin,
}

/// Looks for a usable nats-server. `None` if there is none: then it may be installed.
///
/// # Errors
/// [`EngineError::Variable`] if `MESH_NATS_SERVER` is set and names nothing usable.
pub async fn find(environment: &Environment, listener: Listener<'_>) -> Result<Option<Binary>, EngineError> {
    if let Some(path) = &environment.mesh_nats_server {
        let version = usable(path).await.map_err(|reason| EngineError::Variable { path: path.clone(), reason })?;
        return Ok(Some(Binary { path: path.clone(), version, origin: Origin::Variable }));
    }
    let on_path = environment.programs("nats-server").into_iter().map(|path| (path, Origin::Path));
    let in_cache = environment.installed_path().filter(|path| path.exists()).map(|path| (path, Origin::Cache));
    for (path, origin) in on_path.chain(in_cache) {
        match usable(&path).await {
            Ok(version) => return Ok(Some(Binary { path, version, origin })),
            Err(reason) => listener(Progress::PassedOver { path, reason }),
        }
    }
    Ok(None)
}

/// Asks the program for its version, and says why it can't be used.
pub(super) async fn usable(program: &Path) -> Result<Version, String> {
    let ask = || {
        let mut command = tokio::process::Command::new(program);
        command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
        async move { command.output().await }
    };
    // A program that was written a moment ago counts as busy while any other thread is between its fork and its exec.
    let pace = ConstantBuilder::default().with_delay(Duration::from_millis(20)).with_max_times(50);
    let asking = ask.retry(pace).when(|error| error.kind() == io::ErrorKind::ExecutableFileBusy);
    let output = tokio::time::timeout(VERSION_TIMEOUT, asking)
        .await
        .map_err(|_| format!("it did not tell its version within {} s", VERSION_TIMEOUT.as_secs()))?
        .map_err(|error| format!("it can't be run: {error}"))?;
    let version = Version::from_output(&String::from_utf8_lossy(&output.stdout))
        .ok_or_else(|| "it does not answer --version as nats-server does".to_owned())?;
    if version.is_safe() { Ok(version) } else { Err(format!("it is {version}, and {}", floor_reason())) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A stand-in that says it is this version: the search asks nothing else.
    fn server(folder: &Path, version: &str) -> PathBuf {
        fs::create_dir_all(folder).unwrap();
        let path = folder.join("nats-server");
        fs::write(&path, format!("#!/bin/sh\necho 'nats-server: v{version}'\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    async fn search(environment: &Environment) -> (Result<Option<Binary>, EngineError>, Vec<Progress>) {
        let mut news = Vec::new();
        let found = find(environment, &mut |item| news.push(item)).await;
        (found, news)
    }

    struct Place {
        folder: tempfile::TempDir,
        environment: Environment,
    }

    fn place() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let path = std::env::join_paths([folder.path().join("a"), folder.path().join("b")]).unwrap();
        let cache_dir = Some(folder.path().join("cache"));
        Place { environment: Environment { mesh_nats_server: None, path: Some(path), cache_dir }, folder }
    }

    #[tokio::test]
    async fn the_variable_comes_before_path_and_path_before_the_cache() {
        let Place { folder, mut environment } = place();
        assert_eq!(search(&environment).await.0.unwrap(), None);
        let installed = environment.installed_path().unwrap();
        server(installed.parent().unwrap(), "2.15.1");
        assert_eq!(search(&environment).await.0.unwrap().unwrap().origin, Origin::Cache);
        let on_path = server(&folder.path().join("b"), "2.14.3");
        let found = search(&environment).await.0.unwrap().unwrap();
        assert_eq!((found.origin, &found.path), (Origin::Path, &on_path));
        let named = server(&folder.path().join("named"), "2.16.0");
        environment.mesh_nats_server = Some(named.clone());
        let found = search(&environment).await.0.unwrap().unwrap();
        assert_eq!((found.origin, &found.path), (Origin::Variable, &named));
    }

    #[tokio::test]
    async fn an_old_server_on_path_is_passed_over_with_the_reason() {
        let Place { folder, environment } = place();
        let old = server(&folder.path().join("a"), "2.14.2");
        let new = server(&folder.path().join("b"), "2.15.0");
        let (found, news) = search(&environment).await;
        assert_eq!(found.unwrap().unwrap().path, new);
        let [Progress::PassedOver { path, reason }] = news.as_slice() else { panic!("{news:?}") };
        assert_eq!(path, &old);
        assert!(reason.contains("2.14.2") && reason.contains("2.14.3") && reason.contains("security"), "{reason}");
    }

    #[tokio::test]
    async fn a_variable_that_is_no_use_is_an_error_and_not_a_fall_through() {
        let Place { folder, mut environment } = place();
        server(&folder.path().join("a"), "2.15.1");
        environment.mesh_nats_server = Some(folder.path().join("nowhere"));
        let error = search(&environment).await.0.unwrap_err().to_string();
        assert!(error.contains("MESH_NATS_SERVER") && error.contains("nowhere") && error.contains("unset"), "{error}");
        environment.mesh_nats_server = Some(server(&folder.path().join("old"), "2.10.0"));
        let error = search(&environment).await.0.unwrap_err().to_string();
        assert!(error.contains("2.10.0") && error.contains("2.14.3"), "{error}");
    }

    #[test]
    fn the_cache_folder_follows_the_variables() {
        let from = |pairs: &[(&str, &str)]| {
            let read = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
            Environment::from_variables(read).cache_dir
        };
        let all = [("MESH_CACHE_DIR", "/m"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(from(&all), Some("/m".into()));
        assert_eq!(from(&all[1..]), Some("/x".into()));
        assert_eq!(from(&all[2..]), Some("/h/.cache".into()));
        assert_eq!(from(&[("XDG_CACHE_HOME", "relative"), ("HOME", "/h")]), Some("/h/.cache".into()));
        assert_eq!(from(&[]), None);
    }
}
