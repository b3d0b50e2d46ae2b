//! Debian's registry of images on loopback, and images to push to it.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// User of a registry that wants one.
pub const USER: &str = "ann";
/// Their password.
pub const PASSWORD: &str = "secret";
/// Line of htpasswd(1) for both.
const HTPASSWD: &str = "ann:$2b$04$vg7LNhqWVWuU/ffYXru/uuHfu0WSg6Jlk8UU7lifazQR9.gk2Kbci\n";
/// Time for the registry to listen.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A registry that runs, with what was pushed to it. It ends with this.
#[derive(Debug)]
pub struct TestRegistry {
    dir: TempDir,
    port: u16,
    child: Child,
    is_secure: bool,
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl TestRegistry {
    /// Starts a registry for everyone, without TLS.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start_plain() -> Self {
        Self::start(false)
    }

    /// Starts a registry with TLS and a certificate of its own, for [`USER`] alone.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start_secure() -> Self {
        Self::start(true)
    }

    fn start(is_secure: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let base = dir.path().display();
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {base}/store}}\n"
        );
        if is_secure {
            write_certificates(dir.path());
            fs::write(dir.path().join("htpasswd"), HTPASSWD).unwrap();
            config += &format!("auth:\n  htpasswd: {{realm: test, path: {base}/htpasswd}}\n");
        }
        config += &format!("http:\n  addr: 127.0.0.1:{port}\n");
        if is_secure {
            config +=
                &format!("  tls: {{certificate: {base}/server.pem, key: {base}/server.key}}\n");
        }
        let file = dir.path().join("config.yml");
        fs::write(&file, config).unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("docker-registry: {error}; type: scripts/deps.sh test"));
        let mut registry = Self {
            dir,
            port,
            child,
            is_secure,
        };
        registry.wait_until_listening();
        registry
    }

    fn wait_until_listening(&mut self) {
        let started = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = || fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the registry ended: {}", log());
            assert!(
                started.elapsed() < START_TIMEOUT,
                "the registry does not listen: {}",
                log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Returns its name in references.
    #[must_use]
    pub fn name(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Returns the file of certificates that clients of a secure one must trust.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Pushes an image of an OCI layout, as `repository:tag`.
    ///
    /// # Panics
    /// When skopeo fails.
    pub fn push_image(&self, layout: &TestLayout, name: &str) {
        let mut copy = Command::new("skopeo");
        copy.args(["copy", "--insecure-policy", "--quiet", "--preserve-digests"]);
        if self.is_secure {
            copy.arg("--dest-creds").arg(format!("{USER}:{PASSWORD}"));
        }
        // The certificate is not what these tests are about.
        copy.args(["--dest-tls-verify=false"]);
        copy.arg(format!("oci:{}:app", layout.path().display()));
        copy.arg(format!("docker://{}/{name}", self.name()));
        run(&mut copy);
    }
}

/// An OCI layout with one image, `app`, that umoci has made: busybox, and a user in its
/// configuration.
#[derive(Debug)]
pub struct TestLayout {
    dir: TempDir,
}

impl TestLayout {
    /// Makes an image with a file `/etc/content`.
    ///
    /// # Panics
    /// When umoci fails.
    #[must_use]
    pub fn with_content(content: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::create_dir_all(root.join("work")).unwrap();
        for dir in ["dev", "proc", "sys", "tmp", "run"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for applet in ["sh", "cat", "id", "pwd"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        fs::write(
            root.join("etc/passwd"),
            "root:x:0:0::/:/bin/sh\napp:x:1234:1234::/work:/bin/sh\n",
        )
        .unwrap();
        fs::write(root.join("etc/content"), content).unwrap();
        let layout = Self { dir };
        let image = format!("{}:app", layout.path().display());
        let path = layout.path();
        run(Command::new("umoci").args(["init", "--layout"]).arg(&path));
        run(Command::new("umoci").args(["new", "--image", &image]));
        // At once, and with a directory as the last one: umoci pads the last file of a layer with nothing.
        run(Command::new("umoci")
            .args(["insert", "--image", &image])
            .arg(&root)
            .arg("/"));
        run(Command::new("umoci").args([
            "config",
            "--image",
            &image,
            "--config.env",
            "GREETING=hello",
            "--config.user",
            "app",
            "--config.workingdir",
            "/work",
            "--architecture",
            "amd64",
            "--os",
            "linux",
        ]));
        layout
    }

    /// Returns the directory of the layout.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("layout")
    }

    /// Returns the digest of its manifest.
    ///
    /// # Panics
    /// When its index cannot be read.
    #[must_use]
    pub fn digest(&self) -> String {
        let index = fs::read(self.path().join("index.json")).unwrap();
        let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
        index["manifests"][0]["digest"].as_str().unwrap().to_owned()
    }
}

/// Writes an authority's certificate, and one of it for 127.0.0.1 with its key.
fn write_certificates(dir: &Path) {
    let openssl = |args: &[&str]| run(Command::new("openssl").args(args).current_dir(dir));
    openssl(&[
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=authority of a test",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
    ]);
    openssl(&[
        "req",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-subj",
        "/CN=registry",
        "-keyout",
        "server.key",
        "-out",
        "server.csr",
    ]);
    fs::write(
        dir.join("extensions"),
        "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n",
    )
    .unwrap();
    openssl(&[
        "x509",
        "-req",
        "-in",
        "server.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "extensions",
        "-out",
        "server.pem",
    ]);
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| {
        panic!(
            "{}: {error}; type: scripts/deps.sh test",
            command.get_program().display()
        )
    });
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
}
