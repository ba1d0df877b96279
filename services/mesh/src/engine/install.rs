//! Installs nats-server once into the user's cache.
//!
//! The program is built up in a folder beside its target, verified, brought to the disk and moved into place by one rename: a
//! reader sees a whole program or none. A file lock lets the second of two processes wait and use what the first installed;
//! where a file system has no locks, both install and the later rename wins, with the same bytes.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::{EngineError, Tried};
use super::find::{Binary, Environment, Origin, usable};
use super::platform::Platform;
use super::progress::{Listener, Progress};
use super::source::{Source, sources};
use super::unpack::{Unfit, unpack};
use super::version::INSTALLED;

/// How long to wait for another process that installs, before installing as well.
const LOCK_TIMEOUT: Duration = Duration::from_secs(600);
const LOCK_POLL: Duration = Duration::from_millis(50);
/// A damaged download is fetched once more; twice damaged is no accident of the line.
const FETCHES: u32 = 2;
const WORK_PREFIX: &str = ".install-";

/// Installs nats-server into the cache, or takes what another process has just installed.
///
/// # Errors
/// [`EngineError::NotInstalled`] lists every source with its reason; nothing is left behind then.
pub async fn install(environment: &Environment, listener: Listener<'_>) -> Result<Binary, EngineError> {
    install_from(environment, Platform::current(), &sources(environment), listener).await
}

async fn install_from(
    environment: &Environment,
    platform: Option<Platform>,
    sources: &[Box<dyn Source>],
    listener: Listener<'_>,
) -> Result<Binary, EngineError> {
    let target = environment.installed_path().ok_or(EngineError::NoCache)?;
    let folder = target.parent().ok_or(EngineError::NoCache)?;
    std::fs::create_dir_all(folder).map_err(EngineError::file("create", folder))?;
    // Held to the end of this function.
    let lock = lock(folder, listener).await?;
    if let Some(version) = installed_meanwhile(&target).await {
        return Ok(Binary { path: target, version, origin: Origin::Cache });
    }
    if lock.is_some() {
        sweep(folder);
    }
    let Some(platform) = platform else {
        let name = format!("{} {}", std::env::consts::OS, std::env::consts::ARCH);
        let reason = format!("no hash is known for {name}, and nothing is installed on trust");
        return Err(EngineError::NotInstalled { tried: vec![Tried { source: "installation".to_owned(), reason }] });
    };
    let mut tried = Vec::new();
    for source in sources {
        match from_source(source.as_ref(), &platform, &target, listener).await {
            Ok(()) => {
                let version = INSTALLED;
                listener(Progress::Installed { path: target.clone(), version });
                return Ok(Binary { path: target, version, origin: Origin::Installed });
            }
            Err(reason) => {
                let source = source.name().to_owned();
                listener(Progress::SourceFailed { source: source.clone(), reason: reason.clone() });
                tried.push(Tried { source, reason });
            }
        }
    }
    Err(EngineError::NotInstalled { tried })
}

async fn installed_meanwhile(target: &Path) -> Option<super::version::Version> {
    if target.exists() { usable(target).await.ok() } else { None }
}

async fn from_source(
    source: &dyn Source,
    platform: &Platform,
    target: &Path,
    listener: Listener<'_>,
) -> Result<(), String> {
    let pin = source.pin(platform)?;
    let mut reason = String::new();
    for fetch in 1..=FETCHES {
        let work = work_folder(target)?;
        listener(Progress::Downloading { source: source.name().to_owned() });
        let archive = source.fetch(platform, work.path(), listener).await?;
        let program = work.path().join("program");
        let unpacked = blocking(move || unpack(&archive, &pin, &program).map(|()| program)).await?;
        match unpacked {
            Ok(program) => return put_in_place(&program, target).await,
            Err(unfit @ Unfit::Damaged { .. }) => reason = unfit.reason(),
            Err(unfit) => return Err(unfit.reason()),
        }
        if fetch < FETCHES {
            listener(Progress::Damaged { source: source.name().to_owned(), reason: reason.clone() });
        }
    }
    Err(format!("the download is damaged, {FETCHES} times over: {reason}. It was thrown away"))
}

/// A new folder beside the target, on the same file system, so that the rename is one step. It goes when it is dropped.
fn work_folder(target: &Path) -> Result<tempfile::TempDir, String> {
    let folder = target.parent().unwrap_or(Path::new("."));
    let made = tempfile::Builder::new().prefix(WORK_PREFIX).tempdir_in(folder);
    made.map_err(|error| format!("can't write to {}: {error}", folder.display()))
}

/// Only a program that runs and says it is the right one is put in place.
async fn put_in_place(program: &Path, target: &Path) -> Result<(), String> {
    let version = usable(program).await.map_err(|reason| format!("what was fetched can't be used: {reason}"))?;
    if version != INSTALLED {
        return Err(format!("what was fetched is {version}, not {INSTALLED}"));
    }
    let moved = std::fs::rename(program, target).and_then(|()| sync_folder(target));
    moved.map_err(|error| format!("can't move the program to {}: {error}", target.display()))
}

fn sync_folder(target: &Path) -> std::io::Result<()> {
    target.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| format!("unpacking broke off: {error}"))
}

/// The lock of the cache folder; `None` where locks don't work or the holder takes too long.
async fn lock(folder: &Path, listener: Listener<'_>) -> Result<Option<File>, EngineError> {
    let path = folder.join(".lock");
    let file = File::create(&path).map_err(EngineError::file("write", &path))?;
    let started = tokio::time::Instant::now();
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::Error(_)) => return Ok(None),
            Err(TryLockError::WouldBlock) if started.elapsed() > LOCK_TIMEOUT => return Ok(None),
            Err(TryLockError::WouldBlock) => {}
        }
        if !std::mem::replace(&mut told, true) {
            listener(Progress::Waiting);
        }
        tokio::time::sleep(LOCK_POLL).await;
    }
}

/// Removes what a killed installation left. Only the holder of the lock may: anybody else's folder could be in use.
fn sweep(folder: &Path) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let left: Vec<PathBuf> =
        entries.filter(|e| e.file_name().to_string_lossy().starts_with(WORK_PREFIX)).map(|e| e.path()).collect();
    for path in left {
        // Space only: a folder that can't be removed does no harm.
        let _ = std::fs::remove_dir_all(path);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::BoxFuture;

    use super::super::platform::{Packing, Pin};
    use super::*;
    use crate::engine::testing::{leaked_hash, zip_file};

    const MEMBER: &str = "nats-server";
    const SERVER: &str = "#!/bin/sh\necho 'nats-server: v2.15.1'\n";

    /// Gives a good archive after `bad` damaged ones.
    struct Shelf {
        folder: tempfile::TempDir,
        bad: usize,
        fetched: Arc<AtomicUsize>,
    }

    impl Shelf {
        fn of(bad: usize) -> (Box<dyn Source>, Arc<AtomicUsize>) {
            let folder = tempfile::tempdir().unwrap();
            zip_file(folder.path(), &[(MEMBER, SERVER)]);
            let fetched = Arc::new(AtomicUsize::new(0));
            (Box::new(Self { folder, bad, fetched: fetched.clone() }), fetched)
        }
    }

    impl Source for Shelf {
        fn name(&self) -> &'static str {
            "the shelf"
        }

        fn pin(&self, _platform: &Platform) -> Result<Pin, String> {
            let archive_sha256 = leaked_hash(&self.folder.path().join("archive.zip"));
            Ok(Pin { packing: Packing::Zip, member: MEMBER, archive_sha256, program_sha256: None })
        }

        fn fetch<'a>(
            &'a self,
            _platform: &'a Platform,
            into: &'a Path,
            _listener: Listener<'a>,
        ) -> BoxFuture<'a, Result<PathBuf, String>> {
            Box::pin(async move {
                let mut bytes = std::fs::read(self.folder.path().join("archive.zip")).unwrap();
                if self.fetched.fetch_add(1, Ordering::SeqCst) < self.bad {
                    bytes.truncate(bytes.len() / 2);
                }
                let path = into.join("archive.zip");
                std::fs::write(&path, bytes).unwrap();
                Ok(path)
            })
        }
    }

    fn environment(folder: &Path) -> Environment {
        Environment { cache_dir: Some(folder.to_owned()), ..Environment::default() }
    }

    async fn run(folder: &Path, sources: &[Box<dyn Source>]) -> (Result<Binary, EngineError>, Vec<Progress>) {
        let mut news = Vec::new();
        let environment = environment(folder);
        let done = install_from(&environment, Platform::current(), sources, &mut |item| news.push(item)).await;
        (done, news)
    }

    fn left_in_cache(folder: &Path) -> Vec<String> {
        let target = environment(folder).installed_path().unwrap();
        let entries = std::fs::read_dir(target.parent().unwrap()).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_damaged_download_is_fetched_once_more() {
        let cache = tempfile::tempdir().unwrap();
        let (shelf, fetched) = Shelf::of(1);
        let (done, news) = run(cache.path(), &[shelf]).await;
        assert_eq!(done.unwrap().origin, Origin::Installed);
        assert_eq!(fetched.load(Ordering::SeqCst), 2);
        assert!(news.iter().any(|item| matches!(item, Progress::Damaged { .. })), "{news:?}");
        assert_eq!(left_in_cache(cache.path()), [".lock", "nats-server"]);
    }

    #[tokio::test]
    async fn a_download_damaged_twice_is_an_error_and_leaves_nothing() {
        let cache = tempfile::tempdir().unwrap();
        let (shelf, fetched) = Shelf::of(usize::MAX);
        let error = run(cache.path(), &[shelf]).await.0.unwrap_err().to_string();
        for part in
            ["the shelf", "damaged", "SHA-256 is", "expected", "Nothing was installed", "MESH_NATS_SERVER", "PATH"]
        {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert_eq!(fetched.load(Ordering::SeqCst), 2);
        assert_eq!(left_in_cache(cache.path()), [".lock"]);
    }

    #[tokio::test]
    async fn every_way_that_failed_is_listed_and_the_next_one_tried() {
        let cache = tempfile::tempdir().unwrap();
        let (bad, _) = Shelf::of(usize::MAX);
        let (good, _) = Shelf::of(0);
        let (done, news) = run(cache.path(), &[bad, good]).await;
        assert!(done.is_ok());
        assert!(news.iter().any(|item| matches!(item, Progress::SourceFailed { .. })), "{news:?}");
    }

    #[tokio::test]
    async fn two_at_once_both_succeed_and_fetch_once() {
        let cache = tempfile::tempdir().unwrap();
        let ((first, first_fetched), (second, second_fetched)) = (Shelf::of(0), Shelf::of(0));
        let (sources_a, sources_b) = ([first], [second]);
        let (a, b) = tokio::join!(run(cache.path(), &sources_a), run(cache.path(), &sources_b));
        let (a, b) = (a.0.unwrap(), b.0.unwrap());
        assert_eq!(a.path, b.path);
        assert_eq!(first_fetched.load(Ordering::SeqCst) + second_fetched.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn what_a_killed_installation_left_is_swept() {
        let cache = tempfile::tempdir().unwrap();
        let target = environment(cache.path()).installed_path().unwrap();
        std::fs::create_dir_all(target.parent().unwrap().join(".install-left")).unwrap();
        let (shelf, _) = Shelf::of(0);
        run(cache.path(), &[shelf]).await.0.unwrap();
        assert_eq!(left_in_cache(cache.path()), [".lock", "nats-server"]);
    }

    #[tokio::test]
    async fn an_unknown_platform_says_what_to_do() {
        let cache = tempfile::tempdir().unwrap();
        let (shelf, fetched) = Shelf::of(0);
        let environment = environment(cache.path());
        let error = install_from(&environment, None, &[shelf], &mut |_| {}).await.unwrap_err().to_string();
        assert!(error.contains("no hash is known") && error.contains("set MESH_NATS_SERVER"), "{error}");
        assert_eq!(fetched.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn without_a_cache_folder_nothing_is_guessed() {
        let (shelf, _) = Shelf::of(0);
        let done = install_from(&Environment::default(), Platform::current(), &[shelf], &mut |_| {}).await;
        assert!(matches!(done, Err(EngineError::NoCache)));
    }
}
