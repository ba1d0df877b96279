//! The program under test, built once by the cargo that runs the tests.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The path of the program `mesh`, in the profile of the tests.
///
/// # Panics
/// It does not build.
#[must_use]
#[expect(clippy::panic, reason = "a test can't go on without the program")]
pub fn mesh_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        // <target>/<profile>/deps/<test binary>
        let me = std::env::current_exe().unwrap_or_else(|error| panic!("no path of this test: {error}"));
        let Some(profile_dir) = me.parent().and_then(Path::parent) else { panic!("no profile folder above {me:?}") };
        let mut cargo = Command::new(option_env!("CARGO").unwrap_or("cargo"));
        cargo.args(["build", "--quiet", "--package", "mesh", "--bin", "mesh"]);
        if profile_dir.file_name().is_some_and(|name| name == "release") {
            cargo.arg("--release");
        }
        cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
        if let Some(target) = profile_dir.parent() {
            cargo.env("CARGO_TARGET_DIR", target);
        }
        match cargo.status() {
            Ok(status) if status.success() => profile_dir.join("mesh"),
            other => panic!("the program mesh was not built: {other:?}"),
        }
    })
}

/// How a user of this machine stands in the history of letters, by what the program writes.
///
/// # Panics
/// The machine has no name.
#[must_use]
#[expect(clippy::unwrap_used, reason = "a test on a machine without a name can't say what is expected")]
pub fn person(user: &str) -> String {
    format!("{user}@{}", nix::unistd::gethostname().unwrap().into_string().unwrap())
}
