//! Images that are pulled from Debian's registry, and from servers that do what registries must
//! not.

mod faults;
mod pulls;
mod server;
