//! Spans for collectors that do not take them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;

use opentelemetry::trace::{Span as _, Tracer as _};

use super::*;

/// Number of spans that wait at most.
const QUEUE: usize = 50;

/// Starts a server that gives each connection to `answer`.
fn start_server(answer: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().flatten().for_each(answer));
    address
}

/// Timeout of exports that fail by themselves.
const TIMEOUT: Duration = Duration::from_millis(100);

/// Ends many more spans than the queue takes, and flushes. Returns although nothing is taken.
async fn export_to(address: SocketAddr, timeout: Duration) {
    let collector = CollectorSettings {
        url: format!("http://{address}/v1/traces").parse().unwrap(),
        headers: Vec::new(),
        timeout,
    };
    let provider = span_provider(&collector, QUEUE, resource("test", false)).unwrap();
    let tracer = provider.tracer(SCOPE);
    tokio::task::spawn_blocking(move || {
        for _ in 0..100 * QUEUE {
            tracer.start("span").end();
        }
        // An error says that they were not sent.
        let _ = provider.shutdown_with_timeout(FLUSH_TIMEOUT);
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn absent_collector_delays_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    export_to(address, TIMEOUT).await;
}

#[tokio::test]
async fn silent_collector_delays_nothing() {
    // Connections stay open until the end of the test.
    let (sender, connections) = mpsc::channel();
    let address = start_server(move |stream| drop(sender.send(stream)));
    // Whatever waited for an export to end would wait for hours.
    export_to(address, Duration::from_hours(9)).await;
    assert!(connections.try_recv().is_ok(), "it was tried");
}

#[tokio::test]
async fn failing_collector_delays_nothing() {
    let (sender, answered) = mpsc::channel();
    let address = start_server(move |mut stream| {
        let _ = stream.read(&mut [0; 1 << 16]);
        let _ = stream.write_all(b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n");
        let _ = sender.send(());
    });
    export_to(address, TIMEOUT).await;
    assert!(answered.try_recv().is_ok(), "it was tried");
}
