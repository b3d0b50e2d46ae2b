//! Specification of a sandbox as a message.

use model::{IdleSettings, InvalidValue, Limits, OnTimeout};

use crate::{AutoCheckpoint, SandboxSpec, network, start_command as supervised};

/// Converts a spec to its message, which leaves out `public_ports`: only the control plane uses it.
#[must_use]
pub fn to_message(spec: &model::SandboxSpec) -> SandboxSpec {
    let model::SandboxSpec {
        template,
        vcpus,
        memory_mb,
        timeout_sec,
        on_timeout,
        auto_resume,
        disk_mb,
        envs,
        public_ports: _,
        network,
        auto_checkpoint,
        start_command,
    } = spec.clone();
    SandboxSpec {
        template: template.to_string(),
        vcpus,
        memory_mb,
        timeout_sec,
        on_timeout: action_to_message(on_timeout).into(),
        auto_resume,
        disk_mb,
        envs: envs.into_iter().collect(),
        network: network::to_message(&network).into(),
        auto_checkpoint: auto_checkpoint.map(policy_to_message).into(),
        start_command: start_command.map(supervised::to_message).into(),
        ..SandboxSpec::default()
    }
}

/// Converts a spec to its message in reports: without environment and start command, which are
/// large, and which nothing but an adoption needs.
#[must_use]
pub fn to_reported(spec: &model::SandboxSpec) -> SandboxSpec {
    without_commands(to_message(spec))
}

/// Returns a spec as it is in reports.
#[must_use]
pub fn without_commands(spec: SandboxSpec) -> SandboxSpec {
    SandboxSpec {
        envs: Default::default(),
        start_command: Default::default(),
        ..spec
    }
}

/// Converts a message to a spec.
///
/// # Errors
/// Names the value that no host takes.
pub fn from_message(message: &SandboxSpec) -> Result<model::SandboxSpec, InvalidValue> {
    let spec = model::SandboxSpec {
        template: message.template.parse()?,
        vcpus: message.vcpus,
        memory_mb: message.memory_mb,
        timeout_sec: message.timeout_sec,
        on_timeout: action_from_message(message.on_timeout.as_known()),
        auto_resume: message.auto_resume,
        disk_mb: message.disk_mb,
        envs: message
            .envs
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        public_ports: false,
        network: network::from_message(message.network.as_option())?,
        auto_checkpoint: policy_of_spec(message),
        start_command: message
            .start_command
            .as_option()
            .map(supervised::from_message),
    };
    spec.check(&Limits::default())?;
    Ok(spec)
}

const fn action_to_message(action: OnTimeout) -> crate::OnTimeout {
    match action {
        OnTimeout::Pause => crate::OnTimeout::ON_TIMEOUT_PAUSE,
        OnTimeout::Kill => crate::OnTimeout::ON_TIMEOUT_KILL,
    }
}

const fn action_from_message(action: Option<crate::OnTimeout>) -> OnTimeout {
    match action {
        Some(crate::OnTimeout::ON_TIMEOUT_KILL) => OnTimeout::Kill,
        Some(crate::OnTimeout::ON_TIMEOUT_PAUSE | crate::OnTimeout::ON_TIMEOUT_UNSPECIFIED)
        | None => OnTimeout::Pause,
    }
}

/// Converts settings about idleness to their message.
#[must_use]
pub fn idle_to_message(settings: IdleSettings) -> crate::IdleSettings {
    let IdleSettings {
        timeout_sec,
        on_timeout,
        auto_resume,
    } = settings;
    crate::IdleSettings {
        timeout_sec,
        on_timeout: action_to_message(on_timeout).into(),
        auto_resume,
        ..crate::IdleSettings::default()
    }
}

/// Converts a message to settings about idleness.
#[must_use]
pub fn idle_from_message(message: &crate::IdleSettings) -> IdleSettings {
    IdleSettings {
        timeout_sec: message.timeout_sec,
        on_timeout: action_from_message(message.on_timeout.as_known()),
        auto_resume: message.auto_resume,
    }
}

/// Returns the settings about idleness in the message of a spec.
#[must_use]
pub fn idle_of_spec(message: &SandboxSpec) -> IdleSettings {
    IdleSettings {
        timeout_sec: message.timeout_sec,
        on_timeout: action_from_message(message.on_timeout.as_known()),
        auto_resume: message.auto_resume,
    }
}

/// Returns the policy for automatic checkpoints in the message of a spec, unchecked.
#[must_use]
pub fn policy_of_spec(message: &SandboxSpec) -> Option<model::AutoCheckpoint> {
    message.auto_checkpoint.as_option().map(policy_from_message)
}

/// Returns the network rules of a message; `None` from a host of an earlier version, which sends
/// none.
///
/// # Errors
/// Names the rule that no host takes.
pub fn network_from_message(
    message: &SandboxSpec,
) -> Result<Option<model::NetworkSpec>, InvalidValue> {
    let rules = message.network.as_option();
    rules
        .map(|rules| network::from_message(Some(rules)))
        .transpose()
}

/// Converts a policy for automatic checkpoints to its message.
#[must_use]
pub fn policy_to_message(policy: model::AutoCheckpoint) -> AutoCheckpoint {
    AutoCheckpoint {
        before_each_command: policy.before_each_command,
        every_sec: policy.every_sec,
        keep: policy.keep,
        max_bytes: policy.max_bytes,
        ..AutoCheckpoint::default()
    }
}

/// Converts a message to a policy, unchecked.
#[must_use]
pub fn policy_from_message(message: &AutoCheckpoint) -> model::AutoCheckpoint {
    model::AutoCheckpoint {
        before_each_command: message.before_each_command,
        every_sec: message.every_sec,
        keep: message.keep,
        max_bytes: message.max_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_comes_back_as_it_was() {
        for on_timeout in OnTimeout::ALL {
            let spec = model::SandboxSpec {
                template: "minimal".parse().unwrap(),
                vcpus: 2,
                memory_mb: 256,
                timeout_sec: 60,
                on_timeout,
                auto_resume: on_timeout == OnTimeout::Kill,
                disk_mb: Some(8192),
                envs: [("A".to_owned(), "b".to_owned())].into(),
                public_ports: false,
                network: model::NetworkSpec::parse(&["*.a.com".to_owned()], &[], false).unwrap(),
                auto_checkpoint: Some(model::AutoCheckpoint {
                    before_each_command: true,
                    every_sec: Some(60),
                    keep: 3,
                    max_bytes: Some(1 << 40),
                }),
                start_command: Some(model::SupervisedCommand {
                    cmd: "server".to_owned(),
                    args: vec!["-v".to_owned()],
                    envs: [("C".to_owned(), "d".to_owned())].into(),
                    cwd: Some("/srv".to_owned()),
                    user: Some("root".to_owned()),
                    restart: model::RestartPolicy {
                        condition: model::RestartCondition::OnFailure,
                        max_retries: Some(5),
                    },
                }),
            };
            assert_eq!(from_message(&to_message(&spec)).unwrap(), spec);
            let idle = spec.idle_settings();
            assert_eq!(idle_from_message(&idle_to_message(idle)), idle);
            assert_eq!(idle_of_spec(&to_message(&spec)), idle);
        }
        assert!(from_message(&SandboxSpec::default()).is_err());
    }
}
