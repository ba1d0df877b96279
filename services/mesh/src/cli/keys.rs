//! `mesh keys`: an nkey and an allow-list for each service of a mesh file, for servers that run elsewhere.

use std::{fs, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path};

use anyhow::Context as _;
use mesh_core::config::{Problems, mesh_file};
use serde_json::json;

use super::{GlobalArgs, Output, Status, arguments::KeysArgs, check, contracts};
use crate::cluster;

/// The block of users, to be included by the servers' configurations.
const USERS: &str = "users.conf";
/// What `docker compose --env-file` needs: the password between servers, and whose files these are.
const COMPOSE: &str = "compose.env";

pub(super) fn run(args: &KeysArgs, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    let text = check::read(&args.config)?;
    let name = args.config.display().to_string();
    let file = mesh_file::load(&name, &text, &contracts::catalog(global)?).map_err(anyhow::Error::new::<Problems>)?;
    let users = cluster::make_keys(&file, &args.out)?;
    // Public keys and allow-lists: the server's user has to read them.
    fs::write(args.out.join(USERS), users).with_context(|| format!("{USERS} can't be written"))?;
    write_compose(&args.out.join(COMPOSE))?;
    let services: Vec<_> = file.declarations.iter().map(|declaration| declaration.service.to_string()).collect();
    if output.is_json() {
        output.json(&json!({ "folder": args.out, "services": services }))?;
    } else {
        output.line(&format!(
            "{}: a seed for each of {}, operator, keeper and mesh; {USERS}; {COMPOSE}",
            args.out.display(),
            services.join(", ")
        ))?;
    }
    Ok(Status::Ok)
}

/// The password is made once: servers that run already know it.
fn write_compose(path: &Path) -> anyhow::Result<()> {
    let mut options = fs::OpenOptions::new();
    match options.write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            let (user, group) = (nix::unistd::Uid::current(), nix::unistd::Gid::current());
            write!(file, "MESH_ROUTE_PASSWORD={}{}\nMESH_UID={user}\nMESH_GID={group}\n", nuid::next(), nuid::next())
                .with_context(|| format!("{} can't be written", path.display()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error).with_context(|| format!("{} can't be written", path.display())),
    }
}
