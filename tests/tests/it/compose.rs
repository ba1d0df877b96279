//! `compose.yaml` without a Docker engine: who can reach whom, every command line through the program's own parser, every
//! mounted file, and its three servers as a real cluster on loopback, with only the environment changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::StreamExt as _;
use mesh::engine::{
    AllowResponses, Child, Environment, Guard, GuardedCommand, UserEntry, free_loopback_port, obtain, users_text,
};
use mesh_core::{
    Mesh,
    policy::compile::{compile, keeper, operator},
    subject::{KEEPER, Name, event_stream, inbox_prefix},
};
use mesh_tests::{Seen, eventually, mesh_binary, seen::notes};
use serde_json::Value;
use shop_proto::shop::orders::v1::OrderPlaced;
use tokio::process::Command;

use crate::shop::order;

const PASSWORD: &str = "a-password-between-servers";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn compose() -> Value {
    let text = std::fs::read_to_string(root().join("compose.yaml")).unwrap();
    // As `docker compose --env-file` would.
    let text = text.replace("${MESH_ROUTE_PASSWORD:?run mesh keys first}", PASSWORD);
    let text = text.replace("${MESH_ROUTE_PASSWORD}", PASSWORD);
    let text = text.replace("${MESH_UID:-1000}", "1000").replace("${MESH_GID:-1000}", "1000");
    assert!(!text.contains("${"), "a variable that this test does not know");
    serde_saphyr::from_str(&text).unwrap()
}

fn services(compose: &Value) -> impl Iterator<Item = (&str, &Value)> {
    compose["services"].as_object().unwrap().iter().map(|(name, service)| (name.as_str(), service))
}

fn words(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect()
}

fn variables(service: &Value) -> BTreeMap<String, String> {
    let variables = service["environment"].as_object().into_iter().flatten();
    variables.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect()
}

#[test]
fn the_vendors_are_reached_by_the_adapters_alone() {
    let compose = compose();
    let on = |network: &str| -> BTreeSet<&str> {
        services(&compose).filter(|(_, s)| words(&s["networks"]).contains(&network)).map(|(name, _)| name).collect()
    };
    assert_eq!(on("vendors"), BTreeSet::from(["adapter-notifications", "adapter-payments", "vendor-sim"]));
    assert!(!on("bus").contains("vendor-sim"));
    assert_eq!(compose["networks"]["vendors"]["internal"], true);
    let published: Vec<_> = services(&compose).filter(|(_, s)| !s["ports"].is_null()).collect();
    assert!(published.iter().all(|(_, s)| words(&s["ports"]).iter().all(|p| p.starts_with("127.0.0.1:"))));
}

#[test]
fn every_part_of_the_shop_is_a_container_with_an_identity_of_its_own() {
    let compose = compose();
    let declared = mesh_core::config::mesh_file::load("mesh.yaml", shop::mesh_file(), &catalog()).unwrap();
    let mut declared: BTreeSet<String> = declared.declarations.iter().map(|d| d.service.to_string()).collect();
    declared.extend(["mesh", "keeper"].map(str::to_owned));
    let seeds: BTreeSet<String> = services(&compose)
        .filter_map(|(_, service)| service["secrets"][0]["source"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(seeds, declared, "each service of the mesh file, mesh itself for the streams, and the keeper");
    for seed in seeds {
        let file = format!("./deploy/keys/{seed}.seed");
        assert_eq!(compose["secrets"][&seed]["file"].as_str(), Some(file.as_str()));
    }
}

#[tokio::test]
async fn the_first_command_makes_every_file_that_the_second_mounts() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    make_keys(&keys).await;
    let compose = std::fs::read_to_string(root().join("compose.yaml")).unwrap();
    let made = |marker: &str| -> BTreeSet<PathBuf> {
        let after = compose.split(marker).skip(1);
        after.map(|rest| keys.join(rest.split([' ', ':']).next().unwrap())).collect()
    };
    let mounted = made("./deploy/keys/");
    assert!(mounted.len() > 2, "{mounted:?}");
    for file in &mounted {
        let mode = std::fs::metadata(file).unwrap_or_else(|error| panic!("{file:?}: {error}")).permissions().mode();
        let is_seed = file.extension().is_some_and(|ending| ending == "seed");
        assert!(!is_seed || mode & 0o777 == 0o600, "{file:?}: {mode:o}");
    }
    let env_file = std::fs::read_to_string(keys.join("compose.env")).unwrap();
    for variable in compose.split("${").skip(1).map(|rest| rest.split([':', '}']).next().unwrap()) {
        assert!(env_file.contains(&format!("{variable}=")), "compose.env lacks {variable}");
    }
    let contents =
        |files: &BTreeSet<PathBuf>| files.iter().map(|file| std::fs::read(file).unwrap()).collect::<Vec<_>>();
    let before = contents(&mounted);
    make_keys(&keys).await;
    assert_eq!(contents(&mounted), before, "a second time leaves the keys as they are");
    assert_eq!(std::fs::read_to_string(keys.join("compose.env")).unwrap(), env_file);
}

#[test]
fn the_image_is_built_once() {
    let compose = compose();
    let ours: Vec<_> = services(&compose).filter(|(_, service)| service["image"] == "mesh").collect();
    let builders: Vec<&str> = ours.iter().filter(|(_, s)| !s["build"].is_null()).map(|(name, _)| *name).collect();
    assert_eq!(builders, ["apply"], "the others use what it builds");
    assert!(ours.len() > 1);
}

fn catalog() -> mesh_core::contract::Catalog {
    mesh_core::contract::Catalog::new([mesh_core::proto::DESCRIPTORS, shop_proto::DESCRIPTORS]).unwrap()
}

/// A file of the image: where it comes from in the checkout, and what the Dockerfile puts before it.
fn file_of_image(path: &str) -> Option<(PathBuf, &'static str)> {
    let rest = path.strip_prefix("/etc/mesh/")?;
    Some(match rest.strip_prefix("demo/") {
        Some(vendor) => (root().join("services/shop/vendors").join(vendor), "allow_http: true\n"),
        None => (root().join("services/shop").join(rest), ""),
    })
}

#[tokio::test]
async fn every_command_line_and_every_file_is_what_the_program_takes() {
    let compose = compose();
    let dockerfile = std::fs::read_to_string(root().join("Dockerfile")).unwrap();
    assert!(dockerfile.contains(r#"ENTRYPOINT ["/usr/local/bin/mesh"]"#) && dockerfile.contains("USER 1000:1000"));
    let folder = tempfile::tempdir().unwrap();
    let mut checked = 0;
    for (name, service) in services(&compose).filter(|(_, service)| service["image"] == "mesh") {
        let command = words(&service["command"]);
        let parsed = mesh::cli::parse(["mesh"].iter().chain(&command).copied());
        assert!(parsed.is_ok(), "{name}: {command:?}: {}", parsed.err().unwrap());
        for (path, (source, before)) in command.iter().filter_map(|word| Some((word, file_of_image(word)?))) {
            assert!(dockerfile.contains("/etc/mesh"), "{path} is in the image");
            let copy = folder.path().join(source.file_name().unwrap());
            std::fs::write(&copy, before.to_owned() + &std::fs::read_to_string(&source).unwrap()).unwrap();
            let check = Command::new(mesh_binary()).arg("check").arg(&copy).envs(variables(service)).output();
            let check = check.await.unwrap();
            assert!(check.status.success(), "{name}: {}", String::from_utf8_lossy(&check.stderr));
            checked += 1;
        }
    }
    assert_eq!(checked, 3, "the mesh file and two vendor files");
    for (name, service) in services(&compose).filter(|(name, _)| name.starts_with("nats-")) {
        let mounts = words(&service["volumes"]);
        assert!(mounts.contains(&"./deploy/nats/nats.conf:/etc/nats/nats.conf:ro"), "{name}");
        assert_eq!(words(&service["command"]), ["--config", "/etc/nats/nats.conf"]);
    }
}

#[tokio::test]
async fn the_servers_users_are_what_the_policy_compiler_makes_of_the_mesh_file() {
    let folder = tempfile::tempdir().unwrap();
    make_keys(folder.path()).await;
    let users = std::fs::read_to_string(folder.path().join("users.conf")).unwrap();
    let file = mesh_core::config::mesh_file::load("mesh.yaml", shop::mesh_file(), &catalog()).unwrap();
    let operator_name = "operator".parse().unwrap();
    let compiled = file.declarations.iter().map(|d| (d.service.clone(), compile(d, &file.region)));
    let keeper_name: Name = KEEPER.parse().unwrap();
    let own = [
        (operator_name, operator(&"operator".parse().unwrap())),
        (keeper_name.clone(), keeper(&keeper_name, &file.region)),
    ];
    let compiled: Vec<_> = compiled.chain(own).collect();
    for (name, permissions) in &compiled {
        let seed = std::fs::read_to_string(folder.path().join(format!("{name}.seed"))).unwrap();
        let key = nkeys::KeyPair::from_seed(&seed).unwrap().public_key();
        let answers = AllowResponses { max: 1, expires: Duration::from_secs(120) };
        let alone = users_text(&[UserEntry {
            nkey_public: key.clone(),
            publish_allow: permissions.publish.clone(),
            subscribe_allow: permissions.subscribe.clone(),
            allow_responses: permissions.may_answer.then_some(answers),
        }]);
        let expected = alone.lines().find(|line| line.contains(&key)).unwrap();
        assert!(users.lines().any(|line| line == expected), "{name}: {expected}\nis not in\n{users}");
    }
    assert_eq!(users.matches("nkey:").count(), compiled.len() + 1, "those, and mesh itself");
}

/// The three servers of compose.yaml on loopback.
struct Trio {
    servers: Vec<Child>,
    urls: Vec<String>,
    folder: tempfile::TempDir,
}

impl Trio {
    async fn start() -> Trio {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        make_keys(&keys).await;
        std::fs::copy(root().join("deploy/nats/nats.conf"), folder.path().join("nats.conf")).unwrap();
        std::fs::copy(keys.join("users.conf"), folder.path().join("users.conf")).unwrap();
        let binary = obtain(&Environment::from_process(), &mut |_| {}).await.unwrap();
        let ports: Vec<(u16, u16)> =
            (0..3).map(|_| (free_loopback_port().unwrap(), free_loopback_port().unwrap())).collect();
        let compose = compose();
        let mut trio = Trio { servers: Vec::new(), urls: Vec::new(), folder };
        for (index, (client, cluster)) in ports.iter().enumerate() {
            let name = format!("nats-{}", index + 1);
            let mut variables = variables(&compose["services"][&name]);
            let store = trio.folder.path().join(&name).to_string_lossy().into_owned();
            for (variable, value) in [("HOST", "127.0.0.1".to_owned()), ("STORE", store), ("PORT", client.to_string())]
            {
                variables.insert(format!("MESH_NATS_{variable}"), value);
            }
            variables.insert("MESH_NATS_CLUSTER_PORT".into(), cluster.to_string());
            for (number, (_, port)) in (1..).zip(&ports) {
                let route = variables.get_mut(&format!("MESH_NATS_ROUTE_{number}")).unwrap();
                *route = route.replace(&format!("nats-{number}:6222"), &format!("127.0.0.1:{port}"));
                assert!(route.contains("127.0.0.1"), "{route}");
            }
            let mut command = GuardedCommand::new(&Guard::new(mesh_binary()), &binary.path)
                .args(["--config".into(), trio.folder.path().join("nats.conf").into_os_string()])
                .log(trio.folder.path().join(format!("{name}.log")));
            for (variable, value) in variables {
                command = command.env(variable, value);
            }
            trio.servers.push(command.spawn().await.unwrap());
            trio.urls.push(format!("nats://127.0.0.1:{client}"));
        }
        trio
    }

    fn seed(&self, service: &str) -> String {
        self.folder.path().join(format!("keys/{service}.seed")).to_string_lossy().into_owned()
    }

    async fn apply(&self) -> Result<(), String> {
        let config = root().join("services/shop/mesh.yaml");
        let (urls, seed) = (self.urls.join(","), self.seed("mesh"));
        let words = ["apply", "--config", config.to_str().unwrap(), "--replicas", "3", "--url", &urls];
        mesh(&[words.as_slice(), &["--seed-file", &seed]].concat()).await
    }

    /// Which of the servers leads a stream of three copies.
    async fn leader_of(&self, stream: &str) -> usize {
        let user = "mesh".parse().unwrap();
        let seed = std::fs::read_to_string(self.seed("mesh")).unwrap();
        let options = async_nats::ConnectOptions::with_nkey(seed).custom_inbox_prefix(inbox_prefix(&user));
        let client = options.connect(&self.urls[0]).await.unwrap();
        eventually("a leader of the stream", || async {
            let info = client.request(format!("$JS.API.STREAM.INFO.{stream}"), "".into()).await.ok()?;
            let info: Value = serde_json::from_slice(&info.payload).unwrap();
            assert_eq!(info["config"]["num_replicas"], 3, "{info}");
            let number: usize = info["cluster"]["leader"].as_str()?.strip_prefix("nats-")?.parse().ok()?;
            Some(number - 1)
        })
        .await
    }

    /// Every stream and consumer that the mesh file asks for has a copy on each server.
    async fn everything_is_on_three_servers(&self) {
        let file = mesh_core::config::mesh_file::load("mesh.yaml", shop::mesh_file(), &catalog()).unwrap();
        let seed = std::fs::read_to_string(self.seed("mesh")).unwrap();
        let inbox = inbox_prefix(&"mesh".parse().unwrap());
        let options = async_nats::ConnectOptions::with_nkey(seed).custom_inbox_prefix(inbox);
        let jetstream = async_nats::jetstream::new(options.connect(&self.urls[0]).await.unwrap());
        for spec in file.declarations.iter().flat_map(|declaration| declaration.streams()) {
            let cluster = jetstream.get_stream(&spec.name).await.unwrap().cached_info().cluster.clone();
            assert_eq!(cluster.unwrap().replicas.len(), 2, "followers of {}", spec.name);
        }
        for spec in file.declarations.iter().flat_map(|declaration| declaration.consumers(&file.region)) {
            let found = jetstream.get_consumer_from_stream(&spec.durable, &spec.stream).await;
            let consumer: async_nats::jetstream::consumer::PullConsumer = found.unwrap();
            let cluster = consumer.cached_info().cluster.clone();
            assert_eq!(cluster.unwrap().replicas.len(), 2, "followers of {} on {}", spec.durable, spec.stream);
        }
    }

    async fn connect(&self, service: &str) -> Mesh {
        let builder = Mesh::builder(service).url(&self.urls.join(",")).seed_file(&self.seed(service));
        builder.connect().await.unwrap()
    }
}

/// The first of the two commands in compose.yaml.
async fn make_keys(folder: &Path) {
    let config = root().join("services/shop/mesh.yaml");
    mesh(&["keys", "--config", config.to_str().unwrap(), "--out", folder.to_str().unwrap()]).await.unwrap();
}

async fn mesh(words: &[&str]) -> Result<(), String> {
    let output = Command::new(mesh_binary()).args(words).output().await.unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_three_servers_are_a_cluster_that_loses_one_and_nothing_else() {
    let mut trio = Trio::start().await;
    // It elects a leader first.
    let mut why = String::new();
    let applied = async {
        while let Err(error) = trio.apply().await {
            why = error;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(60), applied).await;
    assert!(in_time.is_ok(), "{why}\n{}", trio.servers[0].log_tail(20));

    trio.everything_is_on_three_servers().await;

    let payments = trio.connect("payments").await;
    let seen = Seen::default();
    payments.consumer::<OrderPlaced>("charge").start(notes(&seen)).await.unwrap();
    let orders = trio.connect("orders").await;
    let publisher = orders.publisher::<OrderPlaced>();
    let publish = |numbers: RangeInclusive<usize>| {
        let events = futures_util::stream::iter(numbers.map(|number| (number.to_string(), order(number))));
        publisher.publish_all(events, 32).collect::<Vec<_>>()
    };
    // The hardest one to lose: the leader of the stream that is written to.
    let leader = trio.leader_of(&event_stream("orders")).await;
    let killing = async {
        eventually("some", || async { (seen.lock().await.len() > 50).then_some(()) }).await;
        trio.servers[leader].kill().await.unwrap();
    };
    let (mut published, ()) = tokio::join!(publish(1..=600), killing);
    // However fast the first were: these find one server gone.
    published.extend(publish(601..=700).await);
    for (id, result) in published {
        assert!(result.is_ok(), "{id}: {result:?}");
    }
    // What was on its way to a connection that broke comes again once its lease is over: 30 s, as long as `eventually` waits.
    let mut looks = tokio::time::interval(Duration::from_millis(50));
    let distinct = || async { seen.lock().await.iter().collect::<BTreeSet<_>>().len() };
    let all = async {
        while distinct().await < 700 {
            looks.tick().await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(90), all).await;
    assert!(in_time.is_ok(), "{} of 700 orders came, with one server gone", distinct().await);
}
