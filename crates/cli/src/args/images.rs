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
