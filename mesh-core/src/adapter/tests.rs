//! The adapter whole: bytes of a message in, real HTTP over loopback, reply or fault out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use ::http::{Response, StatusCode};
use bytes::Bytes;
use prost::Message as _;
use tokio::net::TcpListener;

use super::{
    Adapter, AdapterService,
    declared::tests::{charge, context},
};
use crate::{
    clock::{Clock, Deadline},
    config::{
        Environment,
        vendor::{
            load,
            tests::{STRIPE, pool},
        },
    },
    contract::{Service as _, admission::Admission as _},
    fault::{Code, Effect, Fault, Reason},
    http::stand_in::vendor,
};

/// An adapter for the vendor, at a time that the test moves.
fn adapter(url: &str) -> (Adapter, AdapterService, Arc<AtomicI64>) {
    let now = Arc::new(AtomicI64::new(1_000_000));
    let read = Arc::clone(&now);
    let clock = Clock::from_fn(move || {
        SystemTime::UNIX_EPOCH + Duration::from_millis(read.load(Ordering::SeqCst).unsigned_abs())
    });
    let environment = Environment::from_iter([("STRIPE_BASE_URL", url), ("STRIPE_API_KEY", "sk_test_1")]);
    let file = load("stripe.yaml", STRIPE, &environment, &pool()).unwrap();
    let adapter = Adapter::by_file(file, &pool(), clock).unwrap();
    let service = adapter.services().remove(0);
    (adapter, service, now)
}

async fn call(service: &AdapterService) -> Result<Bytes, Fault> {
    service.dispatch("Charge", context("k", None), charge().encode_to_vec().into()).await
}

fn answer(status: u16, body: &'static str) -> Response<&'static str> {
    Response::builder().status(StatusCode::from_u16(status).unwrap()).body(body).unwrap()
}

const DONE: &str = r#"{"id":"ch_1","status":"succeeded"}"#;

#[tokio::test]
async fn a_charge_is_made() {
    let vendor = vendor(|_| answer(200, DONE)).await;
    let (adapter, service, _) = adapter(&vendor.url);
    assert_eq!((service.name(), service.operations().len()), ("shop.payments.v1.Payments", 1));
    assert_eq!(call(&service).await.unwrap(), Bytes::from_static(b"\n\x04ch_1\x12\tsucceeded"));
    assert_eq!(adapter.admission().closed_for(), None);
}

#[tokio::test]
async fn throttling_pauses_the_quota_to_the_millisecond() {
    let vendor = vendor(|n| match n {
        0 => Response::builder().status(429).header("retry-after", "2").body("").unwrap(),
        _ => answer(200, DONE),
    })
    .await;
    let (adapter, service, now) = adapter(&vendor.url);
    let fault = call(&service).await.unwrap_err();
    assert_eq!((fault.reason(), fault.effect()), (Reason::VendorThrottled, Effect::None));
    assert_eq!(fault.retry_after(), Some(Duration::from_millis(2001)));
    assert_eq!(adapter.admission().closed_for(), Some(Duration::from_millis(2001)));
    now.fetch_add(2000, Ordering::SeqCst);
    let fault = call(&service).await.unwrap_err();
    assert_eq!((fault.reason(), fault.retry_after()), (Reason::QuotaPaused, Some(Duration::from_millis(1))));
    assert_eq!((fault.code(), fault.effect()), (Code::ResourceExhausted, Effect::None));
    assert_eq!(vendor.calls.load(Ordering::SeqCst), 1, "nothing was sent meanwhile");
    now.fetch_add(1, Ordering::SeqCst);
    assert!(call(&service).await.is_ok());
    assert_eq!(service.closed_for(), None);
}

#[tokio::test]
async fn throttling_without_a_time_gets_one() {
    let vendor = vendor(|_| answer(429, "")).await;
    let (_, service, _) = adapter(&vendor.url);
    assert_eq!(call(&service).await.unwrap_err().retry_after(), Some(Duration::from_millis(1001)));
}

#[tokio::test]
async fn throttling_for_no_time_at_all_pauses_longer_each_time() {
    let vendor = vendor(|_| Response::builder().status(429).header("retry-after", "0").body("").unwrap()).await;
    let (_, service, now) = adapter(&vendor.url);
    for rest_ms in [1001, 2001, 4001, 8001] {
        let rest = Duration::from_millis(rest_ms);
        assert_eq!(call(&service).await.unwrap_err().retry_after(), Some(rest));
        now.fetch_add(i64::try_from(rest_ms).unwrap(), Ordering::SeqCst);
    }
    assert_eq!(vendor.calls.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_deadline_that_is_over_costs_no_call() {
    let vendor = vendor(|_| answer(200, DONE)).await;
    let (_, service, _) = adapter(&vendor.url);
    let cx = context("k", Some(Deadline::at_unix_ms(1_000_000)));
    let fault = service.dispatch("Charge", cx, charge().encode_to_vec().into()).await.unwrap_err();
    assert_eq!(
        (fault.code(), fault.effect(), fault.reason()),
        (Code::DeadlineExceeded, Effect::None, Reason::DeadlineExpired)
    );
    assert_eq!(vendor.calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_vendor_that_is_away_got_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let (_, service, _) = adapter(&url);
    let fault = call(&service).await.unwrap_err();
    assert_eq!(
        (fault.code(), fault.effect(), fault.reason()),
        (Code::Unavailable, Effect::None, Reason::VendorUnreachable)
    );
    assert_eq!(fault.origin().vendor, "stripe");
}

#[tokio::test]
async fn a_connection_that_breaks_is_unknown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (_, service, _) = adapter(&format!("http://{}", listener.local_addr().unwrap()));
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut first = [0; 1];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut first).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(call(&service), serving);
    let fault = outcome.unwrap_err();
    assert_eq!(
        (fault.code(), fault.effect(), fault.reason()),
        (Code::Unavailable, Effect::Unknown, Reason::VendorSilent)
    );
}

#[tokio::test]
async fn what_is_no_request_is_never_sent() {
    let vendor = vendor(|_| answer(200, DONE)).await;
    let (_, service, _) = adapter(&vendor.url);
    let fault = service.dispatch("Charge", context("k", None), Bytes::from_static(b"\xff")).await.unwrap_err();
    assert_eq!((fault.reason(), fault.effect()), (Reason::Undecodable, Effect::None));
    let fault = service.dispatch("Refund", context("k", None), Bytes::new()).await.unwrap_err();
    assert_eq!((fault.code(), fault.reason()), (Code::Unimplemented, Reason::Unimplemented));
    assert_eq!(vendor.calls.load(Ordering::SeqCst), 0);
}
