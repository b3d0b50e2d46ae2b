//! Stages as steps: variables expanded, and what only says something about programs kept as the
//! configuration of the result.

use std::collections::BTreeMap;

use model::ImageConfig;
use serde::Serialize;

use crate::build_args::BuildArgs;
use crate::copy::{
    CopyInstruction, CopySource, CopyStep, RawSource, absolute, clean_source, read_mode,
};
use crate::error::{DockerfileError, Result};
use crate::expand::Expander;
use crate::flags::CommandForm;
use crate::instruction::{Instruction, InstructionKind};
use crate::lines::Heredoc;
use crate::stages::{Selected, Stage};

/// Shell of commands that are text, where `SHELL` names no other.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// A step that changes files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Line of its instruction.
    pub line: usize,
    /// Instruction as written, on one line.
    pub text: String,
    pub action: StepAction,
}

/// Action of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum StepAction {
    Run(RunStep),
    Copy(CopyStep),
    /// Creates a directory and its parents, of root, unless it is there.
    MakeDir {
        path: String,
    },
}

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunStep {
    pub argv: Vec<String>,
    /// Environment: that of the image, and arguments.
    pub env: BTreeMap<String, String>,
    /// Variables that are given and change no layer.
    #[serde(skip)]
    pub proxies: BTreeMap<String, String>,
    /// `USER` or `USER:GROUP`; root where it is empty.
    pub user: String,
    pub workdir: String,
    pub is_offline: bool,
}

/// Configuration that a stage begins with, or has in the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StageState {
    pub config: ImageConfig,
    /// Of `SHELL`; empty for the usual one.
    pub shell: Vec<String>,
}

/// Steps of a stage, and the configuration of its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvaluatedStage {
    pub steps: Vec<Step>,
    pub state: StageState,
}

impl Stage {
    /// Evaluates the stage over the configuration of what it begins with.
    ///
    /// # Errors
    /// The first error, with its line.
    pub fn evaluate(
        &self,
        base: StageState,
        selected: &Selected,
        args: &BuildArgs,
    ) -> Result<EvaluatedStage> {
        let mut evaluation = Evaluation {
            stage: self,
            selected,
            build_args: args,
            state: base,
            args: BTreeMap::new(),
            has_cmd: false,
            steps: Vec::new(),
        };
        for instruction in &self.instructions {
            evaluation.apply(instruction)?;
            // At once, so that the line is that of the mistake.
            let checked = evaluation.state.config.check();
            checked.map_err(|error| DockerfileError::new(instruction.line, error.to_string()))?;
        }
        Ok(EvaluatedStage {
            steps: evaluation.steps,
            state: evaluation.state,
        })
    }
}

struct Evaluation<'a> {
    stage: &'a Stage,
    selected: &'a Selected,
    build_args: &'a BuildArgs,
    state: StageState,
    /// Values of the stage's `ARG`s so far.
    args: BTreeMap<String, String>,
    /// The stage has a `CMD` of its own.
    has_cmd: bool,
    steps: Vec<Step>,
}

impl Evaluation<'_> {
    fn apply(&mut self, instruction: &Instruction) -> Result<()> {
        let line = instruction.line;
        match &instruction.kind {
            InstructionKind::Arg(args) => self.declare_args(args, line)?,
            InstructionKind::Env(pairs) => self.set_env(pairs, line)?,
            InstructionKind::Label(pairs) => self.set_labels(pairs, line)?,
            InstructionKind::Maintainer(name) => {
                let labels = &mut self.state.config.labels;
                labels.insert("maintainer".to_owned(), name.clone());
            }
            InstructionKind::Cmd(command) => {
                self.state.config.cmd = self.command_words(command);
                self.has_cmd = true;
            }
            InstructionKind::Entrypoint(command) => {
                self.state.config.entrypoint = self.command_words(command);
                // That of the image below is for its own entry point.
                if !self.has_cmd {
                    self.state.config.cmd.clear();
                }
            }
            InstructionKind::Shell(words) => self.state.shell.clone_from(words),
            InstructionKind::User(user) => {
                self.state.config.user = self.expand_value(user, "USER", line)?;
            }
            InstructionKind::StopSignal(signal) => {
                self.state.config.stop_signal = self.expand_value(signal, "STOPSIGNAL", line)?;
            }
            InstructionKind::Expose(ports) => self.expose(ports, line)?,
            InstructionKind::Volume(paths) => {
                for path in paths {
                    let path = self.expand_value(path, "VOLUME", line)?;
                    self.state.config.volumes.insert(path);
                }
            }
            InstructionKind::Healthcheck(check) => {
                self.state.config.healthcheck = Some(check.clone());
            }
            InstructionKind::Workdir(path) => self.change_dir(path, instruction)?,
            InstructionKind::Run {
                command,
                heredocs,
                is_offline,
            } => {
                let run = self.run_step(command, heredocs, *is_offline, line)?;
                self.push_step(instruction, StepAction::Run(run));
            }
            InstructionKind::Copy(copy) => {
                let copy = self.copy_step(copy, line)?;
                self.push_step(instruction, StepAction::Copy(copy));
            }
            // It begins a stage.
            InstructionKind::From { .. } => {}
        }
        Ok(())
    }

    fn push_step(&mut self, instruction: &Instruction, action: StepAction) {
        self.steps.push(Step {
            line: instruction.line,
            text: instruction.text.clone(),
            action,
        });
    }

    /// Returns the value of a variable: `ENV` before `ARG`.
    fn lookup(&self, name: &str) -> Option<String> {
        let env = self.state.config.env.iter().rev();
        let env = env.filter_map(|pair| pair.split_once('='));
        let found = env
            .filter(|(known, _)| *known == name)
            .map(|(_, value)| value);
        let found = found.map(str::to_owned).next();
        found.or_else(|| self.args.get(name).cloned())
    }

    fn expand(&self, word: &str, line: usize) -> Result<String> {
        let lookup = |name: &str| self.lookup(name);
        let expander = Expander {
            escape: self.selected.escape,
            lookup: &lookup,
        };
        let expanded = expander.expand_word(word);
        expanded.map_err(|problem| DockerfileError::new(line, format!("{word}: {problem}")))
    }

    /// Expands a word that must not become empty.
    fn expand_value(&self, word: &str, keyword: &str, line: usize) -> Result<String> {
        let value = self.expand(word, line)?;
        match value.is_empty() {
            false => Ok(value),
            true => Err(DockerfileError::new(
                line,
                format!("{keyword} {word} is empty; set its variable with ARG or ENV before"),
            )),
        }
    }

    fn declare_args(&mut self, args: &[(String, Option<String>)], line: usize) -> Result<()> {
        for (name, default) in args {
            let given = self.build_args.values.get(name).cloned();
            let default = default.as_ref().map(|word| self.expand(word, line));
            let value = match (given, default.transpose()?) {
                (Some(given), _) => Some(given),
                (None, Some(default)) => Some(default),
                (None, None) => {
                    let global = self.selected.globals.get(name).cloned();
                    global.or_else(|| self.build_args.platform.variable(name))
                }
            };
            if let Some(value) = value {
                self.args.insert(name.clone(), value);
            }
        }
        Ok(())
    }

    fn set_env(&mut self, pairs: &[(String, String)], line: usize) -> Result<()> {
        // All of an instruction see the values before it.
        let expanded: Result<Vec<_>> = pairs
            .iter()
            .map(|(name, value)| Ok((name, self.expand(value, line)?)))
            .collect();
        for (name, value) in expanded? {
            let pair = format!("{name}={value}");
            let env = &mut self.state.config.env;
            let prefix = format!("{name}=");
            match env.iter_mut().find(|known| known.starts_with(&prefix)) {
                Some(known) => *known = pair,
                None => env.push(pair),
            }
        }
        Ok(())
    }

    fn set_labels(&mut self, pairs: &[(String, String)], line: usize) -> Result<()> {
        for (name, value) in pairs {
            let name = self.expand(name, line)?;
            let value = self.expand(value, line)?;
            self.state.config.labels.insert(name, value);
        }
        Ok(())
    }

    fn expose(&mut self, ports: &[String], line: usize) -> Result<()> {
        for word in ports {
            let value = self.expand_value(word, "EXPOSE", line)?;
            // A variable may have several.
            for port in value.split_ascii_whitespace() {
                let port = match port.contains('/') {
                    true => port.to_ascii_lowercase(),
                    false => format!("{port}/tcp"),
                };
                self.state.config.exposed_ports.insert(port);
            }
        }
        Ok(())
    }

    fn workdir(&self) -> &str {
        match self.state.config.working_dir.as_str() {
            "" => "/",
            dir => dir,
        }
    }

    fn change_dir(&mut self, path: &str, instruction: &Instruction) -> Result<()> {
        let path = self.expand_value(path, "WORKDIR", instruction.line)?;
        let mut path = absolute(&path, self.workdir());
        if path.len() > 1 && path.ends_with('/') {
            path.pop();
        }
        self.state.config.working_dir.clone_from(&path);
        if path != "/" {
            self.push_step(instruction, StepAction::MakeDir { path });
        }
        Ok(())
    }

    fn shell_words(&self, text: &str) -> Vec<String> {
        let shell: Vec<String> = match self.state.shell.is_empty() {
            true => SHELL.map(str::to_owned).to_vec(),
            false => self.state.shell.clone(),
        };
        [shell, vec![text.to_owned()]].concat()
    }

    fn command_words(&self, command: &CommandForm) -> Vec<String> {
        match command {
            CommandForm::Exec(words) => words.clone(),
            CommandForm::Shell(text) => self.shell_words(text),
        }
    }

    fn run_step(
        &self,
        command: &CommandForm,
        heredocs: &[Heredoc],
        is_offline: bool,
        line: usize,
    ) -> Result<RunStep> {
        let argv = match (command, heredocs) {
            (CommandForm::Shell(text), [script]) if *text == script.word => {
                self.script_words(script, line)?
            }
            // The shell reads them itself.
            (CommandForm::Shell(text), heredocs) => {
                let bodies = heredocs.iter();
                let bodies = bodies.map(|doc| format!("\n{}{}", doc.content, doc.name));
                self.shell_words(&format!("{text}{}", bodies.collect::<String>()))
            }
            (command, _) => self.command_words(command),
        };
        let mut env = self.args.clone();
        env.extend(self.state.config.environment());
        Ok(RunStep {
            argv,
            env,
            proxies: self.build_args.proxies().collect(),
            user: self.state.config.user.clone(),
            workdir: self.workdir().to_owned(),
            is_offline,
        })
    }

    /// Returns the command for a `RUN` that is a here-document alone.
    fn script_words(&self, script: &Heredoc, line: usize) -> Result<Vec<String>> {
        if !script.content.starts_with("#!") {
            return Ok(self.shell_words(&script.content));
        }
        let first = script.content.lines().next().unwrap_or_default();
        let interpreter = first.trim_start_matches("#!").trim();
        let name = &script.name;
        Err(DockerfileError::new(
            line,
            format!(
                "a here-document with #! is not supported; give it to its program: RUN {interpreter} <<{name}"
            ),
        ))
    }

    fn copy_step(&self, copy: &CopyInstruction, line: usize) -> Result<CopyStep> {
        let index = self.stage.index;
        let from = copy.from.as_ref();
        let from = from.map(|from| self.selected.find_source(from, index, line));
        let chown = copy.chown.as_ref();
        let chown = chown.map(|chown| self.expand_value(chown, "--chown", line));
        let chmod = copy.chmod.as_ref();
        let chmod = chmod.map(|mode| read_mode(&self.expand(mode, line)?, line));
        let mut sources = Vec::new();
        for source in &copy.sources {
            sources.push(match source {
                RawSource::Path(path) => CopySource::Path(clean_source(&self.expand(path, line)?)),
                RawSource::Heredoc(file) => CopySource::Inline {
                    name: file.name.clone(),
                    content: self.heredoc_content(file, line)?,
                },
            });
        }
        let destination = self.expand_value(&copy.destination, "the destination", line)?;
        Ok(CopyStep {
            from: from.transpose()?,
            sources,
            destination: absolute(&destination, self.workdir()),
            chown: chown.transpose()?,
            chmod: chmod.transpose()?,
            unpacks: copy.unpacks,
        })
    }

    fn heredoc_content(&self, file: &Heredoc, line: usize) -> Result<String> {
        if !file.expands {
            return Ok(file.content.clone());
        }
        let lookup = |name: &str| self.lookup(name);
        let expander = Expander {
            escape: self.selected.escape,
            lookup: &lookup,
        };
        let expanded = expander.expand_text(&file.content);
        expanded.map_err(|problem| DockerfileError::new(line, format!("{}: {problem}", file.word)))
    }
}

#[cfg(test)]
mod tests;
