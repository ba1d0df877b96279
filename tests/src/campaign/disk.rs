//! Disks of a scenario's own, where the machine lets us mount: one that loses its power, and one that is small.
//!
//! A power cut is shown on a real ext4 in a file of its own (a loop device). The server is stopped where it stands, the file
//! system is shut down *without* flushing its journal (`EXT4_IOC_SHUTDOWN`, as xfstests does it), the server is killed, and
//! the file system is mounted again: there is then exactly what the disk had at that moment, and the journal's replay of it.
//! Everything that was written and not synced is gone, unless the kernel had written it back by itself.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};
use tempfile::TempDir;

/// Flags of `EXT4_IOC_SHUTDOWN`: do not flush the journal.
const SHUTDOWN: &str = "import fcntl,os,struct,sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";

/// A mounted file system that is gone when this is dropped.
#[derive(Debug)]
pub struct Disk {
    image: Option<PathBuf>,
    mount: PathBuf,
    _folder: TempDir,
}

fn run<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>) -> anyhow::Result<()> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("{program} is not here"))?;
    if !output.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

impl Disk {
    /// An ext4 that can lose its power.
    ///
    /// # Errors
    /// This machine does not let us: no root, no loop device, no mkfs.ext4, no Python. The scenario is skipped then.
    pub fn with_power(mebibytes: u64) -> anyhow::Result<Disk> {
        let folder = tempfile::tempdir()?;
        let (image, mount) = (folder.path().join("image"), folder.path().join("disk"));
        std::fs::create_dir(&mount)?;
        std::fs::File::create(&image)?.set_len(mebibytes << 20)?;
        run("mkfs.ext4", [OsStr::new("-q"), OsStr::new("-F"), image.as_os_str()])?;
        run("python3", ["-c", "import fcntl"])?;
        let disk = Disk { image: Some(image), mount, _folder: folder };
        disk.mount()?;
        Ok(disk)
    }

    /// A small disk in memory.
    ///
    /// # Errors
    /// This machine does not let us mount. The scenario is skipped then.
    pub fn small(mebibytes: u64) -> anyhow::Result<Disk> {
        let folder = tempfile::tempdir()?;
        let mount = folder.path().join("disk");
        std::fs::create_dir(&mount)?;
        let size = format!("size={mebibytes}m");
        run(
            "mount",
            [OsStr::new("-t"), "tmpfs".as_ref(), "-o".as_ref(), size.as_ref(), "tmpfs".as_ref(), mount.as_ref()],
        )?;
        Ok(Disk { image: None, mount, _folder: folder })
    }

    /// Makes a small disk larger.
    ///
    /// # Errors
    /// What `mount` says.
    pub fn enlarge(&self, mebibytes: u64) -> anyhow::Result<()> {
        let size = format!("remount,size={mebibytes}m");
        run("mount", [OsStr::new("-o"), size.as_ref(), self.mount.as_ref()])
    }

    /// Bytes that may still be written.
    ///
    /// # Errors
    /// What the system says.
    pub fn free(&self) -> anyhow::Result<u64> {
        let figures = nix::sys::statvfs::statvfs(&self.mount)?;
        Ok(figures.blocks_available() * figures.fragment_size())
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount
    }

    fn mount(&self) -> anyhow::Result<()> {
        let image = self.image.as_deref().context("a disk in memory has no power to lose")?;
        // No commit by itself for long: what survives was synced.
        run("mount", [OsStr::new("-o"), "loop,commit=600".as_ref(), image.as_ref(), self.mount.as_ref()])
    }

    /// The power goes: nothing more reaches the disk. Whoever writes to it must be stopped before.
    ///
    /// # Errors
    /// The kernel does not do it.
    pub fn cut(&self) -> anyhow::Result<()> {
        run("python3", [OsStr::new("-c"), SHUTDOWN.as_ref(), self.mount.as_ref()])
    }

    /// The power is back: what the disk had is mounted again. Whoever had files open there must be gone.
    ///
    /// # Errors
    /// The file system can't be mounted.
    pub fn power_on(&self) -> anyhow::Result<()> {
        run("umount", [&self.mount])?;
        self.mount()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: whatever still holds a file there is about to end.
        let _ = run("umount", [OsStr::new("-l"), self.mount.as_ref()]);
    }
}
