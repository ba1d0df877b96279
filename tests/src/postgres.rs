//! A real PostgreSQL, where its programs are installed. The suite does not need it: who gets `None` says so and skips.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::Context as _;
use sqlx::{PgPool, postgres::PgConnectOptions, postgres::PgPoolOptions};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::eventually;

/// A server of its own for one test, reached by a socket in its folder.
pub struct TestPostgres {
    options: PgConnectOptions,
    _server: Child,
    _folder: TempDir,
}

impl TestPostgres {
    /// Starts one. `None`: `initdb` and `postgres` are neither on the PATH nor where Debian puts them.
    ///
    /// # Errors
    /// They are there and don't work.
    pub async fn start() -> anyhow::Result<Option<TestPostgres>> {
        let Some(programs) = programs() else {
            eprintln!("SKIPPED: no initdb and postgres here, so nothing is shown about PostgreSQL");
            return Ok(None);
        };
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("data");
        std::fs::create_dir(&data)?;
        let user = unprivileged()?;
        if let Some((uid, gid)) = user {
            for path in [folder.path(), &data] {
                std::os::unix::fs::chown(path, Some(uid), Some(gid))?;
            }
        }
        let run = |program: &str| {
            let mut command = Command::new(programs.join(program));
            if let Some((uid, gid)) = user {
                command.uid(uid).gid(gid);
            }
            command.current_dir(&data).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.kill_on_drop(true);
            command
        };
        let made = run("initdb")
            .args(["--username=mesh", "--auth=trust", "--locale=C", "--encoding=UTF8", "--no-sync", "-D"])
            .arg(&data)
            .status()
            .await?;
        anyhow::ensure!(made.success(), "initdb: {made}");
        let server = run("postgres")
            .args(["-c", "listen_addresses=", "-k"])
            .arg(folder.path())
            .arg("-D")
            .arg(&data)
            .spawn()
            .context("postgres")?;
        let options =
            PgConnectOptions::new_without_pgpass().socket(folder.path()).username("mesh").database("postgres");
        eventually("PostgreSQL", || async { PgPool::connect_with(options.clone()).await.ok() }).await.close().await;
        Ok(Some(TestPostgres { options, _server: server, _folder: folder }))
    }

    /// Connections to it.
    ///
    /// # Errors
    /// It is not there any more.
    pub async fn pool(&self) -> anyhow::Result<PgPool> {
        Ok(PgPoolOptions::new().max_connections(12).connect_with(self.options.clone()).await?)
    }
}

fn programs() -> Option<PathBuf> {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let path = std::env::split_paths(option_env!("PATH").unwrap_or_default()).collect::<Vec<_>>();
    let folders = debian.map(|version| version.path().join("bin")).chain(path);
    let has_both = |folder: &PathBuf| ["initdb", "postgres"].iter().all(|p| Path::is_file(&folder.join(p)));
    folders.into_iter().find(has_both)
}

/// PostgreSQL refuses to run as root: then it runs as another user of this machine.
fn unprivileged() -> anyhow::Result<Option<(u32, u32)>> {
    use nix::unistd::{User, geteuid};
    if !geteuid().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name)? {
            return Ok(Some((user.uid.as_raw(), user.gid.as_raw())));
        }
    }
    anyhow::bail!("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")
}
