//! What a real guest uses, as the host measures it.

use connectrpc::client::CallOptions;
use host_rpc as rpc;
use model::SandboxId;
use testkit::eventually;

use crate::agent::{Agent, PATIENCE};

async fn usage(agent: &Agent, id: &SandboxId) -> Option<rpc::UsagePoint> {
    let request = rpc::GetUsageRequest {
        sandbox_ids: vec![id.to_string()],
        ..Default::default()
    };
    let options = CallOptions::default().with_timeout(PATIENCE);
    let answer = agent.client().stats();
    let answer = answer.get_usage_with_options(request, options).await;
    let sandboxes = answer.unwrap().into_owned().sandboxes;
    sandboxes.into_iter().next()?.latest.into_option()
}

#[tokio::test(flavor = "multi_thread")]
async fn work_of_guest_is_measured() {
    let agent = Agent::start(&[]).await;
    let id = agent.create().await;
    let work = "head -c 20000000 /dev/urandom > noise; sync; while :; do :; done";
    agent
        .out(&id, &format!("nohup sh -c '{work}' > /dev/null 2>&1 &"))
        .await;
    let point = eventually("a guest that works", PATIENCE, async || {
        let point = usage(&agent, &id).await?;
        let guest = point.guest.as_option()?;
        let is_whole = point.cpu_hundredths > 200
            && point.disk_bytes > 20_000_000
            && point.memory_bytes > 20 << 20
            // The host's own questions.
            && point.rx_bytes_per_sec > 0
            && point.tx_bytes_per_sec > 0
            && guest.memory_bytes > 1 << 20
            && guest.disk_bytes > 20_000_000;
        is_whole.then_some(point)
    })
    .await;
    let request = rpc::ListUsageRequest {
        sandbox_id: id.to_string(),
        from_ms: point.time_ms - 60_000,
        to_ms: point.time_ms,
        step_sec: 1,
        ..Default::default()
    };
    let listed = agent.client().stats().list_usage(request.clone()).await;
    let listed = listed.unwrap().into_owned();
    assert_eq!(listed.points.last().unwrap().time_ms, point.time_ms);
    agent.pause(&id).await.unwrap();
    assert_eq!(usage(&agent, &id).await, None, "it uses nothing");
    let kept = agent.client().stats().list_usage(request).await;
    assert_eq!(kept.unwrap().into_owned().points, listed.points);
    let of_host = rpc::ListUsageRequest {
        to_ms: i64::MAX,
        step_sec: 60,
        ..Default::default()
    };
    let of_host = agent.client().stats().list_usage(of_host).await;
    let of_host = of_host.unwrap().into_owned();
    assert!(of_host.points.last().unwrap().memory_bytes > 0);
    agent.finish().await;
}
