//! Rust names of protobuf things, the same that prost gives them.

use heck::ToUpperCamelCase;
use prost_build::Module;
use prost_reflect::MessageDescriptor;

/// Packages whose code stands elsewhere: protobuf package (or a prefix of it) and Rust path.
#[derive(Debug, Clone)]
pub(crate) struct Externs(Vec<(String, String)>);

/// Where the runtime re-exports `mesh.v1`.
const MESH_V1: (&str, &str) = ("mesh.v1", "::mesh_core::proto::v1");

impl Externs {
    pub(crate) fn new(mut paths: Vec<(String, String)>) -> Externs {
        paths.push((MESH_V1.0.to_owned(), MESH_V1.1.to_owned()));
        // The longest prefix wins.
        paths.sort_by_key(|(package, _)| std::cmp::Reverse(package.len()));
        Externs(paths)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &(String, String)> {
        self.0.iter()
    }

    /// Rust path and rest of the package, where its code stands elsewhere.
    pub(crate) fn find<'a>(&'a self, package: &'a str) -> Option<(&'a str, &'a str)> {
        self.0.iter().find_map(|(prefix, path)| {
            let rest = package.strip_prefix(prefix.as_str())?;
            (rest.is_empty() || rest.starts_with('.')).then_some((path.as_str(), rest.trim_start_matches('.')))
        })
    }

    /// The Rust path of a message, seen from the module of the package `from`.
    pub(crate) fn path(&self, message: &MessageDescriptor, from: &str) -> String {
        let local = local_path(message);
        let package = message.package_name();
        if package == from {
            return local;
        }
        let (root, rest) = self.find(package).map_or_else(
            || (vec!["super"; modules(from).len()].join("::"), package),
            |(path, rest)| (path.to_owned(), rest),
        );
        let mut parts = vec![root];
        parts.extend(modules(rest));
        parts.push(local);
        parts.join("::")
    }
}

/// The modules of a package, from the outermost.
pub(crate) fn modules(package: &str) -> Vec<String> {
    Module::from_protobuf_package_name(package).parts().map(str::to_owned).collect()
}

/// A function or module.
pub(crate) fn snake(name: &str) -> String {
    // prost's own rule, keywords included, is public only here.
    Module::from_parts(modules(name)).parts().collect()
}

/// A type.
pub(crate) fn upper_camel(name: &str) -> String {
    let camel = name.to_upper_camel_case();
    match camel.chars().next() {
        Some(first) if first.is_numeric() => format!("_{camel}"),
        _ if camel == "Self" => "Self_".to_owned(),
        _ => camel,
    }
}

/// The path of a message within the module of its package.
pub(crate) fn local_path(message: &MessageDescriptor) -> String {
    let mut path = upper_camel(message.name());
    let mut parent = message.parent_message();
    while let Some(message) = parent {
        path = format!("{}::{path}", snake(message.name()));
        parent = message.parent_message();
    }
    path
}
