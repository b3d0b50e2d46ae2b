//! The template that E2B's SDKs of the code interpreter ask for, `code-interpreter-v1`.
//!
//! It is a snapshot with memory whose server runs (`scripts/save-code-interpreter.sh`). Where the
//! team has none of that name, the base image `code-interpreter` stands for it, and its server is
//! the start command: the first cell then waits for its start.

use model::{RestartCondition, RestartPolicy, SupervisedCommand, TemplateName};

/// Name that the SDKs ask for.
pub const TEMPLATE: &str = "code-interpreter-v1";
/// Base image of `images/code-interpreter`.
const IMAGE: &str = "code-interpreter";
/// Memory of a sandbox of the image, in MiB: a Python kernel with pandas and matplotlib takes a
/// quarter of it.
pub const IMAGE_MEMORY_MB: u32 = 1024;

/// Returns the name of the image.
pub fn image_name() -> TemplateName {
    IMAGE.parse().expect("a valid name")
}

/// Returns the command that serves on port 49999.
pub fn server_command() -> SupervisedCommand {
    SupervisedCommand {
        cmd: "code-interpreter".to_owned(),
        args: vec!["serve".to_owned()],
        user: Some("root".to_owned()),
        restart: RestartPolicy {
            condition: RestartCondition::Always,
            max_retries: None,
        },
        ..SupervisedCommand::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_command_is_valid() {
        server_command().check().unwrap();
        assert_eq!(image_name().as_str(), "code-interpreter");
        assert!(TEMPLATE.parse::<TemplateName>().is_ok());
    }
}
