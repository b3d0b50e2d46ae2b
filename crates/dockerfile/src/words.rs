//! Splits lines into words, with their quotes.

/// Splits at whitespace outside of quotes. Words keep quotes and escapes.
pub(crate) fn split_words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match quote {
            None if c.is_ascii_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if matches!(c, '"' | '\'') => quote = Some(c),
            Some(end) if c == end => quote = None,
            _ => {}
        }
        word.push(c);
        // Nothing is escaped between single quotes.
        if c == escape && quote != Some('\'') {
            word.extend(chars.next());
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Splits `NAME=VALUE` pairs; `NAME VALUE` is one pair where `is_legacy` forms are taken. Values keep
/// their quotes.
///
/// # Errors
/// The word without a value.
pub(crate) fn split_pairs(
    text: &str,
    escape: char,
    is_legacy: bool,
) -> Result<Vec<(String, String)>, String> {
    let words = split_words(text, escape);
    let first = words.first().map_or("", String::as_str);
    if is_legacy && !first.contains('=') {
        let value = text[first.len()..].trim();
        return match value {
            "" => Err(first.to_owned()),
            value => Ok(vec![(first.to_owned(), value.to_owned())]),
        };
    }
    let pair = |word: String| match word.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err(word),
    };
    words.into_iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_quotes() {
        let words = split_words(r#" a "b c" d\ e f='g h' "i\" j" 'k\' "#, '\\');
        let expected = ["a", r#""b c""#, r"d\ e", "f='g h'", r#""i\" j""#, r"'k\'"];
        assert_eq!(words, expected);
    }

    #[test]
    fn pairs_have_both_forms() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let both = split_pairs("A=1 B='x y'", '\\', true).unwrap();
        assert_eq!(both, [pair("A", "1"), pair("B", "'x y'")]);
        let legacy = split_pairs("A b=c  d", '\\', true).unwrap();
        assert_eq!(legacy, [pair("A", "b=c  d")]);
        assert_eq!(split_pairs("A", '\\', true), Err("A".to_owned()));
        assert_eq!(split_pairs("A=1 B", '\\', true), Err("B".to_owned()));
    }
}
