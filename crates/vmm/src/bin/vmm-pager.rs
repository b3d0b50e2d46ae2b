//! Pager without a driver, for tests: the delivered programs are pagers themselves.

use std::process::ExitCode;

fn main() -> ExitCode {
    vmm::pager::serve_if_asked().unwrap_or(ExitCode::FAILURE)
}
