//! Dockerfiles, and what they become.

use proptest::prelude::*;

use crate::{
    BuildArgs, CopySource, Dockerfile, DockerfileError, EvaluatedStage, StageBase, StageState,
    Step, StepAction,
};

fn args(values: &[(&str, &str)]) -> BuildArgs {
    let values = values.iter();
    let values = values.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    BuildArgs {
        values: values.collect(),
        ..BuildArgs::default()
    }
}

fn evaluate_over(
    text: &str,
    base: StageState,
    args: &BuildArgs,
) -> Result<EvaluatedStage, DockerfileError> {
    let selected = Dockerfile::parse(text)?.select_stages(None, args)?;
    let stage = selected.stages.last().unwrap();
    stage.evaluate(base, &selected, args)
}

fn evaluate(text: &str) -> EvaluatedStage {
    evaluate_over(text, StageState::default(), &BuildArgs::default()).unwrap()
}

fn argv(step: &Step) -> Vec<String> {
    match &step.action {
        StepAction::Run(run) => run.argv.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn configuration_collects_instructions() {
    let text = r#"
FROM base
ENV A=1 B="two $A words"
ENV PATH=/opt/bin:$PATH
ENV C legacy  form
LABEL "x.y"="1 2" z=$A
LABEL z=3
EXPOSE 80 53/UDP
VOLUME /data /logs
VOLUME ["/json"]
STOPSIGNAL SIGQUIT
WORKDIR /srv
WORKDIR app
USER app:staff
ENTRYPOINT ["/bin/serve"]
CMD --port $A
HEALTHCHECK --interval=5s CMD true
MAINTAINER Some One
"#;
    let mut base = StageState::default();
    base.config.env = vec!["PATH=/bin".to_owned()];
    base.config.cmd = vec!["old".to_owned()];
    let evaluated = evaluate_over(text, base, &BuildArgs::default()).unwrap();
    let config = evaluated.state.config;
    let env = [
        "PATH=/opt/bin:/bin",
        "A=1",
        "B=two  words",
        "C=legacy  form",
    ];
    assert_eq!(config.env, env);
    assert_eq!(config.labels["z"], "3");
    assert_eq!(config.labels["x.y"], "1 2");
    assert_eq!(config.labels["maintainer"], "Some One");
    let ports: Vec<String> = config.exposed_ports.into_iter().collect();
    assert_eq!(ports, ["53/udp", "80/tcp"]);
    assert_eq!(config.volumes.len(), 3);
    assert_eq!(config.stop_signal, "SIGQUIT");
    assert_eq!(config.user, "app:staff");
    assert_eq!(config.working_dir, "/srv/app");
    assert_eq!(config.entrypoint, ["/bin/serve"]);
    assert_eq!(config.cmd, ["/bin/sh", "-c", "--port $A"]);
    assert_eq!(config.healthcheck.unwrap().test, ["CMD-SHELL", "true"]);
    let dirs: Vec<_> = evaluated.steps.iter().map(|step| &step.action).collect();
    let dir = |path: &str| StepAction::MakeDir {
        path: path.to_owned(),
    };
    assert_eq!(dirs, [&dir("/srv"), &dir("/srv/app")]);
}

#[test]
fn entrypoint_drops_inherited_command() {
    let mut base = StageState::default();
    base.config.cmd = vec!["old".to_owned()];
    let text = "FROM a\nENTRYPOINT [\"new\"]";
    let evaluated = evaluate_over(text, base, &BuildArgs::default()).unwrap();
    assert!(evaluated.state.config.cmd.is_empty());
    let text = "FROM a\nCMD [\"own\"]\nENTRYPOINT [\"new\"]";
    assert_eq!(evaluate(text).state.config.cmd, ["own"]);
}

#[test]
fn arguments_have_scopes() {
    let text = "\
ARG VERSION=1
ARG NEXT=$VERSION.5
FROM base:$VERSION AS first
RUN echo $VERSION
ARG VERSION
ARG OTHER=${NEXT:-none}
ENV KEEP=$VERSION-$OTHER
RUN two
FROM first
RUN three
ARG TARGETARCH
ARG KEEP=arg
RUN four $KEEP
";
    let args = args(&[("VERSION", "7"), ("UNUSED", "x"), ("http_proxy", "p")]);
    let dockerfile = Dockerfile::parse(text).unwrap();
    let selected = dockerfile.select_stages(None, &args).unwrap();
    assert_eq!(selected.unused_args, ["UNUSED"]);
    let base = StageBase::Image("base:7".to_owned());
    assert_eq!(selected.stages[0].base, base);
    assert_eq!(selected.stages[1].base, StageBase::Stage(0));
    let evaluate = |index: usize, base| {
        let stage: &crate::Stage = &selected.stages[index];
        stage.evaluate(base, &selected, &args).unwrap()
    };
    let first = evaluate(0, StageState::default());
    let env = |step: &Step| match &step.action {
        StepAction::Run(run) => run.env.clone(),
        other => panic!("{other:?}"),
    };
    assert!(
        env(&first.steps[0]).is_empty(),
        "a global is none of the stage"
    );
    let two = env(&first.steps[1]);
    assert_eq!(two["VERSION"], "7");
    // `NEXT` is not declared in the stage.
    assert_eq!(two["OTHER"], "none");
    assert_eq!(two["KEEP"], "7-none");
    let second = evaluate(1, first.state);
    let three = env(&second.steps[0]);
    assert_eq!(three.keys().collect::<Vec<_>>(), ["KEEP"]);
    let four = env(&second.steps[1]);
    assert_eq!((four["KEEP"].as_str(), four.len()), ("7-none", 2));
    let StepAction::Run(run) = &second.steps[0].action else {
        panic!("{second:?}");
    };
    assert_eq!(run.proxies["http_proxy"], "p");
}

#[test]
fn commands_run_in_their_shell() {
    let text = "\
FROM a
RUN one \\
  two
RUN [\"/bin/x\", \"$y\"]
SHELL [\"/bin/bash\", \"-ec\"]
RUN <<EOF
a
b
EOF
RUN cat <<EOF > /c && tr <<-'END' a b
$one
EOF
\ttwo
END
";
    let evaluated = evaluate(text);
    let words: Vec<_> = evaluated.steps.iter().map(argv).collect();
    assert_eq!(words[0], ["/bin/sh", "-c", "one   two"]);
    assert_eq!(words[1], ["/bin/x", "$y"]);
    assert_eq!(words[2], ["/bin/bash", "-ec", "a\nb\n"]);
    let script = "cat <<EOF > /c && tr <<-'END' a b\n$one\nEOF\ntwo\nEND";
    assert_eq!(words[3], ["/bin/bash", "-ec", script]);
    assert_eq!(evaluated.steps[3].line, 10);
}

#[test]
fn copies_are_absolute() {
    let text = "\
FROM a AS build
FROM b
WORKDIR /srv
ENV DIR=lib NAME=world
COPY --from=build --chown=1:$NAME --chmod=0640 /out/$DIR/*.so ./
COPY --from=other/image:1 /x y
COPY <<greeting.txt <<'RAW' /etc/
hello $NAME \"x\"
greeting.txt
$NAME
RAW
ADD a.tar.gz /
";
    let evaluated = evaluate(text);
    let copies: Vec<_> = evaluated
        .steps
        .iter()
        .filter_map(|step| match &step.action {
            StepAction::Copy(copy) => Some(copy),
            _ => None,
        })
        .collect();
    assert_eq!(copies[0].from, Some(StageBase::Stage(0)));
    let path = |path: &str| CopySource::Path(path.to_owned());
    assert_eq!(copies[0].sources, [path("out/lib/*.so")]);
    assert_eq!(copies[0].destination, "/srv/");
    assert_eq!(copies[0].chown.as_deref(), Some("1:world"));
    assert_eq!(copies[0].chmod, Some(0o640));
    let other = StageBase::Image("other/image:1".to_owned());
    assert_eq!(copies[1].from, Some(other));
    assert_eq!(copies[1].destination, "/srv/y");
    let inline = |name: &str, content: &str| CopySource::Inline {
        name: name.to_owned(),
        content: content.to_owned(),
    };
    let files = [
        inline("greeting.txt", "hello world \"x\"\n"),
        inline("RAW", "$NAME\n"),
    ];
    assert_eq!(copies[2].sources, files);
    assert!(copies[3].unpacks);
}

#[test]
fn targets_need_their_stages_alone() {
    let text = "\
FROM scratch AS one
FROM scratch AS two
RUN x
FROM one AS three
COPY --from=0 a b
FROM two AS Four
COPY --from=three a b
";
    let dockerfile = Dockerfile::parse(text).unwrap();
    let select = |target: Option<&str>| {
        let selected = dockerfile.select_stages(target, &BuildArgs::default())?;
        let indexes = selected.stages.iter().map(|stage| stage.index);
        Ok::<_, DockerfileError>(indexes.collect::<Vec<_>>())
    };
    assert_eq!(select(None).unwrap(), [0, 1, 2, 3]);
    assert_eq!(select(Some("three")).unwrap(), [0, 2]);
    assert_eq!(select(Some("1")).unwrap(), [1]);
    assert_eq!(select(Some("FOUR")).unwrap(), [0, 1, 2, 3]);
    let error = select(Some("five")).unwrap_err();
    assert!(error.problem.contains("four, one, three, two"), "{error}");
}

#[test]
fn mistakes_are_told_with_lines() {
    for (text, line, said) in [
        ("RUN x", 1, "begins with FROM"),
        ("# only\n", 1, "there is no FROM"),
        ("FROM a AS x\nFROM b AS X", 2, "a stage x already"),
        ("FROM $NONE", 1, "is empty"),
        ("FROM a AS x\nCOPY --from=x y z", 2, "before this one"),
        ("FROM --platform=linux/mips a", 1, "cannot be built here"),
        ("FROM a\n\nUSER ${NAME:?who}", 3, "NAME: who"),
        ("FROM a\nUSER $NAME", 2, "USER $NAME is empty"),
        ("FROM a\nEXPOSE http", 2, "a port is a number"),
        ("FROM a\nSTOPSIGNAL SIGX", 2, "must be a signal"),
        ("FROM a\nENV X='a", 2, "missing at the end"),
        ("FROM a\nCOPY --chmod=rwx a b", 2, "octal"),
        (
            "FROM a\nRUN <<E\n#!/usr/bin/python3\nE",
            2,
            "RUN /usr/bin/python3 <<E",
        ),
    ] {
        let args = BuildArgs::default();
        let selected = Dockerfile::parse(text).and_then(|file| file.select_stages(None, &args));
        let evaluated = selected.and_then(|selected| {
            let mut stages = selected.stages.iter();
            stages.try_for_each(|stage| {
                let base = StageState::default();
                stage.evaluate(base, &selected, &args).map(drop)
            })
        });
        let error = evaluated.unwrap_err();
        assert_eq!(error.line, line, "{text}: {error}");
        assert!(error.problem.contains(said), "{text}: {error}");
    }
}

proptest! {
    /// Text of any kind is read or refused; the reader never panics.
    #[test]
    fn any_text_is_read_or_refused(
        pieces in prop::collection::vec(prop::sample::select(PIECES), 0..40),
        noise in ".{0,8}",
    ) {
        let text = pieces.concat() + &noise;
        crate::parse_untrusted(text.as_bytes());
    }
}

/// Pieces of Dockerfiles, which make more sense than any bytes.
const PIECES: &[&str] = &[
    "FROM ",
    "scratch",
    "a AS b\n",
    "RUN ",
    "COPY ",
    "ADD ",
    "ENV ",
    "ARG ",
    "HEALTHCHECK ",
    "WORKDIR ",
    "EXPOSE ",
    "VOLUME ",
    "LABEL ",
    "CMD ",
    "\n",
    "\\\n",
    " ",
    "<<EOF",
    "<<-'E'",
    "EOF\n",
    "\"",
    "'",
    "$",
    "${",
    "x:-",
    "}",
    "[\"a\"]",
    "--from=",
    "--chown=",
    "--interval=1m",
    "b",
    "/",
    "..",
    "*",
    "=",
    "# escape=`\n",
    "`",
    "\u{e9}",
    "\r\n",
];
