//! A socket between Slipway and dockerd, which notes every request and can break any of them.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response, StatusCode, Uri, client, server};
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{oneshot, watch};

use crate::{Docker, Scratch};

type Body = UnsyncBoxBody<Bytes, io::Error>;
type Rule = Box<dyn FnMut(&str) -> Fate + Send>;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It passes.
    Pass,
    /// It passes after this time.
    Late(Duration),
    /// It stays where it is until [`DockerProxy::release`], and passes then.
    Kept,
    /// Its connection is cut.
    Cut(When),
    /// It stays where it is until [`DockerProxy::release`], and is cut then; held within its answer,
    /// a connection for streams lets them pass until then.
    Held(When),
}

/// When a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Before dockerd hears of the request.
    Before,
    /// When dockerd has done what it was asked for, and before it can say so.
    After,
    /// In the middle of what dockerd answers.
    Within,
}

/// A request that was seen.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What was asked, see [`DockerProxy::rule`].
    pub what: String,
    /// When it came.
    pub began: Instant,
    /// When the last of its answer had gone; none before that.
    pub ended: Option<Instant>,
}

/// The socket. It works on a thread of its own, so that tests may block; dropping it closes all
/// that goes through it.
#[derive(Debug)]
pub struct DockerProxy {
    socket: PathBuf,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    dockerd: PathBuf,
    state: Mutex<State>,
    /// How often what was held was let go.
    released: watch::Sender<u64>,
    /// How much has come to where it is held.
    held: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    asked: Vec<Asked>,
    rule: Option<Rule>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl DockerProxy {
    /// Listens in front of a dockerd, whether or not that runs.
    ///
    /// # Errors
    /// When there is no socket or thread to be had.
    pub fn start(scratch: &Scratch, docker: &Docker) -> Result<Self> {
        let socket = scratch.join("docker-proxy.sock");
        let shared = Arc::new(Shared {
            dockerd: docker.socket(),
            state: Mutex::default(),
            released: watch::Sender::new(0),
            held: watch::Sender::new(0),
        });
        let (stop, stopped) = oneshot::channel();
        let listener = std::os::unix::net::UnixListener::bind(&socket)?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let serving = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("docker-proxy".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = stopped => {}
                        () = serve(listener, serving) => {}
                    }
                });
            })
            .context("no thread for a proxy")?;
        Ok(Self {
            socket,
            shared,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Decides from now on what becomes of requests. The rule is given each of them as
    /// `POST /containers/{id}/start`: without version and query, and with the ids of containers,
    /// commands and images unnamed; only an import of an image has `?fromSrc`. It is asked on the proxy's thread.
    pub fn rule(&self, rule: impl FnMut(&str) -> Fate + Send + 'static) {
        self.shared.lock().rule = Some(Box::new(rule));
    }

    /// Lets everything pass from now on.
    pub fn pass(&self) {
        self.shared.lock().rule = None;
    }

    /// Waits until one more is held than there was when this was called: with [`When::After`] dockerd
    /// has done all of it by then.
    pub fn holds(&self) -> impl Future<Output = ()> + use<> {
        let mut held = self.shared.held.subscribe();
        async move {
            // The proxy outlives what waits for it, or nothing is to be waited for.
            let _ = held.changed().await;
        }
    }

    /// Lets go of what is held.
    pub fn release(&self) {
        self.shared.released.send_modify(|count| *count += 1);
    }

    /// The requests that were seen since they were last taken.
    pub fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut self.shared.lock().asked)
    }
}

impl Drop for DockerProxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fate(&self, what: &str) -> Fate {
        let mut state = self.lock();
        state.rule.as_mut().map_or(Fate::Pass, |rule| rule(what))
    }

    /// Waits until what is held is let go.
    async fn released(&self) {
        let mut released = self.released.subscribe();
        self.held.send_modify(|count| *count += 1);
        let _ = released.changed().await;
    }
}

async fn serve(listener: std::os::unix::net::UnixListener, shared: Arc<Shared>) {
    let listener = UnixListener::from_std(listener).expect("this is a tokio runtime");
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        let service = hyper::service::service_fn(move |request| {
            let shared = Arc::clone(&shared);
            async move { pass_on(&shared, request).await }
        });
        tokio::spawn(async move {
            let served = server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            // Connections are cut here on purpose.
            let _ = served.await;
        });
    }
}

/// Passes a request on and its answer back. An error cuts the connection without an answer.
async fn pass_on(
    shared: &Arc<Shared>,
    mut request: Request<Incoming>,
) -> io::Result<Response<Body>> {
    let what = described(request.method(), request.uri());
    let fate = shared.fate(&what);
    let cut = match fate {
        Fate::Pass => None,
        Fate::Late(time) => {
            tokio::time::sleep(time).await;
            None
        }
        Fate::Kept => {
            shared.released().await;
            None
        }
        Fate::Cut(when) | Fate::Held(when) => Some(when),
    };
    let held = async {
        if matches!(fate, Fate::Held(_)) {
            shared.released().await;
        }
    };
    if cut == Some(When::Before) {
        held.await;
        return Err(broken());
    }
    let timer = Timer::start(shared, &what);
    let wanted = hyper::upgrade::on(&mut request);
    let stream = UnixStream::connect(&shared.dockerd).await?;
    let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    tokio::spawn(connection.with_upgrades());
    let mut answer = sender
        .send_request(request)
        .await
        .map_err(io::Error::other)?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let given = hyper::upgrade::on(&mut answer);
        let streams = fate == Fate::Held(When::Within);
        if cut.is_some() && !streams {
            held.await;
            return Err(broken());
        }
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            let (Ok(wanted), Ok(given)) = (wanted.await, given.await) else {
                return;
            };
            let (mut wanted, mut given) = (TokioIo::new(wanted), TokioIo::new(given));
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut wanted, &mut given) => {}
                () = shared.released(), if streams => {}
            }
            drop(timer);
        });
        return Ok(answer.map(|_| empty()));
    }
    let (head, body) = answer.into_parts();
    let endless = what == "GET /events";
    let body = match cut {
        None => body
            .map_err(io::Error::other)
            .map_frame(move |frame| {
                let _ends_with_the_answer = &timer;
                frame
            })
            .boxed_unsync(),
        Some(_) if endless => {
            held.await;
            return Err(broken());
        }
        Some(when) => {
            let whole = body.collect().await.map_err(io::Error::other)?.to_bytes();
            drop(timer);
            held.await;
            if when == When::After {
                return Err(broken());
            }
            half(&whole)
        }
    };
    Ok(Response::from_parts(head, body))
}

fn empty() -> Body {
    Full::default()
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

/// The first half of an answer, and a cut.
fn half(whole: &Bytes) -> Body {
    let first = whole.slice(..whole.len() / 2);
    let pieces = [Ok(Frame::data(first)), Err(broken())];
    StreamBody::new(tokio_stream::iter(pieces)).boxed_unsync()
}

fn broken() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

/// Notes when a request began, and, when it is dropped, that it has ended.
struct Timer {
    shared: Arc<Shared>,
    what: String,
    began: Instant,
}

impl Timer {
    fn start(shared: &Arc<Shared>, what: &str) -> Self {
        let began = Instant::now();
        shared.lock().asked.push(Asked {
            what: what.to_owned(),
            began,
            ended: None,
        });
        Self {
            shared: Arc::clone(shared),
            what: what.to_owned(),
            began,
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let ended = Instant::now();
        let mut state = self.shared.lock();
        let mut asked = state.asked.iter_mut().rev();
        let own = asked.find(|asked| asked.began == self.began && asked.what == self.what);
        if let Some(asked) = own {
            asked.ended = Some(ended);
        }
    }
}

/// A request as [`DockerProxy::rule`] says. What makes an image is told by where that comes from.
fn described(method: &Method, uri: &Uri) -> String {
    let mut parts: Vec<_> = uri.path().split('/').collect();
    if parts.get(1).is_some_and(|part| part.starts_with("v1.")) {
        parts.remove(1);
    }
    if let [_, "containers" | "exec", name, ..] = &mut parts[..]
        && !["create", "json"].contains(name)
    {
        *name = "{id}";
    }
    if let [_, "images", name, ..] = &mut parts[..]
        && name.starts_with("sha256:")
    {
        *name = "{id}";
    }
    let path = parts.join("/");
    let import = uri.query().is_some_and(|query| query.contains("fromSrc"));
    match path.as_str() {
        "/images/create" if import => format!("{method} {path}?fromSrc"),
        _ => format!("{method} {path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_the_same_for_every_container() {
        for (path, expected) in [
            ("/v1.41/containers/0a1b/start", "/containers/{id}/start"),
            (
                "/v1.41/containers/k8s_POD_a_b_c_0/json",
                "/containers/{id}/json",
            ),
            ("/containers/create?name=a", "/containers/create"),
            ("/v1.41/containers/json?all=1", "/containers/json"),
            ("/v1.41/containers/0a1b", "/containers/{id}"),
            ("/v1.41/exec/0a1b/json", "/exec/{id}/json"),
            ("/v1.41/images/a/b:1/json", "/images/a/b:1/json"),
            ("/v1.41/images/sha256:0a1b/json", "/images/{id}/json"),
            ("/v1.41/images/create?fromImage=a", "/images/create"),
            (
                "/v1.41/images/create?fromSrc=-&repo=a",
                "/images/create?fromSrc",
            ),
            ("/version", "/version"),
        ] {
            let told = described(&Method::GET, &path.parse().unwrap());
            assert_eq!(told, format!("GET {expected}"));
        }
    }
}
