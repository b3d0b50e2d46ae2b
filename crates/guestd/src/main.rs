//! `envd`, the guest agent: PID 1 of a guest, or an ordinary program with `--not-guest`. The kernel
//! also starts it to load a module ([`modprobe`]), and SSH connections for what images lack
//! ([`tools`]).

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use guestd::args::Args;
use guestd::cgroup::Cgroup;
use guestd::disk::Disk;
use guestd::identity::Identity;
use guestd::listener::{Caller, Listener};
use guestd::process::{Commands, Processes};
use guestd::reaper::Reaper;
use guestd::settings::Settings;
use guestd::{Agent, boot, modprobe, tools};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    if let Some(module) = modprobe::requested_module(std::env::args_os()) {
        return modprobe::run(&module);
    }
    let first = std::process::id() == 1;
    if !first && let Some(tool) = tools::requested_tool(std::env::args_os().skip(1)) {
        return tools::run_tool(&tool);
    }
    let args = Args::read(first);
    if args.commit {
        println!("{}", option_env!("WRENN_COMMIT").unwrap_or("unknown"));
        return ExitCode::SUCCESS;
    }
    let guest = first && !args.not_guest;
    match run(&args, guest) {
        Ok(()) if !guest => ExitCode::SUCCESS,
        Ok(()) => power_off(),
        Err(error) => {
            eprintln!("envd: {}", stdx::error::chain(error.as_ref()));
            if guest {
                power_off()
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// Powers the guest off. PID 1 must not return before that: the kernel would panic.
fn power_off() -> ExitCode {
    boot::power_off();
    ExitCode::FAILURE
}

fn run(args: &Args, guest: bool) -> Result<(), Box<dyn std::error::Error>> {
    if guest {
        boot::boot()?;
    }
    runtime::telemetry::start_in_guest();
    // At least two workers: the agent must answer while one of them waits for a slow disk.
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()?;
    runtime.block_on(serve(args, guest))
}

async fn serve(args: &Args, guest: bool) -> Result<(), Box<dyn std::error::Error>> {
    let cgroup = args.cgroups().and_then(|root| {
        let made = Cgroup::create(&root);
        made.inspect_err(|e| {
            tracing::warn!("user processes have no limits, {}: {e}", root.display())
        })
        .ok()
    });
    let processes = Arc::new(Processes::new(Reaper::start()?, cgroup));
    let agent = Agent {
        settings: Arc::new(Settings::new(!args.no_auth)),
        commands: Arc::new(Commands::new(processes.clone())),
        processes,
        cpu: Arc::default(),
        disk: Arc::new(Disk::new(Path::new("/"))),
        identity: Arc::new(Identity::new(Path::new("/"))),
        ipv6: Arc::default(),
        mtu: Arc::default(),
        guest,
    };
    let ip = if args.not_guest {
        Ipv4Addr::LOCALHOST
    } else {
        Ipv4Addr::UNSPECIFIED
    };
    let listener = TcpListener::bind(SocketAddr::new(IpAddr::V4(ip), args.port)).await?;
    print_address(listener.local_addr()?);
    let service = guestd::router(&agent).into_make_service_with_connect_info::<Caller>();
    tokio::select! {
        served = axum::serve(Listener::new(listener), service) => served?,
        ended = wait_for_shutdown_signal(guest) => ended?,
    }
    Ok(())
}

/// Prints the address on standard output: for callers that chose port 0, and for the console.
fn print_address(address: SocketAddr) {
    // A guest without a console serves all the same.
    let _ = writeln!(std::io::stdout(), "envd: serving on {address}");
}

/// Waits for a signal to shut down. In a guest these include SIGUSR1 and SIGUSR2, by which BusyBox's
/// `halt` and `poweroff` ask PID 1.
async fn wait_for_shutdown_signal(guest: bool) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut halt = signal(SignalKind::user_defined1())?;
    let mut off = signal(SignalKind::user_defined2())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = halt.recv(), if guest => {}
        _ = off.recv(), if guest => {}
    }
    Ok(())
}
