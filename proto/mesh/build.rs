//! Compiles `mesh.v1` without `protoc` and keeps its descriptors, so that tools can decode any message by name.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

#[expect(clippy::disallowed_methods, reason = "cargo tells a build script by the environment")]
fn main() -> Result<(), Box<dyn Error>> {
    let files = [
        "mesh/v1/options.proto",
        "mesh/v1/fault.proto",
        "mesh/v1/job.proto",
        "mesh/v1/letter.proto",
        "mesh/v1/outcome.proto",
        "mesh/v1/store.proto",
        "mesh/v1/keeper.proto",
    ];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("mesh_v1.fds"), descriptors.encode_to_vec())?;
    prost_build::Config::new().enable_type_names().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}
