use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::*;

/// A packet of a request, without its length.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u8) -> Self {
        Self(vec![kind, 0, 0, 0, 7])
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    fn bytes(self, bytes: &[u8]) -> Self {
        let mut request = self.u32(u32::try_from(bytes.len()).expect("is short"));
        request.0.extend_from_slice(bytes);
        request
    }

    fn path(self, path: &Path) -> Self {
        self.bytes(path.as_os_str().as_bytes())
    }
}

/// Returns type and fields of the answer to a request.
fn answered(server: &mut Server, request: &Request) -> (u8, Vec<u8>) {
    let bytes = answer_packet(server, &request.0);
    let length = u32::from_be_bytes(bytes[..4].try_into().expect("a length"));
    assert_eq!(usize::try_from(length).expect("fits"), bytes.len() - 4);
    assert_eq!(bytes[5..9], [0, 0, 0, 7], "the id of the request");
    (bytes[4], bytes[9..].to_vec())
}

/// Returns the code of a status.
fn code(server: &mut Server, request: &Request) -> u32 {
    let (kind, fields) = answered(server, request);
    assert_eq!(kind, answer::STATUS);
    u32::from_be_bytes(fields[..4].try_into().expect("a code"))
}

fn handle(server: &mut Server, request: &Request) -> Vec<u8> {
    let (kind, fields) = answered(server, request);
    assert_eq!(kind, answer::HANDLE);
    fields[4..].to_vec()
}

fn open(path: &Path, flags: u32, mode: u32) -> Request {
    let request = Request::new(request::OPEN).path(path).u32(flags);
    request.u32(4).u32(mode)
}

#[test]
fn file_is_written_and_read_anywhere() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join(std::ffi::OsStr::from_bytes(b"na me \xff"));
    let mut server = Server::default();
    let file = handle(&mut server, &open(&path, 1 | 2 | 8, 0o640));
    for (offset, data) in [(3, "def"), (0, "abc")] {
        let write = Request::new(request::WRITE).bytes(&file).u64(offset);
        assert_eq!(code(&mut server, &write.bytes(data.as_bytes())), 0);
    }
    let read = |offset| Request::new(request::READ).bytes(&file).u64(offset).u32(4);
    assert_eq!(
        answered(&mut server, &read(1)),
        (answer::DATA, b"\0\0\0\x04bcde".to_vec())
    );
    assert_eq!(code(&mut server, &read(6)), 1, "end of file");
    let close = Request::new(request::CLOSE).bytes(&file);
    assert_eq!(code(&mut server, &close), 0);
    assert_eq!(code(&mut server, &close), 4, "closed already");
    assert_eq!(std::fs::read(&path).expect("reads"), b"abcdef");
    let mode = std::fs::metadata(&path).expect("is there").mode();
    assert_eq!(mode & 0o7777, 0o640);
}

#[test]
fn attributes_are_set_by_path() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("f");
    std::fs::write(&path, b"abcdef").expect("writes");
    let set = Request::new(request::SETSTAT).path(&path).u32(1 | 4 | 8);
    let set = set.u64(2).u32(0o4711).u32(100).u32(200);
    assert_eq!(code(&mut Server::default(), &set), 0);
    let found = std::fs::metadata(&path).expect("is there");
    assert_eq!(
        (found.len(), found.permissions().mode() & 0o7777),
        (2, 0o4711)
    );
    assert_eq!((found.atime(), found.mtime()), (100, 200));
}

#[test]
fn plain_rename_keeps_target_posix_replaces() {
    let dir = tempfile::tempdir().expect("a directory");
    let (from, to) = (dir.path().join("a"), dir.path().join("b"));
    std::fs::write(&from, b"new").expect("writes");
    std::fs::write(&to, b"old").expect("writes");
    let mut server = Server::default();
    let plain = Request::new(request::RENAME).path(&from).path(&to);
    assert_eq!(code(&mut server, &plain), 4);
    assert_eq!(std::fs::read(&to).expect("reads"), b"old");
    let posix = Request::new(request::EXTENDED).bytes(b"posix-rename@openssh.com");
    assert_eq!(code(&mut server, &posix.path(&from).path(&to)), 0);
    assert_eq!(std::fs::read(&to).expect("reads"), b"new");
}

#[test]
fn directory_is_listed_to_its_end() {
    let dir = tempfile::tempdir().expect("a directory");
    for number in 0..150 {
        std::fs::write(dir.path().join(number.to_string()), b"").expect("writes");
    }
    let mut server = Server::default();
    let opened = handle(
        &mut server,
        &Request::new(request::OPENDIR).path(dir.path()),
    );
    let read = Request::new(request::READDIR).bytes(&opened);
    let mut sizes = Vec::new();
    loop {
        let (kind, fields) = answered(&mut server, &read);
        let first = u32::from_be_bytes(fields[..4].try_into().expect("a number"));
        if kind == answer::STATUS {
            assert_eq!(first, 1, "end of the directory");
            break;
        }
        sizes.push(first);
    }
    assert_eq!(sizes, [100, 50]);
}

#[test]
fn links_are_kept_apart_from_targets() {
    let dir = tempfile::tempdir().expect("a directory");
    let (target, link) = (dir.path().join("t"), dir.path().join("l"));
    std::fs::write(&target, b"abc").expect("writes");
    let mut server = Server::default();
    let made = Request::new(request::SYMLINK).path(&target).path(&link);
    assert_eq!(code(&mut server, &made), 0);
    let kind = |server: &mut Server, kind| {
        let (answer, fields) = answered(server, &Request::new(kind).path(&link));
        assert_eq!(answer, answer::ATTRS);
        u32::from_be_bytes(fields[20..24].try_into().expect("a mode")) & 0o170_000
    };
    assert_eq!(kind(&mut server, request::STAT), 0o100_000);
    assert_eq!(kind(&mut server, request::LSTAT), 0o120_000);
    let read = answered(&mut server, &Request::new(request::READLINK).path(&link));
    assert_eq!(read.0, answer::NAME);
    assert!(
        read.1
            .windows(target.as_os_str().len())
            .any(|part| part == target.as_os_str().as_bytes())
    );
}

#[test]
fn refusals_have_codes_of_protocol() {
    let mut server = Server::default();
    let missing = Path::new("/no/such/file");
    let stat = Request::new(request::STAT).path(missing);
    assert_eq!(code(&mut server, &stat), 2);
    assert_eq!(code(&mut server, &Request::new(99).path(missing)), 8);
    let unknown = Request::new(request::EXTENDED).bytes(b"no@such");
    assert_eq!(code(&mut server, &unknown), 8);
    assert_eq!(code(&mut server, &Request::new(request::OPEN).u32(9)), 5);
    let nul = Request::new(request::STAT).bytes(b"a\0b");
    assert_eq!(code(&mut server, &nul), 4);
}

#[test]
fn stream_is_served_until_its_end() {
    let stat = Request::new(request::REALPATH).bytes(b"").0;
    let mut input = vec![0, 0, 0, 5, request::INIT, 0, 0, 0, 3];
    input.extend_from_slice(&u32::try_from(stat.len()).expect("is short").to_be_bytes());
    input.extend_from_slice(&stat);
    let mut output = Vec::new();
    serve_sftp(input.as_slice(), &mut output).expect("is served");
    assert_eq!(output[4..9], [answer::VERSION, 0, 0, 0, 3]);
    let text = String::from_utf8_lossy(&output);
    assert!(text.contains("posix-rename@openssh.com"));
    let cwd = std::env::current_dir().expect("a directory");
    assert!(text.contains(&*cwd.to_string_lossy()));
    let long = [0xff, 0xff, 0xff, 0xff, 0];
    let refused = serve_sftp(long.as_slice(), Vec::new()).expect_err("is too long");
    assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
}
