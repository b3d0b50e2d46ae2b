//! Dockerfiles: parsed, expanded, and planned as steps with keys. No I/O.
//!
//! ```text
//!   text ── [`Dockerfile::parse`] ──→ instructions by stage, checked for what can be told without images
//!        ── [`Dockerfile::select_stages`] ──→ stages that the target needs, and where each begins
//!        ── [`Stage::evaluate`] with the configuration of its image ──→ [`Step`]s, and the configuration of the result
//!        ── [`StepKey`] with the digests of copied files ──→ name of the layer that the step leaves
//! ```
//! Splitting and expansion follow BuildKit (frontend/dockerfile: `parser`, `shell`), which is what
//! Dockerfiles are written for. Of the crates, `dockerfile-parser` knows no here-documents, and
//! `parse-dockerfile` only one that begins a `RUN`: `RUN cat <<EOF > /file`, which BuildKit takes,
//! becomes an unknown instruction.

mod build_args;
mod copy;
mod error;
mod evaluate;
mod expand;
mod flags;
mod healthcheck;
mod ignore;
mod instruction;
mod key;
mod lines;
mod stage_base;
mod stages;
mod words;

pub use build_args::{BuildArgs, Platform};
pub use copy::{CopySource, CopyStep};
pub use error::DockerfileError;
pub use evaluate::{EvaluatedStage, RunStep, StageState, Step, StepAction};
pub use ignore::{DockerIgnore, IgnoreError};
pub use key::StepKey;
pub use stage_base::StageBase;
pub use stages::{Dockerfile, Selected, Stage};

/// Path of a Dockerfile in a context that it is no part of: nothing copies it.
pub const SEPARATE_DOCKERFILE: &str = ".wrenn-dockerfile";

/// Parses and evaluates bytes as a Dockerfile, for fuzzing.
pub fn parse_untrusted(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(dockerfile) = Dockerfile::parse(&text) else {
        return;
    };
    let args = BuildArgs::default();
    let Ok(selected) = dockerfile.select_stages(None, &args) else {
        return;
    };
    for stage in &selected.stages {
        let _ = stage.evaluate(StageState::default(), &selected, &args);
    }
}
