//! SSH to a sandbox, with the OpenSSH, rsync and git of this machine and a guest that has none of
//! them. What docs/ssh.md shows of rsync, git and forwarded ports is done here.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use e2e::{Platform, Wrenn, eventually};

const SOON: Duration = Duration::from_secs(60);
const SERVER: &str = include_str!("../../guest/server.py");
const TERMINAL: &str = include_str!("ssh_terminal.py");
/// Bytes that go each way.
const MUCH: usize = 8 * 1024 * 1024;
/// Name of the sandbox, as ssh has it.
const HOST: &str = "ssh-story.wrenn";

/// A sandbox that ssh reaches by its name.
struct Story {
    wrenn: Wrenn,
    /// Directory with the configuration of ssh, and for files.
    dir: PathBuf,
}

impl Story {
    fn client(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .arg("-F")
            .arg(self.dir.join("config"))
            .args(args)
            // The key is in the file beside the address, and nothing else tells of it.
            .env_remove("WRENN_API_KEY")
            .stdin(Stdio::null());
        command
    }

    fn ssh(&self, args: &[&str]) -> Output {
        self.client("ssh", args).output().unwrap()
    }

    fn ssh_with_input(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = self.client("ssh", args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().unwrap();
        // A command may end before it has read everything.
        let _ = writer.join();
        output
    }

    /// `ssh` as other programs start it.
    fn ssh_command(&self) -> String {
        format!("ssh -F {}", self.dir.join("config").display())
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().to_owned()
}

fn succeeded(output: &Output) -> String {
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(
        output.status.success(),
        "{:?}\n{stdout}\n{stderr}",
        output.status
    );
    stdout
}

fn much() -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_be_bytes()[0]
    };
    (0..MUCH).map(|_| next()).collect()
}

/// Ends a program when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn openssh_works_with_bare_sandbox() {
    let mut platform = Platform::start();
    let wrenn = platform.cli();
    let dir = tempfile::tempdir_in(platform.dir()).unwrap();
    let story = Story {
        wrenn: wrenn.clone(),
        dir: dir.path().to_owned(),
    };
    let id = wrenn.create(&["--name", "ssh-story"]);
    configuration_is_installed_once(&story);
    commands_keep_streams_and_codes(&story);
    terminal_has_size_and_code(&story);
    files_go_both_ways(&story);
    ports_are_forwarded(&story, &id);
    rsync_and_git_work(&story);
    mistakes_are_told(&story, &mut platform);
    drop(dir);
    platform.finish();
}

fn configuration_is_installed_once(story: &Story) {
    let file = story.dir.join("config");
    let users = "Host *\n    ServerAliveInterval 30\n";
    fs::write(&file, users).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let path = file.to_str().unwrap();
    let config = |args: &[&str]| {
        let all = [&["ssh-config", "--file", path], args].concat();
        story.wrenn.run(all).succeeded().text()
    };
    assert!(config(&[]).contains("ProxyCommand"));
    assert_eq!(fs::read_to_string(&file).unwrap(), users, "only printed");
    assert!(config(&["--install"]).contains("includes it now"));
    let installed = fs::read_to_string(&file).unwrap();
    assert!(installed.ends_with(users) && installed.contains("Include"));
    assert!(config(&["--install", "ssh-story"]).contains("already"));
    assert_eq!(fs::read_to_string(&file).unwrap(), installed);
    let mode = fs::metadata(&file).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o644);
    config(&["--remove"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), users);
    config(&["--install"]);
}

fn commands_keep_streams_and_codes(story: &Story) {
    let output = story.ssh(&[HOST, "echo out; echo err >&2; exit 7"]);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(text(&output.stdout), "out");
    assert_eq!(text(&output.stderr), "err", "and no prompt or warning");

    let data = much();
    let output = story.ssh_with_input(&[HOST, "cat"], &data);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(output.stdout == data, "bytes came back changed");
    let output = story.ssh_with_input(&[HOST, "cat >/tmp/much; sha256sum </tmp/much"], &data);
    let here = story.dir.join("much");
    fs::write(&here, &data).unwrap();
    let sum = Command::new("sha256sum").arg(&here).output().unwrap();
    assert_eq!(succeeded(&output)[..64], succeeded(&sum)[..64]);
    // What does not read its input ends all the same.
    let output = story.ssh_with_input(&[HOST, "exec true"], &data);
    assert!(output.status.success());

    let output = story.ssh(&[HOST, "kill -9 $$"]);
    assert_eq!(output.status.code(), Some(128 + 9));
    let whoami = |target: &str| succeeded(&story.ssh(&[target, "id -un"]));
    assert_eq!(whoami(&format!("root@{HOST}")), "root");
    assert_eq!(whoami(HOST), story.wrenn.sh("ssh-story", "id -un").text());
    let output = story.ssh(&["-o", "SetEnv=GREETING=hello", HOST, "echo $GREETING"]);
    assert_eq!(succeeded(&output), "hello");
    // A script on standard input, and a process that outlives the session, as editors start it.
    let script = b"echo ready\nsetsid sleep 987 >/dev/null 2>&1 </dev/null &\n";
    assert_eq!(
        succeeded(&story.ssh_with_input(&["-T", HOST], script)),
        "ready"
    );
    assert!(!processes(story, "sleep 987").is_empty());
    // A session that breaks takes its program along.
    let mut child = story.client("ssh", &[HOST, "sleep 986"]).spawn().unwrap();
    let count = || processes(story, "sleep 986").len();
    eventually("the program", SOON, || (count() > 0).then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("its end", SOON, || (count() == 0).then_some(()));
}

/// Directories of the processes in the sandbox with this command line.
fn processes(story: &Story, line: &str) -> String {
    let script = format!(
        "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline 2>/dev/null | grep -qx '{line} ' \
         && echo $p; done; true"
    );
    story.wrenn.sh("ssh-story", &script).succeeded().text()
}

fn terminal_has_size_and_code(story: &Story) {
    let script = story.dir.join("terminal.py");
    fs::write(&script, TERMINAL).unwrap();
    let run = |words: &[&OsStr]| {
        let mut command = Command::new("python3");
        command.arg(&script).args(words).env("TERM", "xterm");
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
    };
    let config = story.dir.join("config");
    run(&["ssh", "-F"]
        .map(OsStr::new)
        .into_iter()
        .chain([config.as_os_str(), OsStr::new(HOST)])
        .collect::<Vec<_>>());
}

fn files_go_both_ways(story: &Story) {
    let here = story.dir.join("here");
    fs::create_dir_all(here.join("a dir/ä")).unwrap();
    fs::write(here.join("a dir/ä/x y"), b"one").unwrap();
    fs::write(here.join("run"), b"two").unwrap();
    fs::set_permissions(here.join("run"), fs::Permissions::from_mode(0o4751)).unwrap();
    let batch = format!(
        "put -rp \"{0}\" /tmp/there\nrename /tmp/there/run \"/tmp/there/ä b\"\n\
         chmod 640 \"/tmp/there/a dir/ä/x y\"\nln -s run /tmp/there/link\nls -l /tmp/there\n\
         get -rp /tmp/there \"{1}\"\nrm \"/tmp/there/ä b\"\n",
        here.display(),
        story.dir.join("back").display()
    );
    let script = story.dir.join("batch");
    fs::write(&script, batch).unwrap();
    let run = story
        .client("sftp", &["-b", script.to_str().unwrap(), HOST])
        .output();
    succeeded(&run.unwrap());
    let back = story.dir.join("back");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(fs::read(back.join("a dir/ä/x y")).unwrap(), b"one");
    assert_eq!(mode(&back.join("a dir/ä/x y")), 0o640);
    assert_eq!(mode(&back.join("ä b")) & 0o777, 0o751);
    let time = |path: &Path| {
        let modified = fs::metadata(path).unwrap().modified().unwrap();
        modified
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs()
    };
    assert_eq!(time(&back.join("ä b")), time(&here.join("run")));

    let much = story.dir.join("much");
    let there = format!("{HOST}:/tmp/copy of much");
    succeeded(
        &story
            .client("scp", &[much.to_str().unwrap(), &there])
            .output()
            .unwrap(),
    );
    let again = story.dir.join("again");
    succeeded(
        &story
            .client("scp", &[&there, again.to_str().unwrap()])
            .output()
            .unwrap(),
    );
    assert!(fs::read(&again).unwrap() == fs::read(&much).unwrap());
    let refused = story
        .client("scp", &[&format!("{HOST}:/no/such"), "/dev/null"])
        .output();
    let refused = refused.unwrap();
    assert!(
        text(&refused.stderr).contains("No such file"),
        "{refused:?}"
    );
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn get(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(SOON)).ok()?;
    stream.write_all(b"GET /up HTTP/1.0\r\n\r\n").ok()?;
    // The server keeps its connections until its client's end.
    stream.shutdown(std::net::Shutdown::Write).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    (!answer.is_empty()).then_some(answer)
}

fn ports_are_forwarded(story: &Story, id: &str) {
    let to_server = format!("{id}:/tmp/server.py");
    let copied = story
        .wrenn
        .run_with_input(["cp", "-", &to_server], SERVER.as_bytes());
    let _ = copied.succeeded();
    let start = "setsid python3 /tmp/server.py 127.0.0.1 3001 >/dev/null 2>&1 </dev/null &";
    let _ = story.wrenn.sh(id, start).succeeded();
    let unix = "import socket as s\nl = s.socket(s.AF_UNIX)\nl.bind('/tmp/s')\nl.listen()\n\
                while True:\n c, _ = l.accept()\n c.recv(99)\n \
                c.sendall(b'from unix')\n c.close()\n";
    let start = format!("setsid python3 -c \"{unix}\" >/dev/null 2>&1 </dev/null &");
    let _ = story.wrenn.sh(id, &start).succeeded();

    let (local, by_name, socket, dead) = (free_port(), free_port(), free_port(), free_port());
    let back = TcpListener::bind("127.0.0.1:0").unwrap();
    let back_port = back.local_addr().unwrap().port();
    let forwards = [
        format!("-L{local}:localhost:3001"),
        // A host that is not the sandbox itself for ssh: its name leads there all the same.
        format!("-L{by_name}:127.0.0.2:3001"),
        format!("-L{socket}:/tmp/s"),
        format!("-L{dead}:localhost:3999"),
        format!("-R4000:127.0.0.1:{back_port}"),
    ];
    let mut args: Vec<&str> = forwards.iter().map(String::as_str).collect();
    args.extend(["-o", "ExitOnForwardFailure=yes", "-N", HOST]);
    let log = fs::File::create(story.dir.join("forward.log")).unwrap();
    let mut command = story.client("ssh", &args);
    let _running = Running(command.stderr(log).spawn().unwrap());
    let answer = eventually("the forwarded port", SOON, || get(local));
    assert!(answer.starts_with("HTTP/1"), "{answer}");
    let _ = story
        .wrenn
        .sh(
            id,
            "setsid python3 /tmp/server.py 127.0.0.2 3001 >/dev/null 2>&1 </dev/null &",
        )
        .succeeded();
    eventually("the other address", SOON, || {
        get(by_name).filter(|answer| answer.starts_with("HTTP/1"))
    });
    assert_eq!(get(socket).as_deref(), Some("from unix"));
    assert_eq!(get(dead), None);
    let from_guest = "import socket as s\nc = s.create_connection(('localhost', 4000))\n\
                      c.sendall(b'from guest')\nprint(c.recv(99).decode())";
    let accepting = std::thread::spawn(move || {
        let (mut stream, _) = back.accept().unwrap();
        let mut said = [0; 10];
        stream.read_exact(&mut said).unwrap();
        stream.write_all(b"from here").unwrap();
        String::from_utf8_lossy(&said).into_owned()
    });
    let told = eventually("the port in the sandbox", SOON, || {
        let finished = story
            .wrenn
            .run(["exec", id, "--", "python3", "-c", from_guest]);
        (finished.code == 0).then(|| finished.text())
    });
    assert_eq!(
        (told.as_str(), accepting.join().unwrap().as_str()),
        ("from here", "from guest")
    );
    let said = fs::read_to_string(story.dir.join("forward.log")).unwrap();
    assert!(
        said.contains("nothing listens on port 3999") || said.contains("port is not open"),
        "{said}"
    );
}

/// Copies a program of this machine into the sandbox with its libraries, and returns the path of a
/// script that starts it there.
fn bring(story: &Story, program: &str) -> String {
    let listed = Command::new("ldd").arg(program).output().unwrap();
    let listed = succeeded(&listed);
    let libraries = listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(str::to_owned);
    let name = Path::new(program).file_name().unwrap().to_str().unwrap();
    let _ = story
        .wrenn
        .sh("ssh-story", "mkdir -p /tmp/bin /tmp/lib")
        .succeeded();
    let mut files: Vec<String> = libraries.collect();
    files.push(program.to_owned());
    let mut args = vec!["-q".to_owned()];
    args.extend(files);
    args.push(format!("{HOST}:/tmp/lib/"));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    succeeded(&story.client("scp", &args).output().unwrap());
    let script = format!(
        "#!/bin/sh\nexport GIT_EXEC_PATH=/tmp/bin\n\
         exec /tmp/lib/ld-linux-x86-64.so.2 --library-path /tmp/lib /tmp/lib/{name} \"$@\"\n"
    );
    let path = format!("/tmp/bin/{name}");
    let write = format!("cat >{path} && chmod 755 {path}");
    succeeded(&story.ssh_with_input(&[HOST, &write], script.as_bytes()));
    path
}

fn rsync_and_git_work(story: &Story) {
    let here = story.dir.join("here");
    let from = format!("{}/", here.display());
    let to = format!("{HOST}:/tmp/synced/");
    let rsync = |more: &[&str]| {
        let mut command = Command::new("rsync");
        command.args(["-a", "-e", &story.ssh_command()]).args(more);
        command.args([&from, &to]).output().unwrap()
    };
    let missing = rsync(&[]);
    assert!(text(&missing.stderr).contains("rsync"), "{missing:?}");
    let path = bring(story, "/usr/bin/rsync");
    succeeded(&rsync(&["--rsync-path", &path]));
    let read = story.ssh(&[HOST, "cat '/tmp/synced/a dir/ä/x y'"]);
    assert_eq!(succeeded(&read), "one");

    let path = bring(story, "/usr/bin/git");
    let git = |dir: &Path, args: &[&str]| {
        let mut command = Command::new("git");
        command
            .current_dir(dir)
            .args(args)
            .env("GIT_SSH_COMMAND", story.ssh_command());
        for name in ["GIT_AUTHOR", "GIT_COMMITTER"] {
            command
                .env(format!("{name}_NAME"), "a")
                .env(format!("{name}_EMAIL"), "a@b");
        }
        succeeded(&command.output().unwrap())
    };
    succeeded(&story.ssh(&[HOST, &format!("{path} init -q --bare /tmp/repository")]));
    let url = format!("{HOST}:/tmp/repository");
    let work = story.dir.join("work");
    let upload = format!("{path} upload-pack");
    git(&story.dir, &["clone", "-q", "-u", &upload, &url, "work"]);
    fs::write(work.join("file"), "content").unwrap();
    git(&work, &["add", "file"]);
    git(&work, &["commit", "-q", "-m", "first"]);
    let receive = format!("--receive-pack={path} receive-pack");
    git(&work, &["push", "-q", &receive, "origin", "HEAD:main"]);
    git(
        &story.dir,
        &["clone", "-q", "-b", "main", "-u", &upload, &url, "cloned"],
    );
    assert_eq!(fs::read(story.dir.join("cloned/file")).unwrap(), b"content");
}

fn mistakes_are_told(story: &Story, platform: &mut Platform) {
    let output = story.ssh(&["no-such-box.wrenn", "true"]);
    assert_eq!(output.status.code(), Some(255));
    let said = text(&output.stderr);
    assert!(
        said.contains("no-such-box") && said.contains("wrenn ls --all"),
        "{said}"
    );
    let mut wrong = story.client("ssh", &[HOST, "true"]);
    wrong.env(
        "WRENN_API_KEY",
        "wrn_0000000000000000000000000000000000000000",
    );
    let output = wrong.output().unwrap();
    let said = text(&output.stderr);
    assert!(said.contains("check the API key"), "{said}");
    let output = story.ssh(&[&format!("nobody-here@{HOST}"), "true"]);
    assert_ne!(output.status.code(), Some(0));
    assert!(text(&output.stderr).contains("nobody-here"), "{output:?}");

    // By the command line alone, without any configuration; a paused sandbox is resumed.
    let _ = story.wrenn.run(["pause", "ssh-story"]).succeeded();
    let finished = story
        .wrenn
        .run(["ssh", "ssh-story", "--", "echo hello; exit 3"]);
    assert_eq!(
        (finished.code, finished.text().as_str()),
        (3, "hello"),
        "{}",
        finished.stderr
    );
    let missing = story.wrenn.run(["ssh", "no-such-box"]);
    assert_eq!(missing.code, 255);
    assert!(missing.stderr.contains("no-such-box"), "{}", missing.stderr);

    // A server that dies ends the session, and says so.
    let mut command = story.client("ssh", &[HOST, "echo begun; sleep 985"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut begun = [0; 6];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut begun)
        .unwrap();
    platform.kill_nine();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(255));
    let said = text(&output.stderr);
    assert!(said.contains("Is the server still running?"), "{said}");
}
