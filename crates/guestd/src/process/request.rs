//! Conversion of a `StartRequest` to a program: checks every field, and puts environment and
//! directory together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use connectrpc::ConnectError;
use guest_rpc::process::{PTY, ProcessConfig, StartRequest};

use super::environment;
use super::spawn::Program;
use super::terminal::Size;
use crate::as_user::as_user;
use crate::settings::Settings;
use crate::user::User;

/// Puts the program together. Blocks: the directory may be on any file system.
///
/// # Errors
/// `invalid_argument`, naming the field.
pub fn parse_program(
    request: &StartRequest,
    user: User,
    settings: &Settings,
) -> Result<Program, ConnectError> {
    let Some(config) = request.process.as_option() else {
        return Err(ConnectError::invalid_argument(
            "field process is missing: give at least process.cmd",
        ));
    };
    if config.cmd.is_empty() {
        return Err(ConnectError::invalid_argument(
            "field process.cmd is empty: give a program",
        ));
    }
    if [&config.cmd]
        .into_iter()
        .chain(&config.args)
        .any(|text| text.contains('\0'))
    {
        return Err(ConnectError::invalid_argument(
            "fields process.cmd and process.args must not contain NUL bytes",
        ));
    }
    let cwd = directory(config, &user, settings)?;
    let envs = environment(config, &user, settings)?;
    Ok(Program {
        program: config.cmd.clone(),
        args: config.args.clone(),
        envs,
        cwd,
        user,
    })
}

fn directory(
    config: &ProcessConfig,
    user: &User,
    settings: &Settings,
) -> Result<PathBuf, ConnectError> {
    let asked = config.cwd.as_deref().unwrap_or_default();
    let cwd = settings.resolve(asked, user);
    // The dot asks whether the user may enter it, as chdir(2) will.
    let look = || match std::fs::metadata(cwd.join(".")) {
        Ok(_) => None,
        Err(_) => Some(std::fs::metadata(&cwd)),
    };
    let refused = as_user(user, look)
        .map_err(|e| ConnectError::internal(format!("cannot act as the user: {e}")))?;
    let Some(found) = refused else {
        return Ok(cwd);
    };
    match found {
        // The request did not ask for the home: that it is missing, or another's, must not keep
        // commands from running.
        _ if asked.is_empty() && settings.default_workdir().is_none() => Ok(PathBuf::from("/")),
        // It is refused when the program is started.
        Ok(found) if found.is_dir() => Ok(cwd),
        found => {
            let problem = match found {
                Ok(_) => "is not a directory".to_owned(),
                Err(e) => format!("does not exist or cannot be used: {e}"),
            };
            let path = cwd.display();
            let text = match asked {
                "" => {
                    format!("the image's working directory '{path}' {problem}; give another as cwd")
                }
                _ => format!("cwd '{path}' {problem}"),
            };
            Err(ConnectError::invalid_argument(text))
        }
    }
}

/// Merges the environment of a program. Later sources win: the image, the user, the sandbox's
/// identity, the host, the request.
fn environment(
    config: &ProcessConfig,
    user: &User,
    settings: &Settings,
) -> Result<BTreeMap<String, String>, ConnectError> {
    let mut envs = environment::image_environment(Path::new("/"), user.uid);
    envs.extend([
        ("HOME".to_owned(), user.home.to_string_lossy().into_owned()),
        ("USER".to_owned(), user.name.clone()),
        ("LOGNAME".to_owned(), user.name.clone()),
        (
            "SHELL".to_owned(),
            user.shell.to_string_lossy().into_owned(),
        ),
    ]);
    envs.extend(settings.identity_envs());
    envs.extend(settings.envs());
    for (name, value) in &config.envs {
        if !valid_env(name, value) {
            return Err(ConnectError::invalid_argument(format!(
                "field process.envs: the variable '{}' needs a name without '=' and no NUL bytes",
                name.escape_default()
            )));
        }
        envs.insert(name.clone(), value.clone());
    }
    Ok(envs)
}

/// Returns true if a variable can be in an environment at all.
pub fn valid_env(name: &str, value: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
}

/// Returns the window size of a request; 80 by 24 where it is left out or zero.
///
/// # Errors
/// `invalid_argument` beyond 65535.
pub fn parse_window(pty: &PTY) -> Result<Size, ConnectError> {
    let (cols, rows) = pty
        .size
        .as_option()
        .map_or((0, 0), |size| (size.cols, size.rows));
    let fit = |name: &str, value: u32, default: u16| match u16::try_from(value) {
        Ok(0) => Ok(default),
        Ok(value) => Ok(value),
        Err(_) => Err(ConnectError::invalid_argument(format!(
            "field pty.size.{name} is {value}: at most 65535"
        ))),
    };
    Ok(Size {
        cols: fit("cols", cols, 80)?,
        rows: fit("rows", rows, 24)?,
    })
}
