//! What the engine's tests share: a guard, a real nats-server, archives.
//!
//! A unit test has no `mesh` binary at hand, so the test program plays it: started with the right words it runs one test, which
//! takes the role of the guard, or of a parent that is going to be killed.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::child::{Guard, GuardedCommand, Output};
use super::guard::guard_main;
use super::{Binary, Environment, obtain, unpack};

const ROLES: &str = "engine::testing::plays_the_program";

fn words(role: &str) -> [&str; 5] {
    [ROLES, "--exact", "--nocapture", "--", role]
}

/// A guard that becomes the program, or one that stays as on systems without a parent-death signal.
pub(super) fn guard(stay: bool) -> Guard {
    Guard::for_test(std::env::current_exe().unwrap(), &words("guard"), stay)
}

/// The test program in another role, outside of any guard.
pub(super) fn role_command(role: &str) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command.args(words(role)).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    command
}

/// As an ordinary test it shows that the guard's word list is what the program is told; with a role it plays that.
#[test]
fn plays_the_program() {
    let mut arguments = std::env::args_os().skip_while(|word| word != "--").skip(1);
    match arguments.next().as_deref().and_then(|role| role.to_str()) {
        Some("guard") => std::process::exit(exit_code(guard_main(arguments.collect::<Vec<OsString>>()))),
        Some("parent") => be_a_parent(false),
        Some("parent-staying") => be_a_parent(true),
        _ => assert_eq!(super::GUARD_WORDS, ["internal", "guard"]),
    }
}

/// `ExitCode` does not show its number, and the roles that use it only need "failed" and "succeeded".
fn exit_code(code: std::process::ExitCode) -> i32 {
    let text = format!("{code:?}");
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

/// Starts a child that would run for ten minutes, tells its id, and waits to be killed.
fn be_a_parent(stay: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // The child says "ready" itself, with the id of the program and not of the guard.
        let script = "echo ready $$; exec sleep 600";
        let command = GuardedCommand::new(&guard(stay), "/bin/sh").args(["-c", script]).output(Output::Inherited);
        let mut child = command.spawn().await.unwrap();
        child.wait().await.unwrap();
    });
}

/// A real nats-server, found or installed as any user's would be.
pub(super) async fn nats_server() -> Binary {
    static BINARY: tokio::sync::OnceCell<Binary> = tokio::sync::OnceCell::const_new();
    let get = || async { obtain(&Environment::from_process(), &mut |news| eprintln!("{news}")).await.unwrap() };
    BINARY.get_or_init(get).await.clone()
}

/// A new user's public key.
pub(super) fn public_key() -> String {
    nkeys::KeyPair::new_user().public_key()
}

/// The archive's hash, as a pin wants it.
pub(super) fn leaked_hash(archive: &Path) -> &'static str {
    unpack::sha256(archive).unwrap().leak()
}

/// A zip file with these members, whatever their names.
pub(super) fn zip_file(folder: &Path, members: &[(&str, &str)]) -> PathBuf {
    let path = folder.join("archive.zip");
    let mut writer = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    for (name, content) in members {
        writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(content.as_bytes()).unwrap();
    }
    writer.finish().unwrap();
    path
}

/// A gzipped tar file with these members.
pub(super) fn tar_gz(folder: &Path, members: &[(&str, &str)]) -> PathBuf {
    let path = folder.join("archive.tar.gz");
    let file = std::fs::File::create(&path).unwrap();
    let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(file, flate2::Compression::fast()));
    for (name, content) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap();
    path
}
