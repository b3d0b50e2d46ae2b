//! What the control plane asks for, checked.

use connectrpc::ConnectError;
use host_rpc as rpc;
use model::{Limits, OnTimeout, SandboxSpec};

use super::error::invalid;

pub(super) fn checked(message: &rpc::SandboxSpec) -> Result<SandboxSpec, ConnectError> {
    let spec = SandboxSpec {
        template: message.template.parse().map_err(invalid)?,
        vcpus: message.vcpus,
        memory_mb: message.memory_mb,
        timeout_sec: message.timeout_sec,
        on_timeout: match message.on_timeout.as_known() {
            Some(rpc::OnTimeout::ON_TIMEOUT_KILL) => OnTimeout::Kill,
            Some(rpc::OnTimeout::ON_TIMEOUT_PAUSE | rpc::OnTimeout::ON_TIMEOUT_UNSPECIFIED) | None => OnTimeout::Pause,
        },
        auto_resume: message.auto_resume,
        disk_mb: message.disk_mb,
        envs: message.envs.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        public_ports: false,
        network: rpc::network::of_message(message.network.as_option()).map_err(invalid)?,
    };
    spec.check(&Limits::default()).map_err(invalid)?;
    Ok(spec)
}
