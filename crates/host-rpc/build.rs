//! Generates messages, service traits and clients from `api/host`, without needing `protoc`.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = PathBuf::from("../../api/host");
    let files = [
        "host.proto",
        "sandbox.proto",
        "command.proto",
        "file.proto",
        "snapshot.proto",
        "template.proto",
        "image.proto",
        "network.proto",
        "log.proto",
        "stats.proto",
        "common.proto",
    ];
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let descriptors = out.join("host.binpb");
    let mut compiler = protox::Compiler::new([&protos])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(files)?;
    std::fs::write(&descriptors, compiler.encode_file_descriptor_set())?;
    println!("cargo::rerun-if-changed={}", protos.display());
    connectrpc_build::Config::new()
        .files(&files)
        .descriptor_set(descriptors)
        .include_file("_connectrpc.rs")
        // Its own would name the descriptors just written, and so make every build a new one.
        .emit_rerun_directives(false)
        .compile()?;
    Ok(())
}
