//! Flags of `wrenn image`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub struct ImageArgs {
    #[command(subcommand)]
    pub command: ImageCommand,
}

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Make a template of an image
    Import(ImageImportArgs),
    /// Make a template of an image in a registry
    Pull(ImagePullArgs),
    /// List base images, and those that were imported
    Ls,
    /// Show images with their configuration, as JSON
    Inspect {
        /// Names of images
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
    /// Remove images that were imported; sandboxes made from them keep their disks
    Rm {
        /// Names of images
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
    /// Remove images that no sandbox was made from
    Prune {
        /// Only tell which, and what that would free
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Takes what `docker save`, `podman save` and `skopeo copy … oci-archive:FILE` write, OCI layouts, tar archives of root
file systems (plain, or compressed with gzip, zstd or xz) and ext4 file systems; it looks at the content, not at the
name. `wrenn create --template NAME` makes sandboxes of it. Prints the name.")]
pub struct ImageImportArgs {
    /// Archive or file system, directory with an OCI layout, or - for standard input
    #[arg(value_name = "FILE|DIR")]
    pub source: PathBuf,

    /// Name of the template [default: that of the file, without its endings]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The host fetches the image for its own platform; `wrenn create --template NAME` makes sandboxes of it. Without --name a
template of alpine:3.20 is called alpine-3.20, one of alpine is called alpine. Credentials are those of `docker login`
and `podman login` on this machine; they go with the request, and are not stored. Registries in private networks, own
certificates and mirrors are settings of the host (AGENT_REGISTRIES, AGENT_REGISTRY_NETWORKS). Prints the name.")]
pub struct ImagePullArgs {
    /// [REGISTRY[:PORT]/]REPOSITORY[:TAG][@sha256:DIGEST]; without a registry Docker Hub's
    #[arg(value_name = "REF")]
    pub reference: String,

    /// Name of the template [default: of the repository and its tag]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Replace another image of that name; sandboxes made from it keep their disks
    #[arg(long)]
    pub replace: bool,

    /// User of the registry, in place of that of `docker login`
    #[arg(long, value_name = "NAME", requires = "password_stdin")]
    pub username: Option<String>,

    /// Read the password, or access token, from standard input
    #[arg(long, requires = "username")]
    pub password_stdin: bool,

    /// Send no credentials
    #[arg(long, conflicts_with = "username")]
    pub anonymous: bool,
}
