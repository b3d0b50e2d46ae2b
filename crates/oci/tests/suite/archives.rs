//! OCI layouts and archives of Docker.

use std::fmt::Write as _;
use std::io::Write as _;

use oci::Format;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::EntryType;

use crate::world::{ARCHITECTURE, Tar, message, unpack};

fn digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().fold("sha256:".to_owned(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn config(layers: &[Vec<u8>], architecture: &str) -> Vec<u8> {
    let unpacked: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
    let config = json!({
        "architecture": architecture, "os": "linux",
        "config": { "Env": ["A=b"], "Healthcheck": { "Test": ["NONE"] } },
        "rootfs": { "type": "layers", "diff_ids": unpacked },
    });
    config.to_string().into_bytes()
}

fn blob(tar: Tar, content: &[u8]) -> Tar {
    let name = digest(content).replace(':', "/");
    tar.pax(&[("path", format!("blobs/{name}").as_bytes())])
        .entry(b"blob", EntryType::Regular, content, |_| {})
}

fn descriptor(kind: &str, content: &[u8]) -> Value {
    json!({ "mediaType": kind, "digest": digest(content), "size": content.len() })
}

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An OCI layout with layers of a media type; the second one is compressed.
fn oci_archive(layers: &[Vec<u8>], kind: &str, architecture: &str) -> Vec<u8> {
    let config = config(layers, architecture);
    let mut tar = blob(Tar::new(), &config);
    let mut descriptors = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let stored = if number == 1 {
            gzip(layer)
        } else {
            layer.clone()
        };
        descriptors.push(descriptor(kind, &stored));
        tar = blob(tar, &stored);
    }
    let manifest = json!({
        "schemaVersion": 2, "layers": descriptors,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
    });
    let manifest = manifest.to_string().into_bytes();
    let one = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    let index = json!({ "schemaVersion": 2, "manifests": [one] });
    blob(tar, &manifest)
        .file("oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#)
        .file("./index.json", index.to_string().as_bytes())
        .finish()
}

fn layers() -> Vec<Vec<u8>> {
    let first = Tar::new()
        .file("keep", b"1")
        .file("gone", b"1")
        .file("dir/lower", b"1")
        .file("dir/both", b"1")
        .directory("opaque/sub")
        .file("opaque/sub/lower", b"1");
    let second = Tar::new()
        .file(".wh.gone", b"")
        .file("dir/upper", b"2")
        .file("dir/both", b"2")
        .file("opaque/first", b"2")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/last", b"2")
        .file(".wh..wh.plnk", b"");
    let third = Tar::new().file("gone", b"3").file("dir/.wh.lower", b"");
    [first, second, third].map(Tar::finish).to_vec()
}

#[test]
fn layers_of_oci_archive_add_up() {
    let image = unpack(&oci_archive(&layers(), LAYER, ARCHITECTURE)).unwrap();
    assert_eq!(image.plan.format, Format::Oci);
    let config = image.plan.config.as_ref().unwrap();
    assert_eq!(config["Healthcheck"]["Test"][0], "NONE");
    assert_eq!(image.names("/"), ["dir", "gone", "keep", "opaque"]);
    assert_eq!(image.names("/dir"), ["both", "upper"]);
    assert_eq!(image.names("/opaque"), ["first", "last"]);
    assert_eq!(image.content("/gone"), b"3");
    assert_eq!(image.content("/dir/both"), b"2");
}

#[test]
fn docker_archive_links_its_layers() {
    let layer = Tar::new().file("a", b"1").finish();
    let layers = [layer.clone(), layer.clone()];
    let config = config(&layers, ARCHITECTURE);
    let name = digest(&config).replace("sha256:", "") + ".json";
    let manifest = json!([{
        "Config": name, "RepoTags": ["test:latest"], "Layers": ["one/layer.tar", "two/layer.tar"],
    }]);
    let archive = |config: &[u8]| {
        Tar::new()
            .file("one/layer.tar", &layer)
            .symlink("two/layer.tar", "../one/layer.tar")
            .pax(&[("path", name.as_bytes())])
            .file("config", config)
            .file("manifest.json", manifest.to_string().as_bytes())
            .finish()
    };
    let image = unpack(&archive(&config)).unwrap();
    assert_eq!(image.plan.format, Format::Docker);
    assert_eq!(image.plan.digest, digest(&config));
    assert_eq!(image.names("/"), ["a"]);
    let other = [&config[..], b" "].concat();
    assert!(message(unpack(&archive(&other))).contains("is damaged"));
}

#[test]
fn unusable_images_are_refused_by_reason() {
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    for (kind, architecture, expected) in [
        (
            LAYER,
            "arm64",
            "for \"linux/arm64\", and the host needs \"linux/amd64\"",
        ),
        (
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            ARCHITECTURE,
            "is encrypted",
        ),
        (foreign, ARCHITECTURE, "fetched from its vendor"),
        (
            "application/wasm",
            ARCHITECTURE,
            "no layer of a file system",
        ),
    ] {
        let error = message(unpack(&oci_archive(&layers(), kind, architecture)));
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let mut damaged = oci_archive(&layers(), LAYER, ARCHITECTURE);
    let at = damaged
        .windows(4)
        .position(|window| window == b"keep")
        .unwrap();
    damaged[at] = b'K';
    assert!(message(unpack(&damaged)).contains("is damaged"));
}

/// Cuts what follows the last byte of the last file, as umoci writes layers.
fn without_padding(mut archive: Vec<u8>) -> Vec<u8> {
    let last = archive.iter().rposition(|byte| *byte != 0).unwrap();
    archive.truncate(last + 1);
    archive
}

#[test]
fn layer_without_padding_is_whole() {
    let layer = |name: &str| without_padding(Tar::new().file(name, b"content").finish());
    let layers = [layer("plain"), layer("packed")];
    let image = unpack(&oci_archive(&layers, LAYER, ARCHITECTURE)).unwrap();
    assert_eq!(image.names("/"), ["packed", "plain"]);
    assert_eq!(image.content("/plain"), b"content");
    assert_eq!(image.content("/packed"), b"content");
    for number in [0, 1] {
        let mut cut = layers.clone();
        cut[number].pop();
        let text = message(unpack(&oci_archive(&cut, LAYER, ARCHITECTURE)));
        assert!(text.contains("ends within a file"), "{number}: {text}");
    }
}

#[test]
fn compressed_archive_needs_no_end() {
    let plain = without_padding(Tar::new().file("a", b"1").file("b", b"2").finish());
    let image = unpack(&gzip(&plain)).unwrap();
    assert_eq!(image.content("/b"), b"2");
    assert!(message(unpack(&plain)).contains("has no end"));
    let packed = gzip(&plain);
    let text = message(unpack(&packed[..packed.len() - 9]));
    assert!(!text.is_empty());
}

/// Of parallel compressors, of eStargz, and of tapes.
#[test]
fn members_of_gzip_add_up() {
    let plain = Tar::new().file("a", &[b'x'; 2000]).finish();
    let (first, second) = plain.split_at(700);
    let members = [gzip(first), gzip(b""), gzip(second), gzip(b"")].concat();
    let image = unpack(&members).unwrap();
    assert_eq!(image.content("/a"), [b'x'; 2000]);
    let filled = [&members[..], &[0; 700_000]].concat();
    assert_eq!(unpack(&filled).unwrap().content("/a"), [b'x'; 2000]);
    for garbage in [&b"garbage"[..], b"\0\0garbage"] {
        let damaged = [&members[..], garbage].concat();
        assert!(unpack(&damaged).is_err(), "{}", garbage.escape_ascii());
    }
}

/// What some tools put beside an image: a signature, and an index entry without a platform.
#[test]
fn manifests_of_no_image_are_passed_over() {
    let layer = Tar::new().file("a", b"1").finish();
    let config = config(std::slice::from_ref(&layer), ARCHITECTURE);
    let manifest = |kind: &str, config: &[u8]| {
        let manifest = json!({
            "schemaVersion": 2, "config": descriptor(kind, config), "layers": [descriptor(LAYER, &layer)],
        });
        manifest.to_string().into_bytes()
    };
    let image = manifest("application/vnd.oci.image.config.v1+json", &config);
    let signature = manifest("application/vnd.oci.empty.v1+json", b"{}");
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let all = [descriptor(kind, &signature), descriptor(kind, &image)];
    let index = json!({ "schemaVersion": 2, "manifests": all });
    let blobs = [&config[..], &layer, &image, &signature, b"{}"];
    let archive = blobs
        .iter()
        .fold(Tar::new(), |tar, content| blob(tar, content));
    let archive = archive
        .file("oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#)
        .file("index.json", index.to_string().as_bytes());
    let unpacked = unpack(&archive.finish()).unwrap();
    assert_eq!(unpacked.plan.digest, digest(&image));
}

#[test]
fn sparse_blob_is_no_root_file_system() {
    let path = format!("blobs/sha256/{}", "0".repeat(64));
    let archive = Tar::new()
        .pax(&[
            ("GNU.sparse.size", b"8192"),
            ("GNU.sparse.map", b"0,3"),
            ("path", path.as_bytes()),
        ])
        .file("blob", b"abc")
        .file("oci-layout", b"{}")
        .finish();
    let text = message(unpack(&archive));
    assert!(text.contains("without tar's -S"), "{text}");
}

#[test]
fn image_of_old_builder_is_taken() {
    let config = json!({
        "architecture": ARCHITECTURE, "os": "linux", "config": { "Cmd": "text" },
        "rootfs": { "type": "layers", "diff_ids": null },
    });
    let config = config.to_string().into_bytes();
    let name = digest(&config).replace("sha256:", "") + ".json";
    let manifest = json!([{ "Config": name, "Layers": [] }]).to_string();
    let archive = Tar::new()
        .pax(&[("path", name.as_bytes())])
        .file("config", &config)
        .file("manifest.json", manifest.as_bytes())
        .finish();
    let image = unpack(&archive).unwrap();
    assert_eq!(image.plan.config.as_ref().unwrap()["Cmd"], "text");
    assert!(image.names("/").is_empty());
}
