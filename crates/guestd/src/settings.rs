//! Settings of this guest from `POST /init`: token, environment, default user and directory.
//!
//! In memory only, and so part of every snapshot of the guest; the host replaces it after each
//! restore. Only the `/init` handler changes [`Settings`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use guest_rpc::http::InitRequest;
use parking_lot::RwLock;
use subtle::ConstantTimeEq;

use crate::http::error::HttpError;
use crate::user::{self, UnknownUser, User};

/// Shared by every handler; cheap to read.
pub struct Settings {
    values: RwLock<Values>,
    auth: bool,
}

#[derive(Default, Clone)]
struct Values {
    token: Option<String>,
    envs: BTreeMap<String, String>,
    default_user: Option<String>,
    default_workdir: Option<String>,
    sandbox_id: Option<String>,
    template_id: Option<String>,
}

impl Values {
    fn take_over(&mut self, request: &InitRequest) {
        let set = |to: &mut Option<String>, from: &Option<String>| {
            if from.is_some() {
                to.clone_from(from);
            }
        };
        set(&mut self.token, &request.access_token);
        set(&mut self.default_user, &request.default_user);
        set(&mut self.default_workdir, &request.default_workdir);
        set(&mut self.sandbox_id, &request.sandbox_id);
        set(&mut self.template_id, &request.template_id);
        if let Some(envs) = &request.env_vars {
            self.envs.clone_from(envs);
        }
    }
}

/// Compares a token in constant time.
fn same(token: &str, presented: &[u8]) -> bool {
    token.as_bytes().ct_eq(presented).into()
}

/// Result of comparing a presented token to the one in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenCheck {
    Right,
    Wrong,
    /// No `/init` came yet, so no token can be right.
    NoneSet,
}

impl Settings {
    /// Creates empty settings. With `auth` false (flag `--no-auth`) every call is allowed.
    pub fn new(auth: bool) -> Self {
        Self {
            values: RwLock::default(),
            auth,
        }
    }

    /// Returns true if tokens are asked for at all.
    pub fn auth_required(&self) -> bool {
        self.auth
    }

    /// Takes over the settings of an `/init`, if it may: the first time, or with the token in
    /// force, either `presented` in the header or as the token that is to be set (a repeated call).
    /// Absent fields stay.
    ///
    /// # Errors
    /// 401 where the token is wrong, 400 where a first call brings none; nothing is changed then.
    pub fn authorise_and_apply(
        &self,
        request: &InitRequest,
        presented: Option<&[u8]>,
    ) -> Result<(), HttpError> {
        let mut values = self.values.write();
        if self.auth {
            let new = request.access_token.as_deref().map(str::as_bytes);
            let known = |token: &String| {
                [presented, new]
                    .into_iter()
                    .flatten()
                    .any(|t| same(token, t))
            };
            match &values.token {
                None if new.is_none() => {
                    return Err(HttpError::bad_request(
                        "field accessToken is missing: the first /init sets it",
                    ));
                }
                Some(token) if !known(token) => {
                    return Err(HttpError::unauthorized("the access token is wrong"));
                }
                _ => {}
            }
        }
        values.take_over(request);
        Ok(())
    }

    /// Compares in constant time.
    pub fn check_token(&self, presented: &[u8]) -> TokenCheck {
        match self.token() {
            None => TokenCheck::NoneSet,
            Some(token) if same(&token, presented) => TokenCheck::Right,
            Some(_) => TokenCheck::Wrong,
        }
    }

    /// Returns the token in force, for signatures. `None` before the first `/init`.
    pub fn token(&self) -> Option<String> {
        self.read(|v| v.token.clone())
    }

    /// Returns the environment that the sandbox was created with.
    pub fn envs(&self) -> BTreeMap<String, String> {
        self.read(|v| v.envs.clone())
    }

    /// Returns the variables that tell a process which sandbox it is in. [`Self::envs`] overrides
    /// them.
    pub fn identity_envs(&self) -> BTreeMap<String, String> {
        let mut envs = BTreeMap::new();
        let (sandbox, template) = self.read(|v| (v.sandbox_id.clone(), v.template_id.clone()));
        for brand in ["E2B", "WRENN"] {
            envs.insert(format!("{brand}_SANDBOX"), "true".to_owned());
            for (name, value) in [("SANDBOX_ID", &sandbox), ("TEMPLATE_ID", &template)] {
                if let Some(value) = value {
                    envs.insert(format!("{brand}_{name}"), value.clone());
                }
            }
        }
        envs
    }

    /// Returns the user for requests that name none: the host's choice, else `user` where it
    /// exists, else `root`.
    pub fn default_user(&self) -> String {
        self.read(|v| v.default_user.clone()).unwrap_or_else(|| {
            let fallback = if user::lookup_user("user").is_ok() {
                "user"
            } else {
                "root"
            };
            fallback.to_owned()
        })
    }

    /// Returns the working directory that the host chose, if it chose one.
    pub fn default_workdir(&self) -> Option<String> {
        self.read(|v| v.default_workdir.clone())
    }

    /// Looks up `name`, or the default user where it is absent.
    ///
    /// # Errors
    /// [`UnknownUser`].
    pub fn user(&self, name: Option<&str>) -> Result<User, UnknownUser> {
        match name {
            Some(name) => user::lookup_user(name),
            None => user::lookup_user(&self.default_user()),
        }
    }

    /// Makes a path of a request absolute: `~` is the user's home; a relative or empty path starts
    /// in the default directory, else in the home. Symbolic links and `..` stay as they are.
    pub fn resolve(&self, path: &str, user: &User) -> PathBuf {
        if path == "~" {
            return user.home.clone();
        }
        let bytes = |text: &str| OsString::from_vec(guest_rpc::bytes::from_text(text));
        if let Some(rest) = path.strip_prefix("~/") {
            return user.home.join(bytes(rest.trim_start_matches('/')));
        }
        let base = match self.default_workdir().as_deref() {
            None | Some("" | "~") => user.home.clone(),
            // A default directory that is itself relative can only mean: below the home.
            Some(dir) => user.home.join(dir.strip_prefix("~/").unwrap_or(dir)),
        };
        if path.is_empty() {
            base
        } else {
            base.join(bytes(path))
        }
    }

    fn read<T>(&self, get: impl FnOnce(&Values) -> T) -> T {
        get(&self.values.read())
    }
}

/// Never shows the token.
impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("auth", &self.auth)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn someone() -> User {
        User {
            name: "u".into(),
            uid: 1,
            gid: 1,
            groups: vec![1],
            home: "/home/u".into(),
            shell: "/bin/sh".into(),
            overrides_files: false,
        }
    }

    fn with_token(token: &str) -> InitRequest {
        InitRequest {
            access_token: Some(token.to_owned()),
            ..Default::default()
        }
    }

    #[test]
    fn only_current_token_changes_settings() {
        let settings = Settings::new(true);
        let apply = |request: &InitRequest, presented: Option<&str>| {
            settings
                .authorise_and_apply(request, presented.map(str::as_bytes))
                .map_err(|e| e.status.as_u16())
        };
        assert_eq!(settings.check_token(b""), TokenCheck::NoneSet);
        assert_eq!(apply(&InitRequest::default(), None), Err(400));
        assert_eq!(apply(&with_token("one"), None), Ok(()));
        assert_eq!(apply(&with_token("two"), None), Err(401));
        assert_eq!(apply(&with_token("two"), Some("wrong")), Err(401));
        let user = InitRequest {
            default_user: Some("root".to_owned()),
            ..Default::default()
        };
        assert_eq!(apply(&user, None), Err(401));
        assert_eq!(apply(&user, Some("one")), Ok(()));
        assert_eq!(settings.check_token(b"one"), TokenCheck::Right);
        assert_eq!(settings.check_token(b"on"), TokenCheck::Wrong);
        assert_eq!(settings.default_user(), "root");
        assert_eq!(apply(&with_token("one"), None), Ok(()));
        assert_eq!(apply(&with_token("two"), Some("one")), Ok(()));
        assert_eq!(settings.check_token(b"one"), TokenCheck::Wrong);
    }

    #[test]
    fn paths_resolve_against_workdir_then_home() {
        let settings = Settings::new(true);
        let resolve = |path| settings.resolve(path, &someone()).display().to_string();
        assert_eq!(resolve("a/b"), "/home/u/a/b");
        assert_eq!(resolve("~/a"), "/home/u/a");
        assert_eq!(resolve("~"), "/home/u");
        assert_eq!(resolve("/etc"), "/etc");
        assert_eq!(resolve(""), "/home/u");
        let workdir = InitRequest {
            default_workdir: Some("/srv".into()),
            ..with_token("t")
        };
        settings
            .authorise_and_apply(&workdir, None)
            .expect("the first one may");
        assert_eq!(resolve("a"), "/srv/a");
        assert_eq!(resolve(""), "/srv");
        assert_eq!(resolve("~/a"), "/home/u/a");
    }
}
