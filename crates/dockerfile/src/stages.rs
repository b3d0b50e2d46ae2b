//! Stages of a Dockerfile, and which of them a target needs.

use std::collections::{BTreeMap, BTreeSet};

use crate::build_args::BuildArgs;
use crate::error::{DockerfileError, Result};
use crate::expand::Expander;
use crate::instruction::{Instruction, InstructionKind, read_instruction};
use crate::lines::split_lines;
use crate::stage_base::StageBase;

/// Most instructions of a Dockerfile.
const MAX_INSTRUCTIONS: usize = 2000;

/// A Dockerfile that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    pub(crate) escape: char,
    /// `ARG` before the first `FROM`: line, name, default.
    globals: Vec<(usize, String, Option<String>)>,
    stages: Vec<RawStage>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct RawStage {
    line: usize,
    name: Option<String>,
    image: String,
    platform: Option<String>,
    instructions: Vec<Instruction>,
}

/// A stage that the target needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Number in the Dockerfile, from 0 on.
    pub index: usize,
    pub name: Option<String>,
    /// Line of its `FROM`.
    pub line: usize,
    pub base: StageBase,
    pub(crate) instructions: Vec<Instruction>,
}

/// The stages that a target needs, each after those that it builds on; the target is the last one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    pub stages: Vec<Stage>,
    pub(crate) escape: char,
    /// Values of global arguments.
    pub(crate) globals: BTreeMap<String, String>,
    /// Numbers of stages by name.
    pub(crate) names: BTreeMap<String, usize>,
    /// Build arguments that no `ARG` of the whole file declares.
    pub unused_args: Vec<String>,
}

impl Dockerfile {
    /// Reads a Dockerfile, and checks everything that can be told without its images.
    ///
    /// # Errors
    /// The first error, with its line.
    pub fn parse(text: &str) -> Result<Self> {
        let (lines, escape) = split_lines(text)?;
        if let Some(line) = lines.get(MAX_INSTRUCTIONS) {
            let text = format!("a Dockerfile may have {MAX_INSTRUCTIONS} instructions at most");
            return Err(DockerfileError::new(line.number, text));
        }
        let mut dockerfile = Self {
            escape,
            globals: Vec::new(),
            stages: Vec::new(),
        };
        for line in &lines {
            dockerfile.push(read_instruction(line, escape)?)?;
        }
        if dockerfile.stages.is_empty() {
            let text = "there is no FROM; a Dockerfile begins with FROM IMAGE";
            return Err(DockerfileError::new(1, text));
        }
        Ok(dockerfile)
    }

    fn push(&mut self, instruction: Instruction) -> Result<()> {
        let line = instruction.line;
        match (instruction.kind, self.stages.last_mut()) {
            (
                InstructionKind::From {
                    image,
                    name,
                    platform,
                },
                _,
            ) => {
                let is_taken = name.is_some() && self.stages.iter().any(|stage| stage.name == name);
                if is_taken {
                    let name = name.unwrap_or_default();
                    let text = format!("there is a stage {name} already; choose another name");
                    return Err(DockerfileError::new(line, text));
                }
                self.stages.push(RawStage {
                    line,
                    name,
                    image,
                    platform,
                    instructions: Vec::new(),
                });
            }
            (InstructionKind::Arg(args), None) => {
                let args = args.into_iter().map(|(name, value)| (line, name, value));
                self.globals.extend(args);
            }
            (_, None) => {
                let text = "a Dockerfile begins with FROM IMAGE; only ARG may stand before it";
                return Err(DockerfileError::new(line, text));
            }
            (kind, Some(stage)) => stage.instructions.push(Instruction {
                kind,
                ..instruction
            }),
        }
        Ok(())
    }

    /// Selects the stages that `target` needs: a name or number, the last stage without one.
    ///
    /// # Errors
    /// With the line, also for a target that there is not.
    pub fn select_stages(&self, target: Option<&str>, args: &BuildArgs) -> Result<Selected> {
        let globals = self.global_values(args)?;
        let names: BTreeMap<String, usize> = self
            .stages
            .iter()
            .enumerate()
            .filter_map(|(index, stage)| Some((stage.name.clone()?, index)))
            .collect();
        let mut selected = Selected {
            stages: Vec::new(),
            escape: self.escape,
            globals,
            names,
            unused_args: self.unused_args(args),
        };
        let target = self.find_target(target, &selected)?;
        let mut needed = BTreeSet::new();
        self.add_needed(target, &mut selected, &mut needed, args)?;
        selected.stages.sort_by_key(|stage| stage.index);
        Ok(selected)
    }

    fn find_target(&self, target: Option<&str>, selected: &Selected) -> Result<usize> {
        let last = self.stages.len() - 1;
        let Some(target) = target else {
            return Ok(last);
        };
        let number = target.parse().ok().filter(|number| *number <= last);
        let named = selected.names.get(&target.to_ascii_lowercase()).copied();
        named.or(number).ok_or_else(|| {
            let known: Vec<&str> = selected.names.keys().map(String::as_str).collect();
            let known = match known.is_empty() {
                true => format!("its stages have no names, and the numbers 0 to {last}"),
                false => format!("its stages are {}", known.join(", ")),
            };
            DockerfileError::new(1, format!("there is no stage {target:?}; {known}"))
        })
    }

    /// Adds a stage after those that it needs.
    fn add_needed(
        &self,
        index: usize,
        selected: &mut Selected,
        needed: &mut BTreeSet<usize>,
        args: &BuildArgs,
    ) -> Result<()> {
        let mut open = vec![index];
        while let Some(index) = open.pop() {
            if !needed.insert(index) {
                continue;
            }
            let raw = &self.stages[index];
            let base = self.base_of(index, selected, args)?;
            if let StageBase::Stage(base) = base {
                open.push(base);
            }
            for instruction in &raw.instructions {
                if let InstructionKind::Copy(copy) = &instruction.kind
                    && let Some(from) = &copy.from
                    && let StageBase::Stage(from) =
                        selected.find_source(from, index, instruction.line)?
                {
                    open.push(from);
                }
            }
            selected.stages.push(Stage {
                index,
                name: raw.name.clone(),
                line: raw.line,
                base,
                instructions: raw.instructions.clone(),
            });
        }
        Ok(())
    }

    fn base_of(&self, index: usize, selected: &Selected, args: &BuildArgs) -> Result<StageBase> {
        let stage = &self.stages[index];
        let image = self.expand_global(&stage.image, selected, args, stage.line)?;
        if let Some(platform) = &stage.platform {
            let platform = self.expand_global(platform, selected, args, stage.line)?;
            args.platform.check(&platform, stage.line)?;
        }
        if image.is_empty() {
            let text = format!(
                "FROM {} is empty; give its ARG a default before the first FROM, or a value with --build-arg",
                stage.image
            );
            return Err(DockerfileError::new(stage.line, text));
        }
        let earlier = selected.names.get(&image.to_ascii_lowercase()).copied();
        Ok(match earlier.filter(|earlier| *earlier < index) {
            Some(earlier) => StageBase::Stage(earlier),
            None if image == "scratch" => StageBase::Scratch,
            None => StageBase::Image(image),
        })
    }

    fn expand_global(
        &self,
        word: &str,
        selected: &Selected,
        args: &BuildArgs,
        line: usize,
    ) -> Result<String> {
        let lookup = |name: &str| {
            let global = selected.globals.get(name).cloned();
            global.or_else(|| args.platform.variable(name))
        };
        let expander = Expander {
            escape: self.escape,
            lookup: &lookup,
        };
        let expanded = expander.expand_word(word);
        expanded.map_err(|problem| DockerfileError::new(line, format!("{word}: {problem}")))
    }

    fn global_values(&self, args: &BuildArgs) -> Result<BTreeMap<String, String>> {
        let mut values: BTreeMap<String, String> = BTreeMap::new();
        for (line, name, default) in &self.globals {
            let given = args.values.get(name).cloned();
            let value = match (given, default) {
                (Some(given), _) => given,
                (None, None) => continue,
                (None, Some(default)) => {
                    let lookup = |name: &str| {
                        let global = values.get(name).cloned();
                        global.or_else(|| args.platform.variable(name))
                    };
                    let expander = Expander {
                        escape: self.escape,
                        lookup: &lookup,
                    };
                    let expanded = expander.expand_word(default);
                    expanded.map_err(|problem| {
                        DockerfileError::new(*line, format!("ARG {name}: {problem}"))
                    })?
                }
            };
            values.insert(name.clone(), value);
        }
        Ok(values)
    }

    fn unused_args(&self, args: &BuildArgs) -> Vec<String> {
        let globals = self.globals.iter().map(|(_, name, _)| name.as_str());
        let instructions = self.stages.iter().flat_map(|stage| &stage.instructions);
        let declared = instructions.flat_map(|instruction| match &instruction.kind {
            InstructionKind::Arg(args) => args.iter().map(|(name, _)| name.as_str()).collect(),
            _ => Vec::new(),
        });
        let known: BTreeSet<&str> = globals.chain(declared).collect();
        let given = args.values.keys().filter(|name| !BuildArgs::is_proxy(name));
        let unused = given.filter(|name| !known.contains(name.as_str()));
        unused.cloned().collect()
    }
}

impl Selected {
    /// Returns the references of all images that the stages begin with or copy from.
    #[must_use]
    pub fn image_references(&self) -> BTreeSet<String> {
        let mut references = BTreeSet::new();
        for stage in &self.stages {
            if let StageBase::Image(image) = &stage.base {
                references.insert(image.clone());
            }
            for instruction in &stage.instructions {
                if let InstructionKind::Copy(copy) = &instruction.kind
                    && let Some(from) = &copy.from
                    && let Ok(StageBase::Image(image)) =
                        self.find_source(from, stage.index, instruction.line)
                {
                    references.insert(image);
                }
            }
        }
        references
    }

    /// Returns the source that `--from` of a stage names.
    ///
    /// # Errors
    /// For the stage itself, and later ones.
    pub(crate) fn find_source(&self, from: &str, stage: usize, line: usize) -> Result<StageBase> {
        let named = self.names.get(&from.to_ascii_lowercase()).copied();
        let index = match (named, from.parse::<usize>()) {
            (Some(index), _) | (None, Ok(index)) => index,
            (None, Err(_)) => return Ok(StageBase::Image(from.to_owned())),
        };
        if index < stage {
            return Ok(StageBase::Stage(index));
        }
        let text = format!("COPY --from={from} must name a stage before this one, or an image");
        Err(DockerfileError::new(line, text))
    }
}
