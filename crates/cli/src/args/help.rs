//! Help texts that follow the flags. Their paragraphs are wrapped for the source, and clap wraps
//! lines for the terminal: so the lines of a paragraph are joined first.

use clap::{Command, CommandFactory, FromArgMatches};

use super::Cli;

/// Parses the command line of this process.
///
/// # Errors
/// Also for a request for help, with the help as its text.
pub fn parse() -> Result<Cli, clap::Error> {
    let matches = join_paragraphs(Cli::command()).try_get_matches()?;
    Cli::from_arg_matches(&matches)
}

/// Joins the lines of each paragraph in the help of a command and its subcommands.
fn join_paragraphs(command: Command) -> Command {
    let joined = command
        .get_after_help()
        .map(|help| join_lines(&help.to_string()));
    let command = command.mut_subcommands(join_paragraphs);
    match joined {
        Some(help) => command.after_help(help),
        None => command,
    }
}

/// Joins lines that follow each other, but for empty and indented ones, which are examples.
fn join_lines(text: &str) -> String {
    let is_prose = |line: &str| !line.is_empty() && !line.starts_with(' ');
    let mut joined = String::new();
    let mut after_prose = false;
    for (number, line) in text.lines().enumerate() {
        if number > 0 {
            joined.push(if after_prose && is_prose(line) {
                ' '
            } else {
                '\n'
            });
        }
        joined.push_str(line);
        after_prose = is_prose(line);
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: usize = 100;

    fn check_lines(command: &mut Command) {
        let name = command.get_name().to_owned();
        let help = command.render_help().to_string();
        let is_prose = |line: &str| !line.is_empty() && !line.starts_with(' ');
        for pair in help.lines().collect::<Vec<_>>().windows(2) {
            let word = pair[1].split(' ').next().unwrap_or_default();
            if is_prose(pair[0]) && !pair[0].ends_with(':') && is_prose(pair[1]) {
                let line = pair[0];
                let length = line.len() + 1 + word.len();
                assert!(length > WIDTH, "{name}: {line:?} has room for {word:?}");
            }
        }
        command.get_subcommands_mut().for_each(check_lines);
    }

    #[test]
    fn help_breaks_lines_at_width_only() {
        let mut command = join_paragraphs(Cli::command()).term_width(WIDTH);
        command.build();
        check_lines(&mut command);
    }

    #[test]
    fn examples_keep_their_lines() {
        let text = "one\ntwo\n\nthree\n  four\n  five\nsix";
        assert_eq!(join_lines(text), "one two\n\nthree\n  four\n  five\nsix");
    }
}
