//! Expansion of variables, and removal of quotes.

use std::iter::Peekable;
use std::str::Chars;

/// Depth of `${a:-${b:-…}}`.
const MAX_DEPTH: usize = 16;

/// Longest result: values that name each other twice would double with each line.
const MAX_LENGTH: usize = 1 << 20;

/// Expands words of a Dockerfile.
pub(crate) struct Expander<'a> {
    pub(crate) escape: char,
    pub(crate) lookup: &'a dyn Fn(&str) -> Option<String>,
}

/// How quotes are taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    Removed,
    /// Of here-documents.
    Kept,
}

impl Expander<'_> {
    /// Expands a word, and removes its quotes.
    ///
    /// # Errors
    /// Text that says what is wrong with it.
    pub(crate) fn expand_word(&self, word: &str) -> Result<String, String> {
        self.expand(word, Quotes::Removed)
    }

    /// Expands variables of a here-document; quotes stay.
    ///
    /// # Errors
    /// Text that says what is wrong with it.
    pub(crate) fn expand_text(&self, text: &str) -> Result<String, String> {
        self.expand(text, Quotes::Kept)
    }

    fn expand(&self, text: &str, quotes: Quotes) -> Result<String, String> {
        let mut chars = text.chars().peekable();
        let expanded = self.read(&mut chars, None, quotes, 0)?;
        Ok(expanded)
    }

    /// Reads up to `end`, which is consumed, or up to the end of the text without one.
    fn read(
        &self,
        chars: &mut Peekable<Chars<'_>>,
        end: Option<char>,
        quotes: Quotes,
        depth: usize,
    ) -> Result<String, String> {
        let mut out = String::new();
        while let Some(c) = chars.next() {
            if Some(c) == end {
                return Ok(out);
            }
            match c {
                '\'' if quotes == Quotes::Removed => read_single_quoted(chars, &mut out)?,
                '"' if quotes == Quotes::Removed => {
                    self.read_double_quoted(chars, &mut out, depth)?;
                }
                '$' => out.push_str(&self.read_variable(chars, depth)?),
                c if c == self.escape => {
                    let next = chars.next();
                    // Only what has a meaning is escaped in a here-document.
                    if quotes == Quotes::Kept && next != Some('$') && next != Some(c) {
                        out.push(c);
                    }
                    out.extend(next);
                }
                c => out.push(c),
            }
            if out.len() > MAX_LENGTH {
                return Err(format!("it expands to more than {MAX_LENGTH} bytes"));
            }
        }
        match end {
            Some(end) => Err(format!("a {end:?} is missing at the end")),
            None => Ok(out),
        }
    }

    fn read_double_quoted(
        &self,
        chars: &mut Peekable<Chars<'_>>,
        out: &mut String,
        depth: usize,
    ) -> Result<(), String> {
        while let Some(c) = chars.next() {
            match c {
                '"' => return Ok(()),
                '$' => out.push_str(&self.read_variable(chars, depth)?),
                c if c == self.escape => {
                    let next = chars.next();
                    if !next.is_some_and(|next| matches!(next, '"' | '$') || next == c) {
                        out.push(c);
                    }
                    out.extend(next);
                }
                c => out.push(c),
            }
        }
        Err("a '\"' is missing at the end".to_owned())
    }

    /// Reads a variable, whose `$` is consumed, and returns its value.
    fn read_variable(
        &self,
        chars: &mut Peekable<Chars<'_>>,
        depth: usize,
    ) -> Result<String, String> {
        if depth > MAX_DEPTH {
            return Err(format!("variables are nested more than {MAX_DEPTH} deep"));
        }
        if chars.next_if_eq(&'{').is_none() {
            let name = read_name(chars);
            return Ok(match name.is_empty() {
                true => "$".to_owned(),
                false => (self.lookup)(&name).unwrap_or_default(),
            });
        }
        let name = read_name(chars);
        if name.is_empty() {
            return Err("${ must be followed by a name: ${NAME}".to_owned());
        }
        let value = (self.lookup)(&name);
        match chars.next() {
            Some('}') => Ok(value.unwrap_or_default()),
            // A value that is empty counts as none.
            Some(':') => {
                let value = value.filter(|value| !value.is_empty());
                let operator = chars.next();
                self.apply_operator(&name, value, operator, chars, depth)
            }
            operator => self.apply_operator(&name, value, operator, chars, depth),
        }
    }

    fn apply_operator(
        &self,
        name: &str,
        value: Option<String>,
        operator: Option<char>,
        chars: &mut Peekable<Chars<'_>>,
        depth: usize,
    ) -> Result<String, String> {
        let operator = operator.filter(|operator| matches!(operator, '-' | '+' | '?'));
        let Some(operator) = operator else {
            return Err(format!(
                "${{{name}…}} has an operator that is not supported: there are ${{{name}:-word}}, \
                 ${{{name}:+word}} and ${{{name}:?message}}, each also without ':'"
            ));
        };
        let word = self.read(chars, Some('}'), Quotes::Removed, depth + 1)?;
        match (operator, value) {
            ('-', value) => Ok(value.unwrap_or(word)),
            ('+', value) => Ok(value.map(|_| word).unwrap_or_default()),
            (_, Some(value)) => Ok(value),
            (_, None) => Err(match word.as_str() {
                "" => format!("{name} must be set"),
                word => format!("{name}: {word}"),
            }),
        }
    }
}

fn read_single_quoted(chars: &mut Peekable<Chars<'_>>, out: &mut String) -> Result<(), String> {
    for c in chars {
        if c == '\'' {
            return Ok(());
        }
        out.push(c);
    }
    Err("a \"'\" is missing at the end".to_owned())
}

/// Reads the name of a variable; empty where there is none.
fn read_name(chars: &mut Peekable<Chars<'_>>) -> String {
    let mut name = String::new();
    while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
        // A number is one digit.
        let is_number = name.is_empty() && c.is_ascii_digit();
        name.push(c);
        if is_number {
            break;
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        let value = match name {
            "a" => "one",
            "b" => "two words",
            "empty" => "",
            _ => return None,
        };
        Some(value.to_owned())
    }

    fn expand(word: &str) -> Result<String, String> {
        let expander = Expander {
            escape: '\\',
            lookup: &lookup,
        };
        expander.expand_word(word)
    }

    #[test]
    fn variables_take_their_values() {
        for (word, expected) in [
            ("$a-${b}", "one-two words"),
            ("$none|${none}|$", "||$"),
            (r"\$a \a", "$a a"),
            ("'$a'\"$a\"", "$aone"),
            (r#""\$a \" \x""#, r#"$a " \x"#),
            ("${none:-x}${empty:-y}${empty-z}", "xy"),
            ("${a:+x}${none:+y}${empty+z}", "xz"),
            ("${none:-${a:-q}r}", "oner"),
            ("${none:-'}'}", "}"),
            ("${a:?must}", "one"),
            ("$ab$a_", ""),
        ] {
            assert_eq!(expand(word).unwrap(), expected, "{word}");
        }
    }

    #[test]
    fn wrong_words_tell_why() {
        for (word, said) in [
            ("${none:?is needed}", "none: is needed"),
            ("${none?}", "none must be set"),
            ("'open", "missing at the end"),
            ("\"open", "missing at the end"),
            ("${a:-x", "'}' is missing"),
            ("${a##x}", "not supported"),
            ("${}", "followed by a name"),
        ] {
            let error = expand(word).unwrap_err();
            assert!(error.contains(said), "{word}: {error}");
        }
        let deep = "${n:-".repeat(40);
        assert!(expand(&deep).unwrap_err().contains("nested"));
    }

    #[test]
    fn heredocs_keep_quotes() {
        let expander = Expander {
            escape: '\\',
            lookup: &lookup,
        };
        let text = "'$a' \"${b}\" \\$a \\n";
        let expanded = expander.expand_text(text).unwrap();
        assert_eq!(expanded, "'one' \"two words\" $a \\n");
    }
}
