//! A real PostgreSQL, where its programs are installed. The suite does not need it: who gets `None` says so and skips.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::Context as _;
use sqlx::{PgPool, postgres::PgConnectOptions, postgres::PgPoolOptions};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::within;

/// How long it may take until it answers, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server of its own for one test, reached by a socket in its folder.
pub struct TestPostgres {
    options: PgConnectOptions,
    server: Child,
    place: Place,
}

/// Where its files are, and who runs it.
struct Place {
    folder: TempDir,
    programs: PathBuf,
    user: Option<(u32, u32)>,
}

impl Place {
    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn run(&self, program: &str) -> anyhow::Result<Command> {
        let mut command = Command::new(self.programs.join(program));
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        let log = File::options().create(true).append(true).open(self.log())?;
        command.current_dir(self.data()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        Ok(command)
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Starts it, and waits until it answers. Without syncing: only processes are killed here, and the system keeps what they wrote.
    async fn serve(&self, options: &PgConnectOptions) -> anyhow::Result<Child> {
        let mut command = self.run("postgres")?;
        command.args(["-c", "listen_addresses=", "-c", "fsync=off", "-k"]).arg(self.folder.path());
        let mut server = command.arg("-D").arg(self.data()).spawn().context("postgres")?;
        let answers =
            within(PATIENCE, "PostgreSQL to answer", || async { PgPool::connect_with(options.clone()).await.ok() });
        tokio::select! {
            ended = server.wait() => anyhow::bail!("it ended with {}: {}", ended?, std::fs::read_to_string(self.log())?),
            pool = answers => pool.close().await,
        }
        Ok(server)
    }
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
        let place = Place { folder: tempfile::tempdir()?, programs, user: unprivileged()? };
        std::fs::create_dir(place.data())?;
        if let Some((uid, gid)) = place.user {
            for path in [place.folder.path(), &place.data()] {
                std::os::unix::fs::chown(path, Some(uid), Some(gid))?;
            }
        }
        let made = place
            .run("initdb")?
            .args(["--username=mesh", "--auth=trust", "--locale=C", "--encoding=UTF8", "--no-sync", "-D"])
            .arg(place.data())
            .status()
            .await?;
        anyhow::ensure!(made.success(), "initdb: {made}: {}", std::fs::read_to_string(place.log())?);
        let options =
            PgConnectOptions::new_without_pgpass().socket(place.folder.path()).username("mesh").database("postgres");
        let server = place.serve(&options).await?;
        Ok(Some(TestPostgres { options, server, place }))
    }

    /// Ends it as a crash does, with all its connections, and starts it again on the same files.
    ///
    /// # Errors
    /// It can't be killed.
    ///
    /// # Panics
    /// It does not start again.
    pub async fn kill9_and_restart(&mut self) -> anyhow::Result<()> {
        self.server.kill().await?;
        // The processes that served its connections see that it is gone, and end. Until then another one does not start, and says why.
        let serve = || async { self.place.serve(&self.options).await.inspect_err(|why| eprintln!("{why}")).ok() };
        self.server = within(PATIENCE, "PostgreSQL on the same files", serve).await;
        Ok(())
    }

    /// Its address for other processes.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://mesh@localhost/postgres?host={}", self.place.folder.path().display())
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
