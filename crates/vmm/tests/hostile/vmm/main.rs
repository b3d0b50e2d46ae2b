//! `hostile-vmm`: stands in the place of a VMM that its guest has taken over, in the real jail. The
//! name of the VM says what it tries. See `tests/hostile/main.rs`.

mod firecracker;
mod inside;
mod qemu;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let value = |option: &str| {
        args.iter()
            .position(|arg| arg == option)
            .and_then(|at| args.get(at + 1))
            .cloned()
    };
    if args.iter().any(|arg| arg == "--version") {
        println!("Firecracker v1.16.1");
        return ExitCode::SUCCESS;
    }
    let ended = match (value("-qmp"), value("--api-sock")) {
        (Some(_), _) => {
            let name = value("-name").unwrap_or_default();
            qemu::run(
                name.trim_start_matches("guest="),
                args.iter().any(|arg| arg == "-incoming"),
            )
        }
        (None, Some(socket)) => firecracker::run(&value("--id").unwrap_or_default(), &socket),
        (None, None) => Err(std::io::Error::other(
            "neither QEMU's arguments nor Firecracker's",
        )),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hostile-vmm: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Does nothing, for ever.
fn park() -> ! {
    loop {
        std::thread::park();
    }
}

/// Writes for as long as somebody reads.
fn endless(mut to: impl std::io::Write, piece: &[u8]) {
    let many = piece.repeat((64 << 10) / piece.len() + 1);
    while to.write_all(&many).is_ok() {}
}
