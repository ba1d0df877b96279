//! The mesh file: which services there are, and what each of them does.
//!
//! It is the source of every permission, stream and consumer. A file that loads fits its contracts: events and operations
//! exist, an event has one publisher, and queued work has one service that works it off.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    problem::{Place, Problems, Report, hint},
    yaml::{self, Fields, Key, Node, Value},
};
use crate::{
    contract::Catalog,
    policy::compile::{Consumes, Declaration},
    subject::Name,
};

/// The keys at the top of the file.
const KEYS: &[&str] = &["region", "services"];
/// The keys of a service.
/// The keys of a consumer that says more than its event.
const CONSUMER_KEYS: &[&str] = &["event", "ordered"];
const SERVICE_KEYS: &[&str] = &["publishes", "consumes", "calls", "enqueues", "serves"];
/// The region where the file names none.
const REGION: &str = "local";

/// A mesh file, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshFile {
    /// Where it runs.
    pub region: Name,
    /// What each service does, in the order of the file.
    pub declarations: Vec<Declaration>,
}

impl MeshFile {
    /// What the service of this name declares.
    #[must_use]
    pub fn declaration(&self, service: &str) -> Option<&Declaration> {
        self.declarations.iter().find(|declaration| declaration.service.as_str() == service)
    }
}

/// Reads and checks a mesh file. `file` is its name for errors, `text` what stands in it.
///
/// # Errors
/// Everything that is wrong, each with its place.
pub fn load(file: &str, text: &str, catalog: &Catalog) -> Result<MeshFile, Problems> {
    let mut reader = Reader { catalog, report: Report::new(file, text), servers: BTreeMap::new() };
    let root = yaml::parse(text, &mut reader.report);
    match root.and_then(|root| reader.top(&root)) {
        Some(file) if reader.report.len() == 0 => Ok(file),
        _ => Err(reader.report.into_problems()),
    }
}

struct Reader<'a> {
    catalog: &'a Catalog,
    report: Report,
    /// Who serves an operation: queued work has one consumer.
    servers: BTreeMap<(String, String), Name>,
}

impl Reader<'_> {
    fn top(&mut self, root: &Node) -> Option<MeshFile> {
        let fields = root.fields(KEYS, &mut self.report)?;
        let region = match fields.get("region") {
            Some(node) => self.region(node),
            None => REGION.parse().ok(),
        };
        let services = fields.need("services", &mut self.report)?;
        let entries = services.entries("a service's name and what it does", &mut self.report)?;
        let mut seen = BTreeSet::new();
        let mut declarations = Vec::with_capacity(entries.len());
        for (key, node) in entries {
            if !seen.insert(key.name.as_str()) {
                self.report.add(key.place, format!("the service {:?} stands in the file twice", key.name));
            }
            declarations.extend(self.service(key, node));
        }
        Some(MeshFile { region: region?, declarations })
    }

    fn region(&mut self, node: &Node) -> Option<Name> {
        let text = node.text("the region's name", &mut self.report)?;
        self.name(text, node.place)
    }

    fn name(&mut self, text: &str, place: Place) -> Option<Name> {
        let name = text.parse();
        name.map_err(|error: crate::subject::InvalidName| self.report.add(place, error.to_string())).ok()
    }

    fn service(&mut self, key: &Key, node: &Node) -> Option<Declaration> {
        let service = self.name(&key.name, key.place);
        // A service that says nothing does nothing.
        if matches!(node.value, Value::Null) {
            return service.map(Declaration::new);
        }
        let fields = node.fields(SERVICE_KEYS, &mut self.report)?;
        let mut declaration = Declaration::new(service?);
        self.publishes(fields, &mut declaration);
        self.consumes(fields, &mut declaration);
        declaration.calls = self.operations(fields, "calls").into_iter().map(|(name, _)| name).collect();
        declaration.enqueues = self.operations(fields, "enqueues").into_iter().map(|(name, _)| name).collect();
        self.serves(fields, &mut declaration);
        Some(declaration)
    }

    fn publishes(&mut self, fields: Fields<'_>, declaration: &mut Declaration) {
        for (name, place) in self.texts(fields, "publishes", "events") {
            let Some(producer) = self.producer(name, place) else { continue };
            if producer != declaration.service.as_str() {
                let what = format!(
                    "{name} is published by {producer:?}, as its contract states, not by {:?}",
                    declaration.service.as_str()
                );
                self.report.add(place, what);
                continue;
            }
            declaration.publishes.insert(name.to_owned());
        }
    }

    fn consumes(&mut self, fields: Fields<'_>, declaration: &mut Declaration) {
        let Some(node) = fields.get("consumes") else { return };
        let entries = node.entries("a consumer's name and the event", &mut self.report).unwrap_or_default();
        for (key, node) in entries {
            let consumer = self.name(&key.name, key.place);
            let Some((event, ordered)) = self.consumed(node) else { continue };
            let (Some(consumer), Some(producer)) = (consumer, self.producer(event, node.place)) else { continue };
            if declaration.consumes.iter().any(|other| other.consumer == consumer) {
                self.report.add(key.place, format!("the consumer {:?} stands here twice", key.name));
            }
            if ordered && self.catalog.event(event).is_some_and(|entry| entry.key.is_none()) {
                let what = format!("{event} names no key in its contract, so there is no order to keep");
                self.report.add(node.place, what);
            }
            declaration.consumes.insert(Consumes { consumer, producer, event: event.to_owned(), ordered });
        }
    }

    /// `<event>`, or `{event: <event>, ordered: <whether the order of keys is kept>}`.
    fn consumed<'n>(&mut self, node: &'n Node) -> Option<(&'n str, bool)> {
        let what = "the full name of an event";
        if !matches!(node.value, Value::Map(_)) {
            return Some((node.text(what, &mut self.report)?, false));
        }
        let fields = node.fields(CONSUMER_KEYS, &mut self.report)?;
        let event = fields.need("event", &mut self.report)?.text(what, &mut self.report)?;
        let ordered = fields.get("ordered").map_or(Some(false), |node| node.boolean(&mut self.report))?;
        Some((event, ordered))
    }

    fn serves(&mut self, fields: Fields<'_>, declaration: &mut Declaration) {
        for (operation, place) in self.operations(fields, "serves") {
            match self.servers.get(&operation) {
                Some(other) if *other != declaration.service => {
                    let (rpc, method) = &operation;
                    let what = format!(
                        "{rpc}/{method} is served by {:?} already: queued work has one service that works it off",
                        other.as_str()
                    );
                    self.report.add(place, what);
                }
                _ => {
                    self.servers.insert(operation.clone(), declaration.service.clone());
                    declaration.serves.insert(operation);
                }
            }
        }
    }

    /// The operations under a key: each by its full name, or all of an rpc service by its name.
    fn operations(&mut self, fields: Fields<'_>, key: &str) -> Vec<((String, String), Place)> {
        let mut found = Vec::new();
        for (name, place) in self.texts(fields, key, "operations") {
            let catalog = self.catalog;
            let of_service =
                catalog.operations().filter(|entry| entry.info.service == name || entry.info.full_name() == name);
            let before = found.len();
            found.extend(
                of_service.map(|entry| ((entry.info.service.to_string(), entry.info.method.to_string()), place)),
            );
            if found.len() == before {
                let operations: Vec<String> = catalog.operations().map(|entry| entry.info.full_name()).collect();
                let known =
                    operations.iter().map(String::as_str).chain(catalog.operations().map(|entry| &*entry.info.service));
                let near = hint(name, known.collect::<BTreeSet<_>>());
                self.report.add(place, format!("no operation is called {name:?}{near}"));
            }
        }
        found
    }

    /// Who publishes the event of this name; a report where there is none.
    fn producer(&mut self, event: &str, place: Place) -> Option<String> {
        let producer = self.catalog.event(event).map(|entry| entry.producer.clone());
        if producer.is_none() {
            let near = hint(event, self.catalog.events().map(|entry| entry.message.full_name()).collect::<Vec<_>>());
            self.report.add(place, format!("no event is called {event:?}{near}"));
        }
        producer
    }

    fn texts<'n>(&mut self, fields: Fields<'n>, key: &str, what: &str) -> Vec<(&'n str, Place)> {
        let Some(node) = fields.get(key) else { return Vec::new() };
        let items = node.list(what, &mut self.report).unwrap_or_default();
        let report = &mut self.report;
        items.iter().filter_map(|item| Some((item.text("a full name", report)?, item.place))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTRACT: &str = r#"
        syntax = "proto3";
        package demo.v1;
        import "mesh/v1/options.proto";
        message Placed { option (mesh.v1.event) = { producer: "orders" }; string id = 1; }
        message Moved { option (mesh.v1.event) = { producer: "orders", key: "id" }; string id = 1; }
        service Payments {
          rpc Charge(Placed) returns (Placed);
          rpc Refund(Placed) returns (Placed);
        }
    "#;

    fn catalog() -> Catalog {
        let mut resolver = protox::file::ChainFileResolver::new();
        resolver.add(Source);
        resolver.add(protox::file::DescriptorSetFileResolver::decode(mesh_proto::DESCRIPTORS).unwrap());
        let mut compiler = protox::Compiler::with_file_resolver(resolver);
        compiler.include_imports(true).open_file("demo.proto").unwrap();
        // Encoded by the compiler itself: the types of prost forget extension options.
        Catalog::new([compiler.encode_file_descriptor_set().as_slice()]).unwrap()
    }

    struct Source;

    impl protox::file::FileResolver for Source {
        fn open_file(&self, name: &str) -> Result<protox::file::File, protox::Error> {
            if name == "demo.proto" {
                protox::file::File::from_source(name, CONTRACT)
            } else {
                Err(protox::Error::file_not_found(name))
            }
        }
    }

    #[test]
    fn a_file_becomes_declarations() {
        let text = "region: eu\nservices:\n  orders: {publishes: [demo.v1.Placed]}\n  idle:\n  payments:\n    \
                    consumes: {charge: demo.v1.Placed}\n    enqueues: [demo.v1.Payments/Charge]\n    serves: [demo.v1.Payments]\n";
        let file = load("mesh.yaml", text, &catalog()).unwrap();
        assert_eq!(file.region.as_str(), "eu");
        assert_eq!(file.declarations.len(), 3);
        let payments = file.declaration("payments").unwrap();
        let consumes = payments.consumes.first().unwrap();
        assert_eq!((consumes.consumer.as_str(), consumes.producer.as_str()), ("charge", "orders"));
        assert_eq!(payments.enqueues.len(), 1);
        assert_eq!(payments.serves.len(), 2);
        assert!(file.declaration("idle").unwrap().publishes.is_empty());
    }

    #[test]
    fn a_consumer_may_ask_for_the_order_of_keys() {
        let ordered = |of: &str| {
            let text = format!("services: {{a: {{consumes: {{x: {of}}}}}}}");
            load("mesh.yaml", &text, &catalog()).map(|file| file.declarations[0].consumes.first().unwrap().ordered)
        };
        assert!(ordered("{event: demo.v1.Moved, ordered: true}").unwrap());
        assert!(!ordered("{event: demo.v1.Moved}").unwrap());
        assert!(!ordered("demo.v1.Moved").unwrap());
        for (of, part) in [
            ("{event: demo.v1.Placed, ordered: true}", "names no key"),
            ("{event: demo.v1.Moved, ordered: yes please}", "expected true or false"),
            ("{ordered: true}", "\"event\" is missing"),
            ("{event: demo.v1.Moved, orderd: true}", "did you mean \"ordered\""),
            ("[demo.v1.Moved]", "a list, expected"),
        ] {
            let problems = ordered(of).unwrap_err().to_string();
            assert!(problems.contains(part), "{of}\n{problems}");
        }
    }

    #[test]
    fn every_problem_has_its_place_and_the_nearest_name() {
        let cases = [
            ("services: {a: {publishs: []}}", "1:16", "did you mean \"publishes\""),
            ("services: {a: {calls: [demo.v1.Payments/Charg]}}", "1:24", "did you mean \"demo.v1.Payments/Charge\""),
            ("services:\n  a:\n    consumes: {x: demo.v1.Place}", "3:19", "did you mean \"demo.v1.Placed\""),
            ("services: {a: {publishes: [demo.v1.Placed]}}", "1:28", "published by \"orders\""),
            ("services: {A: {}}", "1:12", "is not a name"),
            ("region: [x]\nservices: {}", "1:9", "a list, expected"),
            ("{}", "1:1", "\"services\" is missing"),
            (
                "services:\n  a: {serves: [demo.v1.Payments]}\n  b: {serves: [demo.v1.Payments/Refund]}",
                "3:16",
                "served by \"a\" already",
            ),
        ];
        let catalog = catalog();
        for (text, place, part) in cases {
            let problems = load("mesh.yaml", text, &catalog).unwrap_err().to_string();
            assert!(problems.starts_with(&format!("mesh.yaml:{place}: ")), "{text}\n{problems}");
            assert!(problems.contains(part), "{text}\n{problems}");
        }
    }
}
