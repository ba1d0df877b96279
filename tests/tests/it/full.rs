//! No room: of a stream, of an account, of a server. Each is known as such, so that whoever writes waits instead of giving up.

use std::borrow::Cow;

use futures_util::future::join_all;
use mesh::engine::{Child, Environment, Guard, GuardedCommand, JetStream, free_loopback_port, obtain};
use mesh_core::{
    Mesh,
    bus::{Bus, PublishError, StreamLimits},
    envelope::header,
    fault::{Code, Effect},
    identity::Credential,
    operate::topology,
    subject,
};
use mesh_tests::{TestBroker, eventually, mesh_binary};

use crate::{claims::foreign, shop::orders};

const STREAM: &str = "mesh1-event-orders";

async fn publish(bus: &Bus, producer: &str, id: &str) -> Result<(), PublishError> {
    let subject = subject::event(&"local".parse().unwrap(), producer, "shop.orders.v1.OrderPlaced", 0);
    let headers = vec![(Cow::Borrowed(header::MESSAGE_ID), id.to_owned())];
    let sealed = bus.gate().seal_own(subject, headers, vec![7; 1024].into());
    bus.publish(&subject::event_stream(producer), sealed).await.map(drop)
}

/// Publishes events of `producer` until there is no room, one by one and many at once; JetStream's code for it.
pub(crate) async fn fill(bus: &Bus, producer: &str) -> u64 {
    let mut number = 0;
    let one = loop {
        match publish(bus, producer, &number.to_string()).await {
            Ok(()) => number += 1,
            Err(error) => break error,
        }
        assert!(number < 10_000, "it is never full");
    };
    let many = join_all((0..100).map(async |other| publish(bus, producer, &format!("other/{other}")).await)).await;
    for error in many.into_iter().filter_map(Result::err).chain([one.clone()]) {
        assert!(error.is_full() && !error.is_unknown(), "{error}");
        assert!(error.to_string().contains("there is no room"), "{error}");
        let fault = error.into_fault("it");
        assert_eq!((fault.code(), fault.effect()), (Code::Unavailable, Effect::None), "{fault}");
    }
    let PublishError::Rejected { code, .. } = one else { panic!("{one}") };
    code
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_room_is_full() {
    let broker = TestBroker::start(&[orders()]).await.unwrap();
    let jetstream = foreign(&broker, "operator").await;
    let mut config = jetstream.get_stream(STREAM).await.unwrap().cached_info().config.clone();
    config.max_bytes = 100_000;
    jetstream.update_stream(config).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    assert_eq!(fill(operator.bus(), "orders").await, 10077);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_room_is_full() {
    let jetstream = JetStream { max_file_bytes: 200_000, ..JetStream::default() };
    let broker = TestBroker::on(&[orders()], jetstream, &StreamLimits::default()).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    assert_eq!(fill(operator.bus(), "orders").await, 10023);
}

/// A server whose only account may keep so many bytes.
async fn account_of(bytes: u64, folder: &std::path::Path) -> (Child, Mesh) {
    let binary = obtain(&Environment::from_process(), &mut |_| {}).await.unwrap();
    let (port, user) = (free_loopback_port().unwrap(), nkeys::KeyPair::new_user());
    let (store, key) = (folder.join("store"), user.public_key());
    let config = format!(
        "listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: {store:?}, max_file_store: 1GB }}\n\
         accounts {{ M {{ users: [ {{ nkey: {key} }} ], jetstream: {{ max_file: {bytes}, max_mem: 0 }} }} }}\n"
    );
    let file = folder.join("nats.conf");
    std::fs::write(&file, config).unwrap();
    let server = GuardedCommand::new(&Guard::new(mesh_binary()), &binary.path)
        .args(["--config".into(), file.into_os_string()])
        .log(folder.join("nats.log"))
        .spawn()
        .await
        .unwrap();
    let url = format!("nats://127.0.0.1:{port}");
    let mesh = eventually("a server that listens", || async {
        let credential = Credential::Nkey(user.seed().unwrap().into());
        Mesh::builder("operator").region("local").url(&url).credential(credential).connect().await.ok()
    })
    .await;
    (server, mesh)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_without_room_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, operator) = account_of(200_000, folder.path()).await;
    topology::apply(operator.bus(), &[orders()], &StreamLimits::default()).await.unwrap();
    assert_eq!(fill(operator.bus(), "orders").await, 10002);
}
