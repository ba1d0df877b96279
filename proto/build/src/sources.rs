//! Finds `mesh/v1/*.proto` without the user having the files.

use protox::{
    Error,
    file::{ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver},
};
use std::path::PathBuf;

/// The sources that `mesh-proto` carries.
struct MeshFileResolver;

impl FileResolver for MeshFileResolver {
    fn open_file(&self, name: &str) -> Result<File, Error> {
        let source = mesh_proto::SOURCES.iter().find(|(path, _)| *path == name);
        let (path, text) = source.ok_or_else(|| Error::file_not_found(name))?;
        File::from_source(path, text)
    }
}

/// `mesh.v1` first, so that no older copy of it in the user's folders takes its place; then the folders; then Google's.
pub(crate) fn resolver(includes: &[PathBuf]) -> ChainFileResolver {
    let mut chain = ChainFileResolver::new();
    chain.add(MeshFileResolver);
    for include in includes {
        chain.add(IncludeFileResolver::new(include.clone()));
    }
    chain.add(GoogleFileResolver::new());
    chain
}
