//! A running nats-server of our own: started, restarted on the same port and store, reconfigured, stopped.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use mesh_core::config::Environment;
use nix::sys::signal::Signal;
use tokio::time::Instant;

use super::child::{Child, Guard, GuardedCommand};
use super::config::ServerConfig;
use super::error::EngineError;
use super::log;
use super::ready::{Ports, clashing_port, greeting, told_ports};

/// How long a server may take until it is ready. It takes about 20 ms; a large store takes longer.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a server may take to stop in peace.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// How long a server may take to answer to a changed configuration.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);
/// How many lines of the log an error shows.
const TAIL_LINES: usize = 12;

/// The folder of one server: its configuration, log, process id, told ports and store.
#[derive(Debug, Clone)]
struct Folder(PathBuf);

impl Folder {
    fn config(&self) -> PathBuf {
        self.0.join("nats-server.conf")
    }

    fn log(&self) -> PathBuf {
        self.0.join("nats-server.log")
    }

    fn ports(&self) -> PathBuf {
        self.0.join("ports")
    }

    /// Takes the folder for this process alone: two servers on one store would damage it.
    fn lock(&self) -> Result<File, EngineError> {
        std::fs::create_dir_all(&self.0).map_err(EngineError::file("create", &self.0))?;
        let path = self.0.join(".lock");
        let file = File::create(&path).map_err(EngineError::file("write", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(EngineError::FolderInUse { path: self.0.clone() }),
            Err(TryLockError::Error(error)) => Err(EngineError::file("lock", &path)(error)),
        }
    }

    /// Writes the configuration, and forgets the ports that an earlier server told.
    fn prepare(&self, config: &ServerConfig) -> Result<(), EngineError> {
        let ports = self.ports();
        if ports.exists() {
            std::fs::remove_dir_all(&ports).map_err(EngineError::file("clear", &ports))?;
        }
        std::fs::create_dir_all(&ports).map_err(EngineError::file("create", &ports))?;
        self.write(config)
    }

    fn write(&self, config: &ServerConfig) -> Result<(), EngineError> {
        let path = self.config();
        let text = config.to_text_in(&self.0, &self.ports())?;
        std::fs::write(&path, text).map_err(EngineError::file("write", &path))
    }
}

/// A running nats-server. Dropping it kills it; [`Server::shutdown`] stops it in peace.
#[derive(Debug)]
pub struct Server {
    child: Child,
    guard: Guard,
    binary: PathBuf,
    folder: Folder,
    config: ServerConfig,
    ports: Ports,
    /// Held for as long as the server lives.
    _lock: File,
}

impl Server {
    /// Starts `binary` with this configuration. Everything of its own lies in `folder`, which is made if need be; an existing
    /// store in it is used again. Returns when the server accepts connections and JetStream is ready.
    ///
    /// # Errors
    /// A wrong configuration, a folder or port in use, a server that ends early, is late or too old. Nothing runs on then.
    pub async fn start(guard: &Guard, binary: &Path, config: ServerConfig, folder: &Path) -> Result<Self, EngineError> {
        config.check()?;
        // The server resolves relative paths by its own folder.
        let folder = Folder(std::path::absolute(folder).map_err(EngineError::file("find", folder))?);
        let lock = folder.lock()?;
        let (child, ports) = launch(guard, binary, &config, &folder).await?;
        let (guard, binary) = (guard.clone(), binary.to_owned());
        Ok(Self { child, guard, binary, folder, config, ports, _lock: lock })
    }

    /// The address for clients on this machine: `nats://127.0.0.1:<port>`.
    #[must_use]
    pub fn client_url(&self) -> String {
        format!("nats://{}:{}", self.config.reachable_host(), self.ports.client)
    }

    /// The clients' port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.ports.client
    }

    /// The address for monitoring, if it is open.
    #[must_use]
    pub fn monitoring_url(&self) -> Option<String> {
        self.ports.monitoring.map(|port| format!("http://{}:{port}", self.config.reachable_host()))
    }

    /// The server's log.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.folder.log()
    }

    /// The server's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder.0
    }

    /// The process id of the server, or of its guard where that stays; `None` once it has ended and been awaited.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until the server ends by itself, to notice it.
    ///
    /// # Errors
    /// What the system says.
    pub async fn ended(&mut self) -> Result<ExitStatus, EngineError> {
        self.child.wait().await.map_err(process("await"))
    }

    /// The last lines of the log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        log::tail(&self.folder.log(), lines)
    }

    /// Stops it in peace, by force after 10 s.
    ///
    /// # Errors
    /// What the system says.
    pub async fn shutdown(mut self) -> Result<(), EngineError> {
        self.stop().await
    }

    /// Stops it in peace, by force after 10 s, and keeps what [`Server::restart`] needs. A stopped server is no error.
    ///
    /// # Errors
    /// What the system says.
    pub async fn stop(&mut self) -> Result<(), EngineError> {
        self.child.stop(STOP_GRACE).await.map_err(process("stop")).map(drop)
    }

    /// Ends it at once, as a crash would (SIGKILL).
    ///
    /// # Errors
    /// What the system says.
    pub async fn kill9(&mut self) -> Result<(), EngineError> {
        self.child.kill().await.map_err(process("kill")).map(drop)
    }

    /// Stops it, if it runs, and starts it again on the same ports and store.
    ///
    /// # Errors
    /// As [`Server::start`]. The server is stopped then.
    pub async fn restart(&mut self) -> Result<(), EngineError> {
        self.stop().await?;
        let config = self.config.with_ports(self.ports.client, self.ports.monitoring);
        (self.child, self.ports) = launch(&self.guard, &self.binary, &config, &self.folder).await?;
        self.config = config;
        Ok(())
    }

    /// Gives the running server another configuration: new users are let in, and shrunken permissions hold for connections that
    /// are open. Ports and store stay as they are.
    ///
    /// # Errors
    /// [`EngineError::Reload`] if the server refuses it and goes on with the old one, or does not answer in time.
    pub async fn reload(&mut self, config: ServerConfig) -> Result<(), EngineError> {
        let config = config.placed_as(&self.config);
        config.check()?;
        let offset = log::length(&self.folder.log());
        self.folder.write(&config)?;
        self.child.signal(Signal::SIGHUP).map_err(process("signal"))?;
        let reason = match self.reload_answer(offset).await {
            Ok(()) => {
                self.config = config;
                return Ok(());
            }
            Err(reason) => reason,
        };
        // The file tells the truth about the running server.
        self.folder.write(&self.config)?;
        Err(EngineError::Reload { reason, log: self.folder.log() })
    }

    async fn reload_answer(&self, offset: u64) -> Result<(), String> {
        let deadline = Instant::now() + RELOAD_TIMEOUT;
        while Instant::now() < deadline {
            let news = log::since(&self.folder.log(), offset);
            if let Some(line) = news.lines().find(|line| line.contains("Failed to reload")) {
                return Err(line.to_owned());
            }
            if news.contains("Reloaded server configuration") {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        Err(format!("it did not answer within {} s", RELOAD_TIMEOUT.as_secs()))
    }
}

fn process(doing: &'static str) -> impl FnOnce(std::io::Error) -> EngineError {
    move |source| EngineError::Process { doing, source }
}

/// How much nats-server's heap may grow between two garbage collections, in percent of what lives. A collection delays every
/// message that comes meanwhile by some milliseconds; four times as much memory is one fourth as many.
const GROWTH: (&str, &str) = ("GOGC", "400");
/// Above this it collects as often as it must to stay below, if it can.
const LIMIT: &str = "GOMEMLIMIT";

/// How the server's garbage is collected: seldom, and within half of what memory there is for this process. Whoever says something
/// of it has decided, and where nobody knows how much memory there is, the server decides.
fn collection() -> Option<[(&'static str, String); 2]> {
    let environment = Environment::from_process();
    if environment.get(GROWTH.0).or(environment.get(LIMIT)).is_some() {
        return None;
    }
    let machine = total_kib(&std::fs::read_to_string("/proc/meminfo").ok()?)?;
    // A container may have less. Without a limit the file is not there, or has a word or a number beyond all memory.
    let container = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok())
        .map(|bytes| bytes / 1024);
    let memory = container.fold(machine, u64::min);
    Some([(GROWTH.0, GROWTH.1.to_owned()), (LIMIT, format!("{}KiB", memory / 2))])
}

/// What Linux says of the machine's memory.
fn total_kib(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix("kB")?.trim().parse().ok()
}

async fn launch(
    guard: &Guard,
    binary: &Path,
    config: &ServerConfig,
    folder: &Folder,
) -> Result<(Child, Ports), EngineError> {
    folder.prepare(config)?;
    let offset = log::length(&folder.log());
    let mut command = GuardedCommand::new(guard, binary).arg("-c").arg(folder.config()).log(folder.log());
    for (name, value) in collection().into_iter().flatten() {
        command = command.env(name, value);
    }
    let mut child = command.spawn().await?;
    let outcome = tokio::select! {
        status = child.wait() => Err(died(folder, offset, status.map_err(process("await"))?)),
        ready = ready(config, folder) => ready,
    };
    match outcome {
        Ok(ports) => Ok((child, ports)),
        Err(error) => {
            child.kill().await.map_err(process("stop"))?;
            Err(error)
        }
    }
}

/// Waits until the server has told its ports, greets, is new enough and has JetStream.
async fn ready(config: &ServerConfig, folder: &Folder) -> Result<Ports, EngineError> {
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        let reason = match look(config, folder).await? {
            Ok(ports) => return Ok(ports),
            Err(reason) => reason,
        };
        if Instant::now() >= deadline {
            let (waited_ms, log) = (READY_TIMEOUT.as_millis(), folder.log());
            return Err(EngineError::NotReady { waited_ms, reason, tail: log::tail(&log, TAIL_LINES), log });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// One look: the ports, or what is still missing; an error where waiting can't help.
async fn look(config: &ServerConfig, folder: &Folder) -> Result<Result<Ports, String>, EngineError> {
    let Some(ports) = told_ports(&folder.ports()) else { return Ok(Err("it has not told its port".to_owned())) };
    let greeting = match greeting(config.reachable_host(), ports.client).await {
        Ok(greeting) => greeting,
        Err(reason) => return Ok(Err(reason)),
    };
    match greeting.version() {
        Some(version) if version.is_safe() => {}
        Some(found) => {
            let url = format!("nats://{}:{}", config.reachable_host(), ports.client);
            return Err(EngineError::TooOld { url, found });
        }
        None => return Ok(Err("its greeting has no version".to_owned())),
    }
    if config.has_jetstream() && !greeting.jetstream {
        return Ok(Err("JetStream is not ready".to_owned()));
    }
    Ok(Ok(ports))
}

fn died(folder: &Folder, offset: u64, status: ExitStatus) -> EngineError {
    let path = folder.log();
    // Only what this server wrote: an earlier one may have had another trouble.
    let text = log::since(&path, offset);
    if let Some(port) = clashing_port(&text) {
        return EngineError::PortInUse { port, log: path };
    }
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default().join("\n");
    EngineError::Died { status: status.to_string(), tail, log: path }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_memory_is_read_as_linux_says_it() {
        assert_eq!(total_kib("MemTotal:       24630000 kB\nMemFree:         1 kB\n"), Some(24_630_000));
        assert_eq!((total_kib("MemFree: 1 kB"), total_kib("MemTotal: much")), (None, None));
    }
}
