//! A registry that answers as a test tells it to.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::image::TestImage;

/// A request as far as a test looks at it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    /// First byte of a range.
    pub(crate) offset: Option<usize>,
    pub(crate) authorization: Option<String>,
    pub(crate) body: String,
}

/// What is answered instead of the content.
pub(crate) enum Reply {
    /// As a good registry does.
    Content,
    Status(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// The content, but the connection ends after so many bytes of it.
    Cut(usize),
    /// The whole content, whatever range was asked for, ending after so many bytes.
    CutWithoutRanges(usize),
    /// The beginning of the content and then nothing for a long time.
    Stall(usize),
    /// These bytes as a complete answer.
    Other(Vec<u8>),
}

type Rule = Box<dyn Fn(&Request) -> Reply + Send + Sync>;

struct Shared {
    content: Mutex<BTreeMap<String, (String, Vec<u8>)>>,
    rule: Mutex<Arc<Rule>>,
    log: Mutex<Vec<Request>>,
}

pub(crate) struct Misbehaving {
    pub(crate) address: String,
    shared: Arc<Shared>,
}

impl Misbehaving {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let good: Rule = Box::new(|_| Reply::Content);
        let shared = Arc::new(Shared {
            content: Mutex::default(),
            rule: Mutex::new(Arc::new(good)),
            log: Mutex::default(),
        });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&serving);
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { address, shared }
    }

    pub(crate) fn put(&self, repository: &str, tag: &str, image: &TestImage) {
        let mut content = self.shared.content.lock().unwrap();
        let manifest = (image.media_type(), image.manifest_bytes());
        let base = format!("/v2/{repository}");
        content.insert(format!("{base}/manifests/{tag}"), manifest.clone());
        content.insert(
            format!("{base}/manifests/{}", image.manifest_digest()),
            manifest,
        );
        for (digest, blob) in &image.blobs {
            let blob = ("application/octet-stream".to_owned(), blob.clone());
            content.insert(format!("{base}/blobs/{digest}"), blob);
        }
    }

    pub(crate) fn rule(&self, rule: impl Fn(&Request) -> Reply + Send + Sync + 'static) {
        *self.shared.rule.lock().unwrap() = Arc::new(Box::new(rule));
    }

    pub(crate) fn behave(&self) {
        self.rule(|_| Reply::Content);
    }

    /// The requests so far whose path contains `part`.
    pub(crate) fn requests(&self, part: &str) -> Vec<Request> {
        let log = self.shared.log.lock().unwrap();
        log.iter()
            .filter(|request| request.path.contains(part))
            .cloned()
            .collect()
    }
}

fn serve(stream: TcpStream, shared: &Shared) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let request = read_request(&mut reader)?;
    let rule = Arc::clone(&shared.rule.lock().unwrap());
    shared.log.lock().unwrap().push(request.clone());
    let found = shared.content.lock().unwrap().get(&request.path).cloned();
    let mut stream = stream;
    let not_found = || {
        let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
        (404, Vec::new(), body.as_bytes().to_vec())
    };
    let (status, headers, body) = match (rule(&request), found) {
        (Reply::Status(status, headers, body), _) => (status, headers, body),
        (Reply::Other(body), _) => (200, Vec::new(), body),
        (_, None) => not_found(),
        (reply, Some((media_type, content))) => {
            let offset = match reply {
                Reply::CutWithoutRanges(_) => None,
                _ => request.offset,
            };
            let body = &content[offset.unwrap_or(0).min(content.len())..];
            let mut headers = vec![("Content-Type", media_type)];
            if let Some(offset) = offset {
                let last = content.len() - 1;
                let range = format!("bytes {offset}-{last}/{}", content.len());
                headers.push(("Content-Range", range));
            }
            let status = if offset.is_some() { 206 } else { 200 };
            let keep = match reply {
                Reply::Cut(keep) | Reply::CutWithoutRanges(keep) | Reply::Stall(keep) => {
                    keep.min(body.len())
                }
                _ => body.len(),
            };
            write_head(&mut stream, status, &headers, body.len())?;
            stream.write_all(&body[..keep]).ok()?;
            if let Reply::Stall(_) = reply {
                // Ends when the other side has had enough.
                stream
                    .set_read_timeout(Some(Duration::from_secs(30)))
                    .ok()?;
                let _ = stream.read(&mut [0; 1]);
            }
            return Some(());
        }
    };
    write_head(&mut stream, status, &headers, body.len())?;
    stream.write_all(&body).ok()
}

fn write_head(
    stream: &mut TcpStream,
    status: u16,
    headers: &[(&'static str, String)],
    length: usize,
) -> Option<()> {
    let mut head =
        format!("HTTP/1.1 {status} \r\nConnection: close\r\nContent-Length: {length}\r\n");
    for (name, value) in headers {
        head += name;
        head += ": ";
        head += value;
        head += "\r\n";
    }
    head += "\r\n";
    stream.write_all(head.as_bytes()).ok()
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut offset, mut authorization, mut length) = (None, None, 0);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                let first = value.strip_prefix("bytes=")?.trim_end_matches('-');
                offset = Some(first.parse().ok()?);
            }
            "authorization" => authorization = Some(value.to_owned()),
            "content-length" => length = value.parse().ok()?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = String::from_utf8(body).ok()?;
    Some(Request {
        method,
        path,
        offset,
        authorization,
        body,
    })
}
