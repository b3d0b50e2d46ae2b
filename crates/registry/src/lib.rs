//! Client of OCI registries: fetches an image into an archive that the unpacker ([`oci`]) reads as
//! one of `skopeo copy … oci-archive:`.
//!
//! # How an image is pulled
//!
//! ```text
//!   host agent (root)                             registry, mirrors, token servers: all hostile
//!    resolve    manifest of the platform, configuration   ← JSON, at most 4 MiB each, verified
//!               size of everything is known: bounds, room on the disk
//!    download   archive in the directory of the import    ← layers, each at its place, verified
//!    unpack     as an import: jailed process, ext4        (hostd: `images/import`)
//!    publish    one rename
//! ```
//!
//! | state | on disk | if the agent dies |
//! |---|---|---|
//! | resolving | nothing | nothing is left |
//! | downloading | `imported/.import-…/archive`, partly written | the next start removes it |
//! | unpacking | also `image.ext4`, partly written | the same |
//! | publishing | a whole directory, renamed to its name or exchanged with the old one | old or new |
//!
//! A caller that hangs up drops the pull, wherever it is before the publication, and the directory
//! with it. A layer whose connection breaks goes on where it broke (`Range`); one that is damaged
//! begins again, from the next server where there is one.
//!
//! # Why here
//!
//! The pull runs in the host agent, and only what a layer contains is left to the jailed unpacker.
//! A second jailed process would need sockets, name servers and certificates in its jail to read
//! what is read here: HTTP by `hyper`, TLS by `rustls`, JSON by `serde_json`, all without `unsafe`
//! of ours and all bounded. Bytes of layers are hashed and written to a file, and nothing else.
//!
//! Crate `oci-client`, the kept successor of `oci-distribution`, is not used: it follows redirects
//! and token servers to any address, and has no way to forbid that; it needs `chrono`, and
//! OpenSSL's or another provider's TLS by features. Its parts that matter are: `oci-spec` reads
//! references and manifests, `http-auth` challenges.
//!
//! # Where it may connect to
//!
//! A reference, a redirect and the address of a token server are a user's or a stranger's, and the
//! agent stands in the operator's network. So each connection goes to an address that was checked
//! ([`RegistryPolicy::may_connect`]): one of the public internet, or of a network that the operator
//! has allowed. HTTP without TLS is for loopback, and for registries and mirrors of which the
//! operator's file says so. Credentials come with the request, go to the registry that they are for
//! and to its token server, and are neither stored nor logged; mirrors never see them.

mod archive;
mod challenge;
mod connect;
mod credentials;
mod download;
mod endpoint;
mod error;
mod http_client;
mod policy;
mod pull;
mod reference;

pub use credentials::Credentials;
pub use download::PullProgress;
pub use error::RegistryError;
pub use policy::{RegistryPolicy, RegistrySettings};
pub use pull::{Puller, RemoteImage};
pub use reference::ImageReference;
