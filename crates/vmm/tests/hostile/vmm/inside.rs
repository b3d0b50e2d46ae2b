//! Attacks of the process itself, from inside of its jail. What each returns is printed on the
//! guest's console, where the test reads it.

/// Does what the attack of that name begins with; nothing, for an attack over the socket.
pub fn run(attack: &str) -> String {
    match attack {
        "environment" => environment(),
        "command-line" => format!("overwritten: {}\n", linux::trial::overwrite_command_line()),
        "system-calls" => system_calls(),
        "files" => files(),
        "directory" => format!("left: {}\n", std::env::set_current_dir("/").is_ok()),
        _ => String::new(),
    }
}

/// How deep a tree it can make in its working directory, how many bytes it can write there, and
/// whether it can make names anywhere beside it.
fn files() -> String {
    use std::io::Write;
    let top = std::env::current_dir().unwrap_or_default();
    let depth = (0..100_000)
        .take_while(|_| std::fs::create_dir("d").is_ok() && std::env::set_current_dir("d").is_ok());
    let depth = depth.count();
    let _ = std::env::set_current_dir(&top);
    // In the place of whatever it may remove.
    let _ = std::fs::remove_file("disk");
    let piece = vec![1; 1 << 20];
    let mib = std::fs::File::create("file").map_or(0, |mut file| {
        (0..10_000)
            .take_while(|_| file.write_all(&piece).is_ok())
            .count()
    });
    let beside = top
        .parent()
        .map(|dir| [dir.join("x"), dir.join("out").join("x")])
        .unwrap_or_default();
    let made = beside
        .iter()
        .filter(|path| std::fs::write(path, b"x").is_ok())
        .count();
    format!("files: depth={depth} mib={mib} beside={made}\n")
}

/// What it knows of the environment of whoever started it.
fn environment() -> String {
    let names: Vec<String> = std::env::vars_os()
        .map(|(name, _)| name.to_string_lossy().into_owned())
        .collect();
    format!("environment: {}\n", names.join(" "))
}

/// What came of calls that no VMM needs: 38 is ENOSYS, 1 EPERM, 0 that it was done.
fn system_calls() -> String {
    let tried = linux::trial::forbidden_calls();
    let tried: Vec<String> = tried
        .into_iter()
        .map(|(name, error)| format!("{name}={error}"))
        .collect();
    format!("system calls: {}\n", tried.join(" "))
}
