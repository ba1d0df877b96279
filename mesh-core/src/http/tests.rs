//! Real HTTP over loopback, against a peer that misbehaves on the byte.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ::http::{HeaderMap, Method, StatusCode};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use super::*;
use crate::clock::TaskScope;

const LONG: Duration = Duration::from_secs(30);
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn client(limits: Limits) -> Client {
    Client::plain(limits).unwrap()
}

fn request(address: SocketAddr) -> Request {
    let url = format!("http://{address}/v1/charges").parse().unwrap();
    Request { method: Method::POST, url, headers: HeaderMap::new(), body: Bytes::from_static(b"amount=1") }
}

/// A peer that serves its connections one after the other with `serve`.
async fn peer<F, Fut>(serve: F) -> (SocketAddr, TaskScope)
where
    F: Fn(usize, TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, tasks) = (listener.local_addr().unwrap(), TaskScope::new());
    tasks.spawn(async move {
        for n in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            serve(n, stream).await;
        }
    });
    (address, tasks)
}

/// Reads one request: its head and the eight bytes of its body.
async fn take_request(stream: &mut TcpStream) -> bool {
    let mut seen = Vec::new();
    loop {
        let mut chunk = [0; 1024];
        match stream.read(&mut chunk).await {
            Ok(n) if n > 0 => seen.extend_from_slice(&chunk[..n]),
            _ => return false,
        }
        if seen.ends_with(b"amount=1") {
            return true;
        }
    }
}

/// Ends the connection with RST.
fn reset(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
    drop(stream);
}

#[tokio::test]
async fn an_answer_says_all_of_it() {
    let (address, _tasks) = peer(|_, mut stream| async move {
        take_request(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 402 Payment Required\r\nrequest-id: r1\r\ncontent-length: 2\r\n\r\n{}")
            .await
            .unwrap();
    })
    .await;
    let Sent::Answer(answer) = client(Limits::default()).send(request(address), LONG).await else {
        panic!("no answer")
    };
    assert_eq!((answer.status, answer.headers["request-id"].as_bytes()), (StatusCode::PAYMENT_REQUIRED, &b"r1"[..]));
    assert_eq!(answer.body.unwrap(), "{}");
}

#[tokio::test]
async fn a_refused_connection_sent_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let sent = client(Limits::default()).send(request(address), LONG).await;
    let Sent::NotSent(reason) = sent else { panic!("{sent:?}") };
    assert_eq!(reason.stage, Stage::Connect);
    assert!(reason.why.contains("refused"), "{}", reason.why);
}

#[tokio::test]
async fn a_name_that_does_not_resolve_sent_nothing() {
    let mut request = request(SocketAddr::from(([127, 0, 0, 1], 1)));
    request.url = "http://no-such-host.invalid/".parse().unwrap();
    let sent = client(Limits::default()).send(request, LONG).await;
    assert!(matches!(&sent, Sent::NotSent(NotSent { stage: Stage::Connect, .. })), "{sent:?}");
}

#[tokio::test]
async fn a_tls_handshake_that_fails_sent_nothing() {
    let (address, _tasks) = peer(|_, mut stream| async move {
        let _ = stream.write_all(b"this is not TLS").await;
    })
    .await;
    let mut request = request(address);
    request.url = format!("https://{address}/").parse().unwrap();
    let mut client = client(Limits::default());
    client.plain = false;
    let sent = client.send(request, LONG).await;
    assert!(matches!(&sent, Sent::NotSent(NotSent { stage: Stage::Connect, .. })), "{sent:?}");
}

#[tokio::test]
async fn a_reset_after_the_request_is_unknown() {
    let (address, _tasks) = peer(|_, mut stream| async move {
        take_request(&mut stream).await;
        reset(stream);
    })
    .await;
    let sent = client(Limits::default()).send(request(address), LONG).await;
    assert!(matches!(&sent, Sent::Unknown(Unanswered { timed_out: false, .. })), "{sent:?}");
}

#[tokio::test]
async fn half_a_head_is_unknown() {
    let (address, _tasks) = peer(|_, mut stream| async move {
        take_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-le").await.unwrap();
    })
    .await;
    let sent = client(Limits::default()).send(request(address), LONG).await;
    assert!(matches!(&sent, Sent::Unknown(Unanswered { timed_out: false, .. })), "{sent:?}");
}

#[tokio::test]
async fn half_a_body_is_an_answer_without_its_body() {
    let (address, _tasks) = peer(|_, mut stream| async move {
        take_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await.unwrap();
    })
    .await;
    let sent = client(Limits::default()).send(request(address), LONG).await;
    let Sent::Answer(answer) = sent else { panic!("{sent:?}") };
    assert_eq!((answer.status, answer.body), (StatusCode::OK, Err(BodyLost::Broken)));
}

#[tokio::test]
async fn large_answers_are_capped_stated_or_not() {
    let (address, _tasks) = peer(|n, mut stream| async move {
        take_request(&mut stream).await;
        let head: &[u8] = match n {
            0 => b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n",
            _ => b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n400\r\n",
        };
        let _ = stream.write_all(head).await;
        let _ = stream.write_all(&[b'x'; 1024]).await;
        let _ = stream.write_all(b"\r\n1\r\nx\r\n0\r\n\r\n").await;
    })
    .await;
    let client = client(Limits { body: 1024, ..Limits::default() });
    for _ in 0..2 {
        let Sent::Answer(answer) = client.send(request(address), LONG).await else { panic!("no answer") };
        assert_eq!(answer.body, Err(BodyLost::TooLarge(1024)));
    }
}

#[tokio::test]
async fn too_many_headers_are_no_answer() {
    let (address, _tasks) = peer(|_, mut stream| async move {
        take_request(&mut stream).await;
        let many: String = (0..200).map(|n| format!("h{n}: 1\r\n")).collect();
        let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n{many}\r\n").as_bytes()).await;
    })
    .await;
    let sent = client(Limits::default()).send(request(address), LONG).await;
    assert!(matches!(&sent, Sent::Unknown(_)), "{sent:?}");
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let (address, _tasks) = peer(|n, mut stream| async move {
        assert_eq!(n, 0, "followed");
        take_request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n").await;
    })
    .await;
    let Sent::Answer(answer) = client(Limits::default()).send(request(address), LONG).await else {
        panic!("no answer")
    };
    assert_eq!(answer.status, StatusCode::FOUND);
}

#[tokio::test]
async fn a_slow_answer_is_unknown_when_the_time_is_over() {
    let (got, has_request) = oneshot::channel();
    let got = std::sync::Mutex::new(Some(got));
    let (address, _tasks) = peer(move |_, mut stream| {
        let got = got.lock().unwrap().take();
        async move {
            take_request(&mut stream).await;
            let _ = got.unwrap().send(());
            std::future::pending::<()>().await;
        }
    })
    .await;
    let client = client(Limits::default());
    let sending = client.send(request(address), Duration::from_secs(10));
    let pausing = async {
        has_request.await.unwrap();
        // From here on time passes by itself as soon as everybody waits.
        tokio::time::pause();
    };
    let (sent, ()) = tokio::join!(sending, pausing);
    assert!(matches!(&sent, Sent::Unknown(Unanswered { timed_out: true, .. })), "{sent:?}");
}

#[tokio::test]
async fn a_connection_that_never_comes_sent_nothing() {
    // The peer accepts and says nothing, so the TLS handshake never ends.
    let (address, _tasks) = peer(|_, mut stream| async move {
        let mut sink = Vec::new();
        let _ = stream.read_to_end(&mut sink).await;
    })
    .await;
    let mut request = request(address);
    request.url = format!("https://{address}/").parse().unwrap();
    let mut client = client(Limits { connect: LONG, ..Limits::default() });
    client.plain = false;
    let sent = client.send(request, Duration::from_millis(50)).await;
    assert!(matches!(&sent, Sent::NotSent(NotSent { stage: Stage::TimedOut, .. })), "{sent:?}");
}

/// The vendor closes every connection after its answer, so the next call meets it in any state. A call that says "not
/// sent" while the vendor has the request would be a double charge: the vendor's own count shows that there is none.
#[tokio::test]
async fn what_is_called_unsent_was_never_received() {
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    let (address, _tasks) = peer(move |_, mut stream| {
        let taken = Arc::clone(&counted);
        async move {
            if take_request(&mut stream).await {
                taken.fetch_add(1, Ordering::SeqCst);
            }
            let _ = stream.write_all(OK).await;
        }
    })
    .await;
    let client = client(Limits::default());
    let (mut answers, mut unknown) = (0, 0);
    for round in 0..200 {
        match client.send(request(address), LONG).await {
            Sent::Answer(answer) => {
                assert_eq!(answer.status, StatusCode::OK, "round {round}");
                answers += 1;
            }
            Sent::NotSent(reason) => assert_eq!(reason.stage, Stage::Closed, "round {round}: {}", reason.why),
            Sent::Unknown(_) => unknown += 1,
        }
    }
    let taken = taken.load(Ordering::SeqCst);
    assert!(
        answers > 0 && answers <= taken && taken <= answers + unknown,
        "{taken} taken, {answers} answered, {unknown} unknown"
    );
}

#[tokio::test]
async fn a_second_request_on_a_kept_connection_that_is_reset_is_unknown() {
    let (address, _tasks) = peer(|_, mut stream| async move {
        take_request(&mut stream).await;
        stream.write_all(OK).await.unwrap();
        take_request(&mut stream).await;
        reset(stream);
    })
    .await;
    let client = client(Limits::default());
    assert!(matches!(client.send(request(address), LONG).await, Sent::Answer(_)));
    let sent = client.send(request(address), LONG).await;
    assert!(matches!(&sent, Sent::Unknown(Unanswered { timed_out: false, .. })), "{sent:?}");
}

#[tokio::test]
async fn other_schemes_and_user_names_are_refused() {
    let client = client(Limits::default());
    for url in ["https://127.0.0.1:1/", "ftp://127.0.0.1:1/", "http://user:pw@127.0.0.1:1/", "/only/a/path"] {
        let mut request = request(SocketAddr::from(([127, 0, 0, 1], 1)));
        request.url = url.parse().unwrap();
        let sent = client.send(request, LONG).await;
        let Sent::NotSent(reason) = sent else { panic!("{url}") };
        assert!(reason.why.contains("URL"), "{url}: {}", reason.why);
    }
}

#[test]
fn debug_shows_no_secret() {
    let mut request = request(SocketAddr::from(([127, 0, 0, 1], 1)));
    request.headers.insert("authorization", "Bearer sk_1".parse().unwrap());
    request.url = "http://127.0.0.1/path?api_key=sk_1".parse().unwrap();
    request.body = Bytes::from_static(b"key=sk_1");
    assert!(!format!("{request:?}").contains("sk_1"));
}
