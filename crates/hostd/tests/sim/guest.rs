//! The guest agents of all VMs of a world: one listener, which tells them apart by the address that
//! was called.

use std::convert::Infallible;
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;

use buffa::Message;
use bytes::Bytes;
use guest_rpc::ACCESS_TOKEN_HEADER;
use guest_rpc::command::SuperviseRequest;
use guest_rpc::http::{ClockAnswer, ClockRequest, InitRequest};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use crate::host::Place;
use crate::vm::{Memory, SimVm};
use crate::world::World;

type Answer = Response<Full<Bytes>>;

/// Starts to serve all guests of the world, for as long as the runtime lives.
pub fn spawn_guests(world: &Arc<World>, place: &Place) {
    let listener = place.guests.try_clone().unwrap();
    tokio::spawn(serve(Arc::clone(world), listener));
}

async fn serve(world: Arc<World>, listener: TcpListener) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let Ok(IpAddr::V4(ip)) = stream.local_addr().map(|address| address.ip()) else {
            continue;
        };
        let [.., high, low] = ip.octets();
        let Some(vm) = world.vm_at(u16::from_be_bytes([high, low])) else {
            continue;
        };
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            let mut state = vm.state.subscribe();
            let service = service_fn(|request| {
                let (world, vm) = (Arc::clone(&world), Arc::clone(&vm));
                async move { Ok::<_, Infallible>(answer(&world, &vm, request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                _ = connection => {}
                _ = state.wait_for(|state| state.end.is_some()) => {}
            }
        });
    }
}

async fn answer(world: &World, vm: &SimVm, request: Request<Incoming>) -> Answer {
    if world.is_silent_guest(&vm.sandbox) {
        std::future::pending::<()>().await;
    }
    let path = request.uri().path().to_owned();
    let token = request
        .headers()
        .get(ACCESS_TOKEN_HEADER)
        .and_then(|token| token.to_str().ok())
        .map(str::to_owned);
    let body = request
        .into_body()
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    world.delay().await;
    let early = path != "/health" && world.fails(&path);
    if early && world.one_in(4) {
        // It hangs, for as long as it lives.
        std::future::pending::<()>().await;
    }
    let done = vm.within(|vm, memory| {
        Some(if early {
            Err(500)
        } else {
            act(vm, memory, &path, token.as_deref(), &body)
        })
    });
    match done.await {
        // Done, but nobody hears of it.
        Some(Ok(_)) if path != "/health" && world.fails(&format!("the answer of {path}")) => {
            plain(500, "lost")
        }
        Some(Ok(_)) if path.starts_with("/command.") => message(),
        Some(Ok(answer)) => plain(200, answer),
        Some(Err(status)) => plain(status, r#"{"message":"bad luck"}"#),
        None => std::future::pending().await,
    }
}

fn act(
    vm: &SimVm,
    memory: &mut Memory,
    path: &str,
    token: Option<&str>,
    body: &[u8],
) -> Result<String, u16> {
    if path == "/health" {
        return if vm.boots_on(memory) {
            Ok(String::new())
        } else {
            Err(503)
        };
    }
    if path == "/init" {
        return init(memory, token, body).map(str::to_owned);
    }
    if memory.token.is_some() && memory.token.as_deref() != token {
        return Err(401);
    }
    match path {
        "/freeze" => {
            vm.flush(memory);
            memory.frozen = true;
            Ok(r#"{"frozen":true}"#.to_owned())
        }
        "/thaw" => {
            memory.frozen = false;
            vm.flush(memory);
            Ok(String::new())
        }
        "/command.CommandService/Supervise" => {
            let request = SuperviseRequest::decode_from_slice(body).map_err(|_| 400_u16)?;
            let process = request.process.into_option().ok_or(400_u16)?;
            // The same one again is no news.
            let is_wanted_again = request.restart_ended && memory.is_start_command_ended;
            if memory.start_command.as_ref() != Some(&process.cmd) || is_wanted_again {
                memory.is_start_command_ended = false;
                memory.start_command = Some(process.cmd);
                memory.starts += 1;
            }
            Ok(String::new())
        }
        "/clock" => {
            let request: ClockRequest = serde_json::from_slice(body).map_err(|_| 400_u16)?;
            memory.late = false;
            let answer = ClockAnswer {
                time_ns: request.time_ns,
                ..ClockAnswer::default()
            };
            serde_json::to_string(&answer).map_err(|_| 500)
        }
        _ => Err(404),
    }
}

/// The rules of the real one.
fn init(memory: &mut Memory, presented: Option<&str>, body: &[u8]) -> Result<&'static str, u16> {
    let request: InitRequest = serde_json::from_slice(body).map_err(|_| 400_u16)?;
    let new = request.access_token.as_deref();
    match memory.token.as_deref() {
        None if new.is_none() => return Err(400),
        Some(token) if ![presented, new].contains(&Some(token)) => return Err(401),
        _ => {}
    }
    memory.token = request.access_token.or(memory.token.take());
    memory.late &= request.time_ns.is_none();
    Ok("")
}

fn plain(status: u16, body: impl Into<String>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body.into())));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    answer
}

/// The answer of a Connect service, which has no fields.
fn message() -> Answer {
    let mut answer = plain(200, "");
    let kind = http::HeaderValue::from_static("application/proto");
    answer
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, kind);
    answer
}
