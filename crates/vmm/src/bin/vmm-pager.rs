//! A pager and nothing else, for tests: the programs that are delivered are pagers themselves.

use std::process::ExitCode;

fn main() -> ExitCode {
    vmm::pager::serve_if_asked().unwrap_or(ExitCode::FAILURE)
}
