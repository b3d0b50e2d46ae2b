//! Requests and answers that are legal (RFC 9110, 9112), and that proxies have been seen to spoil.

/// One request and the answer to it.
pub struct Case {
    pub name: String,
    pub request: Vec<u8>,
    pub answer: Vec<u8>,
}

impl Case {
    /// Returns true if a proxy refused the guest's answer and made one of its own.
    pub fn answer_is_refused(&self, answer: &[Vec<u8>]) -> bool {
        let is_refusal = answer
            .first()
            .is_some_and(|line| line.starts_with(b"HTTP/1.1 502"));
        is_refusal && !self.answer.starts_with(b"HTTP/1.1 502")
    }
}

/// Cases in which the two differ on purpose, and why.
pub const DIFFERENCES: &[(&str, &str)] = &[
    (
        "get",
        "methods are tokens of either case (RFC 9110, 9.1); nginx refuses lower case",
    ),
    (
        "GET /%2e%2e/b",
        "nginx resolves paths and refuses what leads above the root; the guest decides here",
    ),
    (
        "GET /\\xe9",
        "no URI has such bytes (RFC 3986, 2); hyper refuses what is not UTF-8",
    ),
    (
        "GET /?\\xe9",
        "no URI has such bytes (RFC 3986, 2); hyper refuses what is not UTF-8",
    ),
    (
        "GET /?q={\\\"x\\\":1}",
        "no query has quotes (RFC 3986, 3.4), and browsers escape them; hyper refuses them",
    ),
    (
        "proxy-connection: keep-alive",
        "of one connection (RFC 9110, 7.6.1)",
    ),
    (
        "connection: x-gone, close\\r\\nx-gone: 1",
        "of one connection (RFC 9110, 7.6.1)",
    ),
    (
        "connection: close, X-One\\r\\nconnection: x-two\\r\\nx-one: 1\\r\\nx-two: 2\\r\\nx-three: 3",
        "of one connection (RFC 9110, 7.6.1)",
    ),
    (
        "upgrade: websocket",
        "not asked for in Connection, so for nobody (RFC 9110, 7.8)",
    ),
    ("forwarded: for=1.2.3.4", "a client could make it up"),
    (
        "answer 200 OK\\r\\nconnection: x-gone, close\\r\\nx-gone: 1\\r\\nx-kept: 2",
        "of one connection (RFC 9110, 7.6.1)",
    ),
    (
        "answer 200 OK\\r\\nproxy-authenticate: Basic",
        "for the next proxy alone (RFC 9110, 11.7.1)",
    ),
    (
        "answer 200 OK\\r\\nupgrade: h2c",
        "of one connection, and to what no client gets here",
    ),
    (
        "answer 200 OK\\r\\nx-accel-buffering: no",
        "an order to nginx, which keeps it; others may stand in front",
    ),
    (
        "HTTP/1.1 200\\r\\ncontent-length: 4\\r\\n\\r\\nfour",
        "a space follows each status (RFC 9112, 4), which nginx leaves out",
    ),
];

const PLAIN_ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nhere";

const METHODS: &[&str] = &[
    "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "MKCOL", "REPORT",
    "PURGE", "M-SEARCH", "COPY", "LOCK", "FOO", "get",
];

const TARGETS: &[&[u8]] = &[
    b"/a/b",
    b"//",
    b"/a//b",
    b"//a.com/b",
    b"/.",
    b"/..a",
    b"/a/./b",
    b"/a/../b",
    b"/%2e%2e/b",
    b"/a%2Fb",
    b"/a%2fb",
    b"/a%20b",
    b"/a+b",
    b"/%C3%A9",
    b"/\xc3\xa9",
    b"/\xe9",
    b"/?\xc3\xa9",
    b"/?\xe9",
    b"/?",
    b"/?a",
    b"/?a=",
    b"/?&",
    b"/?a&&b",
    b"/?a=1&a=2",
    b"/?a==b",
    b"/??a?b",
    b"/?a=/../b",
    b"/?a=b;c=d",
    b"/?a+b",
    b"/?a%20b",
    b"/?%zz",
    b"/?%",
    b"/?a[]=1&a[b]=2",
    b"/?q={\"x\":1}",
    b"/?q=|^`\\",
    b"/?url=http://a.com/b?c=d",
    b"/?wrenn-links=x",
    b"/;a=1/b;c",
    b"/:80/@x",
    b"/!$&'()*+,;=",
    b"/~user/",
    b"/a.b-c_d~e",
    b"/[a]",
    b"/{a}",
    b"/a|b",
    b"/a^b",
    b"/a\"b",
    b"/socket.io/?EIO=4&transport=polling&t=Oabc",
];

const FIELDS: &[&[u8]] = &[
    b"x-empty:",
    b"x-spaces:    a   b   ",
    b"x-tab: a\tb",
    b"X-Case: Kept",
    b"x_under_score: 1",
    b"x.dot: 1",
    b"x!#$%&'*+-.^`|~: 1",
    b"x1: 1\r\nx1: 2\r\nX1: 3",
    b"x-obs: caf\xe9 \x80\xff",
    b"x-utf8: \xf0\x9f\xa6\x80",
    b"x-quoted: \"a, \\\"b\\\"\"",
    b"x-colon: a:b::c",
    b"cookie: a=b; c=d",
    b"cookie: a=b;c=d;;e",
    b"cookie: a=\xe9; b=\"x y\"",
    b"cookie: novalue",
    b"cookie: wrenn-linked=1; xwrenn-link=2",
    b"accept: */*;q=0.8, text/html",
    b"accept-encoding: gzip, br, zstd;q=0",
    b"accept-language: de-CH, *;q=0.5",
    b"range: bytes=0-1,3-",
    b"if-range: \"x\"\r\nrange: bytes=-5",
    b"if-none-match: W/\"a\", \"b\", *",
    b"if-match: *",
    b"if-modified-since: Sunday, 06-Nov-94 08:49:37 GMT",
    b"if-unmodified-since: x",
    b"authorization: Basic dTpw",
    b"authorization: Bearer sk-theirs",
    b"authorization: Digest username=\"a\", uri=\"/\"",
    b"x-api-key: sk-theirs",
    b"user-agent:",
    b"referer: http://a.com/\xc3\xa9?x#y",
    b"origin: null",
    b"via: 1.0 fred, 1.1 p.example.com",
    b"max-forwards: 0",
    b"te: gzip",
    b"keep-alive: timeout=5",
    b"proxy-connection: keep-alive",
    b"connection: x-gone, close\r\nx-gone: 1",
    b"connection: close, X-One\r\nconnection: x-two\r\nx-one: 1\r\nx-two: 2\r\nx-three: 3",
    b"upgrade: websocket",
    b"connection: close\r\nupgrade-insecure-requests: 1",
    b"expect: 100-continue",
    b"forwarded: for=1.2.3.4",
    b"x-forwarded-port: 81",
    b"x-request-id: abc",
    b"priority: u=1, i",
    b"prefer: respond-async",
    b"early-data: 1",
    b"dnt: 1\r\nsec-gpc: 1",
    b"sec-ch-ua: \"A\";v=\"1\"",
    b"sec-websocket-key: x",
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    b"content-type: text/plain; charset=\"utf-8\"",
    b"date: Tue, 15 Nov 1994 08:12:31 GMT",
    b"from: a@b.c",
    b"pragma: no-cache",
    b"cache-control: max-age=0, no-store",
    b"access-control-request-method: PUT",
    b"x-http-method-override: DELETE",
    b"soapaction: \"urn:a\"",
    b"depth: infinity\r\ndestination: http://a/b",
];

/// Method, fields, bytes after the head.
const BODIES: &[(&str, &str, &[u8])] = &[
    ("POST", "content-length: 0", b""),
    ("POST", "content-length: 4", b"\x00\xff\r\n"),
    ("POST", "content-length: 004", b"four"),
    (
        "POST",
        "content-length: 4\r\ncontent-type: multipart/form-data; boundary=x",
        b"--x-",
    ),
    (
        "POST",
        "content-length: 4\r\ncontent-encoding: gzip",
        b"\x1f\x8b\x08\x00",
    ),
    ("POST", "transfer-encoding: chunked", b"0\r\n\r\n"),
    (
        "POST",
        "transfer-encoding: chunked",
        b"4\r\nfour\r\n0\r\n\r\n",
    ),
    (
        "POST",
        "Transfer-Encoding: Chunked",
        b"4\r\nfour\r\n1\r\n!\r\n0\r\n\r\n",
    ),
    (
        "POST",
        "transfer-encoding: chunked",
        b"A\r\n0123456789\r\n00\r\n\r\n",
    ),
    (
        "POST",
        "transfer-encoding: chunked",
        b"0004\r\nfour\r\n0\r\n\r\n",
    ),
    (
        "POST",
        "transfer-encoding: chunked",
        b"4;a=b;c=\"d\"\r\nfour\r\n0;e\r\n\r\n",
    ),
    (
        "POST",
        "transfer-encoding: chunked",
        b"4\r\nfour\r\n0\r\nx-trailer: 1\r\n\r\n",
    ),
    ("GET", "content-length: 4", b"four"),
    (
        "GET",
        "transfer-encoding: chunked",
        b"4\r\nfour\r\n0\r\n\r\n",
    ),
    ("DELETE", "content-length: 4", b"four"),
    ("OPTIONS", "content-length: 4", b"four"),
    ("PUT", "content-length: 4\r\nexpect: 100-continue", b"four"),
    (
        "PATCH",
        "content-length: 4\r\ncontent-type: application/json-patch+json",
        b"[{}]",
    ),
    ("PROPFIND", "content-length: 4\r\ndepth: 1", b"<a/>"),
];

/// Status line and fields; a body of four bytes follows, unless one stands there.
const ANSWERS: &[&[u8]] = &[
    b"201 Created\r\nlocation: /new",
    b"202 Accepted",
    b"203 Non-Authoritative Information",
    b"207 Multi-Status",
    b"226 IM Used",
    b"299 Odd",
    b"300 Multiple Choices",
    b"301 Moved Permanently\r\nlocation: http://a.com/?b=\"c\"",
    b"302 Found\r\nlocation: //a.com/",
    b"302 Found",
    b"303 See Other\r\nlocation: ?x",
    b"307 Temporary Redirect\r\nlocation: ../x",
    b"308 Permanent Redirect\r\nlocation: #f",
    b"401 Unauthorized\r\nwww-authenticate: Basic realm=\"a\", Negotiate",
    b"402 Payment Required",
    b"407 Proxy Authentication Required",
    b"408 Request Timeout",
    b"409 Conflict",
    b"410 Gone",
    b"413 Too Large",
    b"416 Range Not Satisfiable\r\ncontent-range: bytes */5",
    b"418 I'm a teapot",
    b"421 Misdirected Request",
    b"422 Unprocessable Content",
    b"425 Too Early",
    b"426 Upgrade Required",
    b"429 Too Many Requests\r\nretry-after: 5",
    b"451 Unavailable For Legal Reasons",
    b"499 Own",
    b"500 Internal Server Error",
    b"501 Not Implemented",
    b"502 Bad Gateway",
    b"503 Service Unavailable\r\nretry-after: Fri, 31 Dec 1999 23:59:59 GMT",
    b"504 Gateway Timeout",
    b"507 Insufficient Storage",
    b"511 Network Authentication Required",
    b"599 Own",
    b"200 ",
    b"200 Own words",
    b"200 OK\r\nset-cookie: a=1\r\nset-cookie: b=2; Path=/x; Secure; SameSite=None\r\nSet-Cookie: c=\xe9",
    b"200 OK\r\nset-cookie: a",
    b"200 OK\r\nx-empty:",
    b"200 OK\r\nx_under: 1\r\nx.dot: 2",
    b"200 OK\r\nX-Obs: \xe9\x80",
    b"200 OK\r\nx-tab: a\tb",
    b"200 OK\r\nx-a: 1\r\nx-a: 2\r\nX-A: 3",
    b"200 OK\r\ncontent-type: text/html; charset=ISO-8859-1",
    b"200 OK\r\ncontent-encoding: gzip\r\nvary: *",
    b"200 OK\r\ncontent-disposition: attachment; filename=\"caf\xc3\xa9.txt\"; filename*=UTF-8''caf%C3%A9.txt",
    b"200 OK\r\netag: W/\"a\"\r\nlast-modified: x",
    b"200 OK\r\nlink: </a>; rel=preload, </b>; rel=\"next\"",
    b"200 OK\r\naccept-ranges: none\r\nage: 5\r\nwarning: 110 - \"x\"",
    b"200 OK\r\ncache-control: public, s-maxage=5, immutable",
    b"200 OK\r\nexpires: 0\r\npragma: no-cache",
    b"200 OK\r\nvia: 1.1 guest",
    b"200 OK\r\nrefresh: 5; url=/x",
    b"200 OK\r\ncontent-security-policy: default-src 'self'\r\ncontent-security-policy: img-src *",
    b"200 OK\r\nstrict-transport-security: max-age=1",
    b"200 OK\r\naccess-control-allow-origin: *\r\naccess-control-expose-headers: x",
    b"200 OK\r\nkeep-alive: timeout=5\r\nx-a: 1",
    b"200 OK\r\nconnection: x-gone, close\r\nx-gone: 1\r\nx-kept: 2",
    b"200 OK\r\nproxy-authenticate: Basic",
    b"200 OK\r\nupgrade: h2c",
    b"200 OK\r\nalt-svc: h3=\":443\"",
    b"200 OK\r\nserver-timing: a;dur=1",
    b"200 OK\r\nx-powered-by: PHP/8",
    b"200 OK\r\nx-accel-buffering: no",
    b"200 OK\r\nallow: GET, HEAD",
    b"200 OK\r\ncontent-location: /x\r\ncontent-language: de",
    b"206 Partial Content\r\ncontent-range: bytes 0-3/10",
    b"206 Partial Content\r\ncontent-type: multipart/byteranges; boundary=x",
];

/// Whole answers.
const WHOLE: &[&[u8]] = &[
    b"HTTP/1.1 204 No Content\r\nx-a: 1\r\n\r\n",
    b"HTTP/1.1 205 Reset Content\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\netag: \"a\"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil the end",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.0 200 OK\r\ncontent-length: 4\r\n\r\nfour",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0004;a=b\r\nfour\r\n000\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-t\r\n\r\n4\r\nfour\r\n0\r\nx-t: 1\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfour",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfour",
    b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfour",
    b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nx-folded: a\r\n b\r\n\r\nfour",
    b"HTTP/1.1 200\r\ncontent-length: 4\r\n\r\nfour",
    b"HTTP/1.1 200 OK\ncontent-length: 4\n\nfour",
];

/// All cases, for a proxy that finds the guest by `authority`.
pub fn cases(authority: &str) -> Vec<Case> {
    let head = |method: &str, target: &[u8], fields: &[u8], body: &[u8]| {
        let own = |name: &str| fields.to_ascii_lowercase().starts_with(name.as_bytes());
        let close = if own("connection:") {
            ""
        } else {
            "connection: close\r\n"
        };
        let break_ = if fields.is_empty() { "" } else { "\r\n" };
        let line = [
            method.as_bytes(),
            b" ",
            target,
            b" HTTP/1.1\r\nHost: ",
            authority.as_bytes(),
        ]
        .concat();
        [
            line.as_slice(),
            b"\r\n",
            close.as_bytes(),
            fields,
            break_.as_bytes(),
            b"\r\n",
            body,
        ]
        .concat()
    };
    let shown = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let plain = |name: String, request: Vec<u8>| Case {
        name,
        request,
        answer: PLAIN_ANSWER.to_vec(),
    };
    let mut all = Vec::new();
    all.extend(
        METHODS
            .iter()
            .map(|method| plain((*method).to_owned(), head(method, b"/", b"", b""))),
    );
    all.extend(TARGETS.iter().map(|target| {
        plain(
            format!("GET {}", shown(target)),
            head("GET", target, b"", b""),
        )
    }));
    let absolute = format!("http://{authority}/a?b");
    all.push(plain(
        "absolute form".to_owned(),
        head("GET", absolute.as_bytes(), b"", b""),
    ));
    all.push(plain(
        "long target".to_owned(),
        head(
            "GET",
            &[b"/".as_slice(), &[b'a'; 16_000]].concat(),
            b"",
            b"",
        ),
    ));
    all.extend(
        FIELDS
            .iter()
            .map(|field| plain(shown(field), head("GET", b"/", field, b""))),
    );
    let long = [b"x-long: ".as_slice(), &[b'a'; 30_000]].concat();
    all.push(plain(
        "long field".to_owned(),
        head("GET", b"/", &long, b""),
    ));
    let many: Vec<String> = (0..90)
        .map(|number| format!("x-{number}: {number}"))
        .collect();
    all.push(plain(
        "many fields".to_owned(),
        head("GET", b"/", many.join("\r\n").as_bytes(), b""),
    ));
    all.extend(BODIES.iter().map(|(method, fields, body)| {
        plain(
            format!("{method} {} {}", shown(fields.as_bytes()), shown(body)),
            head(method, b"/", fields.as_bytes(), body),
        )
    }));
    let get = head("GET", b"/", b"", b"");
    all.extend(ANSWERS.iter().map(|answer| Case {
        name: format!("answer {}", shown(answer)),
        request: get.clone(),
        answer: [b"HTTP/1.1 ", *answer, b"\r\ncontent-length: 4\r\n\r\nfour"].concat(),
    }));
    let whole = |answer: &[u8]| Case {
        name: shown(answer),
        request: get.clone(),
        answer: answer.to_vec(),
    };
    all.extend(WHOLE.iter().map(|answer| whole(answer)));
    let headed = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\nx-a: 1\r\n\r\n";
    all.push(Case {
        name: "HEAD with a length".to_owned(),
        request: head("HEAD", b"/", b"", b""),
        answer: headed.to_vec(),
    });
    let long = [
        b"HTTP/1.1 200 OK\r\nx-long: ".as_slice(),
        &[b'a'; 30_000],
        b"\r\ncontent-length: 0\r\n\r\n",
    ]
    .concat();
    all.push(Case {
        name: "long field in an answer".to_owned(),
        ..whole(&long)
    });
    let many = format!(
        "HTTP/1.1 200 OK\r\n{}\r\ncontent-length: 0\r\n\r\n",
        many.join("\r\n")
    );
    all.push(Case {
        name: "many fields in an answer".to_owned(),
        ..whole(many.as_bytes())
    });
    let big = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n".as_slice(),
        &vec![b'x'; 3_000_000],
    ]
    .concat();
    all.push(Case {
        name: "big answer".to_owned(),
        ..whole(&big)
    });
    all
}
