//! Attacks of the process itself, from inside of its jail. What each returns is printed on the guest's console, where the
//! test reads it.

/// Does what the attack of that name begins with; nothing, for an attack over the socket.
pub fn run(attack: &str) -> String {
    match attack {
        "environment" => environment(),
        "command-line" => format!("overwritten: {}\n", linux::trial::overwrite_command_line()),
        "system-calls" => system_calls(),
        _ => String::new(),
    }
}

/// What it knows of the environment of whoever started it.
fn environment() -> String {
    let names: Vec<String> = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
    format!("environment: {}\n", names.join(" "))
}

/// What came of calls that no VMM needs: 38 is ENOSYS, 1 EPERM, 0 that it was done.
fn system_calls() -> String {
    let tried = linux::trial::forbidden_calls();
    let tried: Vec<String> = tried.into_iter().map(|(name, error)| format!("{name}={error}")).collect();
    format!("system calls: {}\n", tried.join(" "))
}
