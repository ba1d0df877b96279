//! The house checks itself: floors, places that alone may name a thing, commands of the README, sizes.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use syn::visit::Visit;

/// The floors of mesh-core. A module imports only lower ones.
const FLOORS: [&[&str]; 11] = [
    &["subject", "fault", "clock"],
    &["contract", "envelope"],
    &["policy", "identity", "telemetry"],
    &["gate", "config"],
    &["bus", "http"],
    &["store", "claim"],
    &["publish", "request"],
    &["delayed", "dead_letter", "outbox"],
    &["consume"],
    &["adapter", "operate"],
    &["mesh"],
];

/// Imports within one floor: who may know whom, and why.
const NEIGHBOURS: [(&str, &str, &str); 2] = [
    ("contract", "envelope", "a handler's context holds the trace that the envelope reads"),
    (
        "dead_letter",
        "delayed",
        "a letter lies under the lane of its consumer and keeps the attempts that the lane carried",
    ),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Every file that git keeps or would keep.
fn files(ending: &str) -> Vec<PathBuf> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let files: Vec<PathBuf> = listed.lines().filter(|l| l.ends_with(ending)).map(PathBuf::from).collect();
    assert!(!files.is_empty(), "no file ends in {ending:?}");
    files.into_iter().filter(|file| root().join(file).exists()).collect()
}

fn text(file: &Path) -> String {
    std::fs::read_to_string(root().join(file)).unwrap()
}

/// The paths that a file names: `use` trees, paths in code and in macros, without code for tests. `self` and `super` are
/// resolved, so that each path of ours begins with `crate`.
struct Paths {
    named: BTreeSet<Vec<String>>,
    /// Where the reader stands, below the root of the crate.
    place: Vec<String>,
}

impl Paths {
    fn of(source: &str, place: &[String]) -> Paths {
        let mut paths = Paths { named: BTreeSet::new(), place: place.to_vec() };
        paths.visit_file(&syn::parse_file(source).unwrap());
        paths
    }

    fn add(&mut self, path: &[String]) {
        let ups = path.iter().take_while(|word| *word == "super").count();
        let rest = if ups == 0 && path.first().is_some_and(|word| word == "self") { 1 } else { ups };
        if rest == 0 {
            self.named.insert(path.to_vec());
            return;
        }
        let above = &self.place[..self.place.len().saturating_sub(ups)];
        self.named.insert([&["crate".to_owned()], above, &path[rest..]].concat());
    }

    fn tree(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.tree(&with(&path.ident), &path.tree),
            syn::UseTree::Name(name) => self.add(&with(&name.ident)),
            syn::UseTree::Rename(rename) => self.add(&with(&rename.ident)),
            syn::UseTree::Glob(_) => self.add(&[before, &["*".to_owned()]].concat()),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(before, tree)),
        }
    }

    /// Whether a path begins with these words.
    fn name(&self, words: &[&str]) -> bool {
        self.named.iter().any(|path| path.len() >= words.len() && path.iter().zip(words).all(|(a, b)| a == b))
    }
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        _ => false,
    })
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_for_tests(&module.attrs) {
            self.place.push(module.ident.to_string());
            syn::visit::visit_item_mod(self, module);
            self.place.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_for_tests(&item.attrs) {
            self.tree(&[], &item.tree);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let words: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.add(&words);
        syn::visit::visit_path(self, path);
    }

    /// What stands in a macro's brackets is not parsed, but its paths can be read.
    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        let text = call.tokens.to_string().replace(" :: ", "::");
        for words in text.split(|c: char| !(c.is_alphanumeric() || "_:".contains(c))).filter(|w| w.contains("::")) {
            let words: Vec<String> = words.split("::").filter(|w| !w.is_empty()).map(str::to_owned).collect();
            if !words.is_empty() {
                self.add(&words);
            }
        }
        syn::visit::visit_macro(self, call);
    }
}

/// The files of mesh-core that are not tests, each with its place: `["bus", "pull"]` for `bus/pull.rs`.
fn core_files() -> Vec<(Vec<String>, PathBuf)> {
    let files = files(".rs").into_iter().filter_map(|file| {
        let inside = file.strip_prefix("mesh-core/src").ok()?.with_extension("");
        let mut place: Vec<String> = inside.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        let is_test = place.iter().any(|part| part.contains("tests"));
        if place.last()? == "mod" {
            place.pop();
        }
        (!is_test && place != ["lib"]).then_some((place, file))
    });
    files.collect()
}

fn floor_of(module: &str) -> usize {
    let floor = FLOORS.iter().position(|floor| floor.contains(&module));
    floor.unwrap_or_else(|| panic!("mesh-core/src/{module} stands on no floor: give it one"))
}

/// The types that the root gives again, each with the module that it comes from.
fn root_names() -> BTreeMap<String, String> {
    let paths = Paths::of(&text(Path::new("mesh-core/src/lib.rs")), &[]).named.into_iter();
    let types =
        paths.filter(|path| path.len() > 1 && path.last().is_some_and(|name| name.starts_with(char::is_uppercase)));
    types.filter_map(|mut path| Some((path.pop()?, path.swap_remove(0)))).collect()
}

/// What is wrong with a file of `module` that names these paths.
fn upward(module: &str, paths: &Paths) -> Vec<String> {
    let here = floor_of(module);
    let root_names = root_names();
    let named = paths.named.iter().filter(|path| path[0] == "crate" && path.len() > 1).map(|path| &path[1]);
    let modules = named.map(|name| root_names.get(name).unwrap_or(name).as_str()).filter(|name| *name != "proto");
    let wrong = modules.filter(|other| {
        let known = NEIGHBOURS.iter().any(|(from, to, _)| (from, to) == (&module, other));
        // All of the root is all of the floors.
        let there = if *other == "*" { usize::MAX } else { floor_of(other) };
        *other != module && (there > here || (there == here && !known))
    });
    let wrong: BTreeSet<&str> = wrong.collect();
    wrong.into_iter().map(str::to_owned).collect()
}

#[test]
fn no_import_runs_upward() {
    let mut wrong = Vec::new();
    for (place, file) in core_files() {
        let paths = Paths::of(&text(&file), &place);
        wrong.extend(upward(&place[0], &paths).into_iter().map(|other| format!("{}: {other}", file.display())));
    }
    assert!(wrong.is_empty(), "these import upward, or their own floor:\n{}", wrong.join("\n"));
}

#[test]
fn an_import_that_runs_upward_would_be_seen() {
    let place = ["gate".to_owned(), "seal".to_owned()];
    for source in [
        "use crate::consume::Worker;",
        "use crate::{fault::Fault, mesh::{Mesh, self}};",
        "fn f() { let x = crate::bus::Bus::new(); }",
        "mod inner { use crate::adapter::*; }",
        "use crate::config;",
        "use super::super::bus::Bus;",
        "use crate::Mesh;",
        "use crate::*;",
        "mod inner { use super::super::super::bus::{Bus}; }",
        "fn f() { tokio::select! { x = crate::bus::Bus::new() => x } }",
    ] {
        assert_eq!(upward("gate", &Paths::of(source, &place)).len(), 1, "{source}");
    }
    for source in [
        "#[cfg(test)] mod tests { use crate::mesh::Mesh; }",
        "use super::{open, seal::Sealed}; use self::inner::Inner; use crate::policy::retry;",
        "mod inner { use super::super::open; }",
        "use crate::Fault; pub(crate) struct Sealed;",
        "use super::*;",
    ] {
        assert!(upward("gate", &Paths::of(source, &place)).is_empty(), "{source}");
    }
}

#[test]
fn what_one_place_does_no_other_place_does() {
    /// What is named, and the files or folders of mesh-core that may.
    const ONCE: [(&[&str], &[&str]); 13] = [
        (&["async_nats"], &["bus/"]),
        // The exporter sends to a collector of ours, not to a vendor; the small server that shows metrics is no client.
        (&["hyper_rustls"], &["http/", "telemetry/export.rs"]),
        (&["hyper"], &["http/", "telemetry/export.rs", "telemetry/serve.rs"]),
        (&["hyper_util"], &["http/", "telemetry/export.rs", "telemetry/serve.rs"]),
        (&["tokio", "spawn"], &["clock/tasks.rs"]),
        (&["tokio", "task", "spawn"], &["clock/tasks.rs"]),
        (&["tokio", "task", "spawn_blocking"], &["clock/tasks.rs"]),
        (&["tokio", "task", "JoinSet"], &["clock/tasks.rs"]),
        (&["tokio_util", "task"], &["clock/tasks.rs"]),
        (&["std", "thread"], &["clock/tasks.rs", "clock/watchdog.rs"]),
        (&["std", "env"], &["config/environment.rs"]),
        (&["opentelemetry_otlp"], &["telemetry/"]),
        (&["sqlx"], &["outbox/"]),
    ];
    for (place, file) in core_files() {
        let paths = Paths::of(&text(&file), &place);
        let inside = file.strip_prefix("mesh-core/src").unwrap().to_string_lossy().into_owned();
        for (words, places) in ONCE {
            let may = places.iter().any(|place| inside.starts_with(place));
            assert!(may || !paths.name(words), "{inside} names {}; only {places:?} may", words.join("::"));
        }
    }
}

#[test]
fn crates_stand_on_their_floors() {
    let metadata = Command::new(option_env!("CARGO").unwrap_or("cargo"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let ours: BTreeSet<&str> = packages.iter().map(|package| package["name"].as_str().unwrap()).collect();
    let mut needs = BTreeMap::new();
    for package in packages {
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        let names = dependencies.filter(|d| d["kind"] != "dev").map(|d| d["name"].as_str().unwrap());
        needs.insert(package["name"].as_str().unwrap(), names.filter(|n| ours.contains(n)).collect::<BTreeSet<_>>());
    }
    let expected = BTreeMap::from([
        ("mesh-proto", BTreeSet::new()),
        ("mesh-build", BTreeSet::from(["mesh-proto"])),
        ("mesh-core", BTreeSet::from(["mesh-proto"])),
        ("shop-proto", BTreeSet::from(["mesh-build", "mesh-core"])),
        ("shop", BTreeSet::from(["mesh-core", "shop-proto"])),
        ("vendor-sim", BTreeSet::new()),
        ("mesh", BTreeSet::from(["mesh-core", "mesh-proto", "shop", "shop-proto", "vendor-sim"])),
    ]);
    for (name, expected) in expected {
        assert_eq!(needs[name], expected, "{name}");
    }
}

#[test]
fn the_readme_says_how_all_is_tested() {
    let says = |document| text(Path::new(document)).contains("cargo test --workspace");
    assert!(says(".ci/run") && says("README.md"));
}

#[test]
fn links_between_documents_lead_somewhere() {
    let documents = files(".md").into_iter().filter(|file| !file.starts_with("examples"));
    for file in documents {
        for link in text(&file).split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let path = link.split('#').next().unwrap();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            let target = root().join(file.parent().unwrap()).join(path);
            assert!(target.exists(), "{}: {link}", file.display());
        }
    }
}

#[test]
fn the_house_is_small_and_says_nothing_of_where_it_was_built() {
    assert!(text(Path::new("ARCHITECTURE.md")).lines().count() <= 200);
    // Put together here, so that this file does not hold them.
    let unfinished = [concat!("#[ig", "nore"), concat!("to", "do!("), concat!("unimpl", "emented!(")];
    let places = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Us", "ers/")];
    for file in files("") {
        // What is not text names no place.
        let Ok(source) = std::fs::read_to_string(root().join(&file)) else { continue };
        for banned in places {
            assert!(!source.contains(banned), "{}: {banned}", file.display());
        }
        if file.extension().is_none_or(|ending| ending != "rs") {
            continue;
        }
        let lines = source.lines().count();
        assert!(lines <= 600, "{}: {lines} lines", file.display());
        for banned in unfinished {
            assert!(!source.contains(banned), "{}: {banned}", file.display());
        }
    }
}
