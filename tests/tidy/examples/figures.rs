//! Prints how the code speaks, and which modules import each other in a circle, beside what the
//! project aims at.

use tidy::language::Figures;
use tidy::{cycles, source, workspace};

fn main() {
    let sources = source::all(&workspace());
    let figures = Figures::measure(&sources);
    let circles = cycles::find(&sources);
    println!("{:<52} {:>8}  aim", "product code", "now");
    row(
        "public functions with a name of one word, %",
        figures.one_word_percent(),
        "45",
    );
    row(
        "doc comments that begin with a pronoun, %",
        figures.pronoun_percent(),
        "2",
    );
    row(
        "tuple lets per 1000 lines",
        figures.tuple_lets_per_1000_lines(),
        "0.2",
    );
    println!(
        "{:<52} {:>8}  6",
        "words of a test's name, median",
        figures.median_test_name_words()
    );
    println!("{:<52} {:>8}  0", "circles of modules", circles.len());
    for circle in circles {
        let files: Vec<String> = circle
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        println!("  {}", files.join("\n    "));
    }
}

fn row(what: &str, now: f64, aim: &str) {
    println!("{what:<52} {now:>8.1}  {aim}");
}
