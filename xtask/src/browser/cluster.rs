//! The API of a cluster, as far as `slipway check cluster` asks for it.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;

use anyhow::Result;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

/// The items of each list, by its path; a list that is refused is null, others are empty.
const OBJECTS: &str = include_str!("cluster.json");

/// An API server, for as long as this process runs.
#[derive(Debug)]
pub(super) struct Cluster(NamedTempFile);

impl Cluster {
    pub(super) fn serve() -> Result<Self> {
        let objects: HashMap<String, Value> = serde_json::from_str(OBJECTS)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": {
                "server": format!("http://{}", listener.local_addr()?),
            } }],
            "users": [{ "name": "test", "user": { "token": "test" } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        });
        let file = NamedTempFile::new()?;
        fs::write(&file, kubeconfig.to_string())?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Who asked and went away has said so itself.
                let _ = answer(&objects, stream);
            }
        });
        Ok(Self(file))
    }

    pub(super) fn kubeconfig(&self) -> &Path {
        self.0.path()
    }
}

fn answer(objects: &HashMap<String, Value>, mut stream: TcpStream) -> Result<()> {
    let mut head = BufReader::new(&stream).lines();
    let request = head.next().transpose()?.unwrap_or_default();
    while head
        .next()
        .transpose()?
        .is_some_and(|line| !line.is_empty())
    {}
    let path = request.split([' ', '?']).nth(1).unwrap_or_default();
    let (status, body) = match objects.get(path) {
        Some(Value::Null) => (
            "403 Forbidden",
            json!({
                "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403,
                "reason": "Forbidden", "message": format!("{path} is forbidden"),
            }),
        ),
        items => (
            "200 OK",
            json!({ "kind": "List", "metadata": {}, "items": items.unwrap_or(&json!([])) }),
        ),
    };
    let body = body.to_string();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )?;
    Ok(())
}
