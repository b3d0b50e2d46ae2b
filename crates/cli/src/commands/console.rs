//! `wrenn console`.
//!
//! It prints, and starts no browser: the arguments of a program, which the key would be among, are
//! for all users of the machine to see.

use model::ApiKey;
use serde_json::json;

use crate::args::ConnectionArgs;
use crate::output;
use crate::settings::Settings;

pub fn print_console_url(connection: &ConnectionArgs, json: bool) -> anyhow::Result<()> {
    let Settings { url, key } = Settings::load(connection)?;
    let key: ApiKey = key.parse()?;
    let address = format!("{}/test#key={}", url.trim_end_matches('/'), key.expose());
    if json {
        return output::print_json(&json!({ "url": address }));
    }
    output::print_line(&address)
}
