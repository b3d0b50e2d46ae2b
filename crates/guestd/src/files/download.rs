//! `GET /files`: one file, streamed.
//!
//! The file is opened as the user; what follows reads from that descriptor. The first piece is read
//! before the answer begins, so a small file and a pseudo-file of `/proc` or `/sys`, whose stated
//! size means nothing, have their true length.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use rustix::fs::{Mode, OFlags};

use super::chunks::{CHUNK, read_up_to, stream_file};
use super::content_type;
use super::range::{self, Part};
use crate::as_user::run;
use crate::filesystem::error::{FileError, Kind};
use crate::filesystem::operations::not_found_error;
use crate::filesystem::path;
use crate::http::error::HttpError;
use crate::user::User;

/// Start of the year 10000, which has a fifth digit, in seconds since the Unix epoch.
const YEAR_10000: u64 = 253_402_300_800;

struct Opened {
    file: File,
    size: u64,
    modified: SystemTime,
    /// The part that is sent, and its first piece.
    part: Part,
    head: Vec<u8>,
}

/// Answers with the file at `path`.
///
/// # Errors
/// 400 for a directory or special file, 403, 404, 406.
pub async fn download(
    path: PathBuf,
    user: &User,
    headers: &HeaderMap,
) -> Result<Response, HttpError> {
    if refuses_identity(headers) {
        let message =
            "header Accept-Encoding excludes identity, the only encoding there is: allow it";
        return Err(HttpError::new(StatusCode::NOT_ACCEPTABLE, message));
    }
    let conditions = headers.clone();
    let opened = {
        let path = path.clone();
        run(user, move || open(&path, &conditions)).await?
    };
    let mut response = answer(opened, &path, headers);
    let all = response.headers_mut();
    all.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    all.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Ok(value) = HeaderValue::from_str(&disposition(&path::file_name(&path))) {
        all.insert(header::CONTENT_DISPOSITION, value);
    }
    Ok(response)
}

/// Opens a plain file for reading. Call it as the user.
///
/// # Errors
/// Not found, denied, invalid where it is no plain file.
pub fn open_plain(path: &Path) -> Result<(File, std::fs::Metadata), FileError> {
    let refused =
        |e: io::Error| not_found_error(path, &e).unwrap_or_else(|| FileError::io("read", path, &e));
    // Without NONBLOCK, opening a pipe without a writer would hold the thread.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file =
        File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(|e| refused(e.into()))?);
    let metadata = file.metadata().map_err(refused)?;
    if metadata.is_dir() {
        return Err(FileError::invalid(format!(
            "path '{}' is a directory",
            path.display()
        )));
    }
    if !metadata.is_file() {
        return Err(FileError::invalid(format!(
            "path '{}' is not a plain file",
            path.display()
        )));
    }
    Ok((file, metadata))
}

fn open(path: &Path, headers: &HeaderMap) -> Result<Opened, FileError> {
    let (mut file, metadata) = open_plain(path)?;
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    let mut size = metadata.len();
    let wanted = text(headers, &header::RANGE).filter(|_| range_applies(headers, modified));
    let part = range::parse_range(wanted, size);
    let (start, length) = match part {
        Part::Whole => (0, CHUNK),
        Part::Some { start, length } => {
            (start, usize::try_from(length).unwrap_or(CHUNK).min(CHUNK))
        }
        Part::Outside => (0, 0),
    };
    let read = |file: &mut File| {
        if start > 0 {
            file.seek(SeekFrom::Start(start))?;
        }
        read_up_to(&*file, length)
    };
    let head = read(&mut file).map_err(|e| FileError::io("read", path, &e))?;
    if part == Part::Whole && head.len() < CHUNK {
        size = head.len() as u64;
    } else if matches!(part, Part::Some { .. }) && head.len() < length {
        return Err(FileError::new(
            Kind::Precondition,
            format!("file '{}' is changing: try again", path.display()),
        ));
    }
    Ok(Opened {
        file,
        size,
        modified,
        part,
        head,
    })
}

fn answer(opened: Opened, path: &Path, headers: &HeaderMap) -> Response {
    let mut response = if not_modified(headers, opened.modified) {
        StatusCode::NOT_MODIFIED.into_response()
    } else if opened.part == Part::Outside {
        let message = format!(
            "header Range lies behind the end: the file has {} bytes",
            opened.size
        );
        let mut response =
            HttpError::new(StatusCode::RANGE_NOT_SATISFIABLE, message).into_response();
        insert(
            &mut response,
            header::CONTENT_RANGE,
            &format!("bytes */{}", opened.size),
        );
        response
    } else {
        content(opened.file, opened.size, opened.part, opened.head, path)
    };
    if let Some(date) = http_date(opened.modified) {
        insert(&mut response, header::LAST_MODIFIED, &date);
    }
    response
}

fn content(file: File, size: u64, part: Part, head: Vec<u8>, path: &Path) -> Response {
    let content_type = content_type::guess_content_type(path, &head);
    let in_head = head.len() as u64;
    // A pseudo-file of size 0 with more in it than one piece has no length that is known before its
    // end.
    let length = match part {
        Part::Some { length, .. } => Some(length),
        _ if size >= in_head && size > 0 => Some(size),
        _ => (in_head == 0).then_some(0),
    };
    let body = if length == Some(in_head) {
        Body::from(head)
    } else {
        let rest = stream_file(file, length.map(|length| length - in_head));
        Body::from_stream(futures::stream::once(async { Ok(Bytes::from(head)) }).chain(rest))
    };
    let mut response = Response::new(body);
    if let Part::Some { start, length } = part {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        insert(
            &mut response,
            header::CONTENT_RANGE,
            &format!("bytes {start}-{}/{size}", start + length - 1),
        );
    }
    if let Some(length) = length {
        insert(&mut response, header::CONTENT_LENGTH, &length.to_string());
    }
    insert(&mut response, header::CONTENT_TYPE, content_type);
    response
}

fn insert(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Formats a time as HTTP does; `None` for times before 1970 and after year 9999, which no HTTP
/// date can say.
fn http_date(time: SystemTime) -> Option<String> {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    (seconds < YEAR_10000).then(|| httpdate::fmt_http_date(time))
}

/// Returns true if the file was modified after the date, compared in whole seconds as HTTP has
/// them; `None` if the text is not a date.
fn newer(modified: SystemTime, than: &str) -> Option<bool> {
    let than = httpdate::parse_http_date(than).ok()?;
    Some(modified >= than + Duration::from_secs(1))
}

fn not_modified(headers: &HeaderMap, modified: SystemTime) -> bool {
    text(headers, &header::IF_MODIFIED_SINCE).and_then(|since| newer(modified, since))
        == Some(false)
}

/// Returns true if the requested range applies. An `If-Range` with a date that is not the file's,
/// or with an entity tag, which we have none of, asks for the whole file.
fn range_applies(headers: &HeaderMap, modified: SystemTime) -> bool {
    text(headers, &header::IF_RANGE).is_none_or(|since| newer(modified, since) == Some(false))
}

fn refuses_identity(headers: &HeaderMap) -> bool {
    let Some(accepted) = text(headers, &header::ACCEPT_ENCODING) else {
        return false;
    };
    let weight = |coding: &str| {
        accepted.split(',').find_map(|item| {
            let (name, parameters) = item.split_once(';').unwrap_or((item, "q=1"));
            name.trim().eq_ignore_ascii_case(coding).then(|| {
                let q = parameters
                    .trim()
                    .strip_prefix("q=")
                    .and_then(|q| q.trim().parse::<f32>().ok());
                q.unwrap_or(1.0)
            })
        })
    };
    weight("identity")
        .or_else(|| weight("*"))
        .is_some_and(|q| q <= 0.0)
}

/// Returns `inline` with the name, quoted, and as RFC 8187 where it is more than ASCII.
fn disposition(name: &str) -> String {
    let quoted: String = name
        .chars()
        .map(|c| match c {
            '"' | '\\' => format!("\\{c}"),
            ' '..='~' => c.to_string(),
            _ => "_".to_owned(),
        })
        .collect();
    if name.chars().all(|c| matches!(c, ' '..='~')) {
        return format!("inline; filename=\"{quoted}\"");
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&+-.^_`|~".contains(&byte);
    let encode = |byte: u8| {
        if plain(byte) {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    let encoded: String = name.bytes().map(encode).collect();
    format!("inline; filename=\"{quoted}\"; filename*=UTF-8''{encoded}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_the_header() {
        assert_eq!(disposition("a b.txt"), "inline; filename=\"a b.txt\"");
        assert_eq!(disposition("a\"b"), "inline; filename=\"a\\\"b\"");
        assert_eq!(
            disposition("ä\n"),
            "inline; filename=\"__\"; filename*=UTF-8''%C3%A4%0A"
        );
    }

    #[test]
    fn times_outside_http_range_are_omitted() {
        let after = |seconds| {
            SystemTime::UNIX_EPOCH
                .checked_add(Duration::from_secs(seconds))
                .expect("a time")
        };
        assert_eq!(
            http_date(after(0)).as_deref(),
            Some("Thu, 01 Jan 1970 00:00:00 GMT")
        );
        assert!(
            http_date(after(YEAR_10000 - 1)).is_some() && http_date(after(YEAR_10000)).is_none()
        );
        assert!(http_date(SystemTime::UNIX_EPOCH - Duration::from_secs(1)).is_none());
    }

    #[test]
    fn identity_encoding_is_refused_when_excluded() {
        let refuses = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, text.parse().expect("a header"));
            refuses_identity(&headers)
        };
        assert!(
            !refuses("gzip, deflate")
                && !refuses("*")
                && !refuses("identity;q=0.5")
                && !refuses("")
        );
        assert!(!refuses("identity, *;q=0"));
        assert!(refuses("gzip, identity;q=0") && refuses("gzip;q=1, *;q=0"));
    }
}
