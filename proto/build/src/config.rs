//! The recipe: files in, code and descriptors out.

use std::{
    fs,
    path::{Path, PathBuf},
};

use prost::Message;
use prost_reflect::{DescriptorPool, FileDescriptor};
use prost_types::FileDescriptorSet;
use protox::Compiler;

use crate::{check, error::Error, generate, place::Files, rust_names::Externs, sources};

/// The include file, which holds the modules of all packages.
const INCLUDE_FILE: &str = "mesh_contracts.rs";
/// The encoded descriptor set beside it.
const DESCRIPTOR_FILE: &str = "mesh_contracts.fds";

/// What to compile, and where to.
#[derive(Debug, Clone, Default)]
pub struct Config {
    files: Vec<PathBuf>,
    includes: Vec<PathBuf>,
    out_dir: Option<PathBuf>,
    externs: Vec<(String, String)>,
}

impl Config {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Config {
        Config::default()
    }

    /// Adds a `.proto` file: a path below one of the include folders.
    #[must_use]
    pub fn file(mut self, path: impl AsRef<Path>) -> Config {
        self.files.push(path.as_ref().to_owned());
        self
    }

    /// Adds a folder to search for files and imports. They are searched in the order in which they were added.
    #[must_use]
    pub fn include(mut self, path: impl AsRef<Path>) -> Config {
        self.includes.push(path.as_ref().to_owned());
        self
    }

    /// Writes to this folder instead of `OUT_DIR`.
    #[must_use]
    pub fn out_dir(mut self, path: impl AsRef<Path>) -> Config {
        self.out_dir = Some(path.as_ref().to_owned());
        self
    }

    /// Says that another crate already holds the code of a package, and of the packages below it:
    /// `.extern_package("shop.orders", "::shop_proto::shop::orders")`.
    #[must_use]
    pub fn extern_package(mut self, package: &str, rust_path: &str) -> Config {
        self.externs.push((package.to_owned(), rust_path.to_owned()));
        self
    }

    /// Compiles: parses, checks the contracts, writes code, descriptors and the include file.
    ///
    /// # Errors
    /// A file can't be read or parsed, the contract is wrong, or the code can't be written.
    pub fn compile(&self) -> Result<(), Error> {
        let out_dir = self.out_dir.clone().or_else(cargo_out_dir).ok_or(Error::NoOutDir)?;
        let externs = Externs::new(self.externs.clone());

        let mut compiler = Compiler::with_file_resolver(sources::resolver(&self.includes));
        compiler.include_imports(true).include_source_info(true);
        let opened = compiler.open_files(&self.files).map(|_| ());
        rerun_if_changed(
            self.files.iter().map(PathBuf::as_path).chain(compiler.files().filter_map(|file| file.path())),
        );
        // Only the debug form names line and column.
        opened.map_err(|error| Error::Source(format!("{error:?}")))?;

        let pool = compiler.descriptor_pool();
        let own = own_files(&pool, &externs);
        let problems = check::problems(&own, &found_at(&compiler));
        if !problems.is_empty() {
            return Err(Error::Contract(problems));
        }

        let descriptors = FileDescriptorSet::decode(compiler.encode_file_descriptor_set().as_slice())
            .map_err(|error| Error::Generate(error.to_string()))?;
        for (name, text) in generate::code(descriptors, &own, &externs)? {
            write(&out_dir.join(name), text.as_bytes())?;
        }
        write(&out_dir.join(INCLUDE_FILE), generate::include_file(&own, DESCRIPTOR_FILE).as_bytes())?;
        write(&out_dir.join(DESCRIPTOR_FILE), &compiler.include_source_info(false).encode_file_descriptor_set())
    }
}

/// The files whose code is generated here.
fn own_files(pool: &DescriptorPool, externs: &Externs) -> Vec<FileDescriptor> {
    let elsewhere = |package: &str| check::is_google(package) || externs.find(package).is_some();
    pool.files().filter(|file| !elsewhere(file.package_name())).collect()
}

fn found_at(compiler: &Compiler) -> Files {
    let on_disk =
        compiler.files().filter_map(|file| Some((file.name().to_owned(), file.path()?.display().to_string())));
    Files::new(on_disk)
}

/// Writes only what has changed, so that cargo compiles nothing in vain.
fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    fs::write(path, content).map_err(|error| Error::Write { path: path.to_owned(), error })
}

#[expect(clippy::disallowed_methods, reason = "cargo tells a build script its folder in the environment")]
fn cargo_out_dir() -> Option<PathBuf> {
    std::env::var_os("OUT_DIR").map(PathBuf::from)
}

#[expect(clippy::print_stdout, reason = "a build script speaks to cargo on stdout")]
fn rerun_if_changed<'a>(paths: impl Iterator<Item = &'a Path>) {
    for path in paths {
        println!("cargo:rerun-if-changed={}", path.display());
    }
}
