//! The daemon's connection to a shim.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::packet::{Packet, receive_packet, send_packet};
use crate::protocol::{
    Attach, Create, Event, Exec, Failure, Frame, MAX_PACKET, Record, Reply, Request, SOCKET,
};
use crate::syscall;

/// How long an answer is waited for. A shim answers within milliseconds; only one that is stopped
/// or waits for a dead file system takes as long as this.
const PATIENCE: Duration = Duration::from_mins(1);

/// What can go wrong between the daemon and a shim.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The shim answered, and the answer is no.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// The connection has ended: the shim was killed, or it has shut down.
    #[error("the shim behind {} is gone", directory.display())]
    Gone {
        /// The pod's directory.
        directory: PathBuf,
    },
    /// Nobody listens in the pod's directory.
    #[error("no shim answers in {}: {source}", directory.display())]
    Connect {
        /// The pod's directory.
        directory: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The shim did not come up. It has undone what it had done.
    #[error("the shim of pod {pod} did not start: {reason}")]
    Launch {
        /// The pod's id.
        pod: String,
        /// The shim's own words, or why there are none.
        reason: String,
    },
    /// The shim has not answered in time: it is stopped, or stuck in a file system.
    #[error(
        "the shim behind {} has not answered for {} s; look at its state with ps (T is stopped, D \
         waits for a file system)",
        directory.display(),
        PATIENCE.as_secs()
    )]
    Silent {
        /// The pod's directory.
        directory: PathBuf,
    },
    /// The request does not fit into a packet.
    #[error("the request takes {length} bytes; a shim accepts {MAX_PACKET}")]
    TooLarge {
        /// Its encoded length, in bytes.
        length: usize,
    },
    /// The shim does not keep to the protocol.
    #[error("the shim behind {} answered out of turn: {found}", directory.display())]
    Protocol {
        /// The pod's directory.
        directory: PathBuf,
        /// What came.
        found: String,
    },
}

/// A connection to a pod's shim. Clones share it; it closes with the last of them.
///
/// Every method waits for the shim's answer, and may be dropped while it waits: the request has
/// then been sent, or not, as a whole.
#[derive(Debug, Clone)]
pub struct Shim {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    connection: Arc<Connection>,
    reader: AbortHandle,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

#[derive(Debug)]
struct Connection {
    socket: AsyncFd<OwnedFd>,
    directory: PathBuf,
    pid: i32,
    next: AtomicU64,
    waiting: Mutex<Waiting>,
}

/// A reply, and the descriptors beside it.
type Answer = (Reply, Vec<OwnedFd>);

/// Who waits for what the reader task receives. `Ended` once it has received the last of it.
#[derive(Debug)]
enum Waiting {
    Open {
        replies: HashMap<u64, Waiter>,
        subscribers: Vec<mpsc::UnboundedSender<Event>>,
    },
    Ended,
}

#[derive(Debug)]
struct Waiter {
    reply: oneshot::Sender<Result<Answer, Failure>>,
    /// Given the events that follow the reply.
    events: Option<mpsc::UnboundedSender<Event>>,
}

/// Takes a request's entry away when its caller stops waiting.
struct Entry<'a> {
    connection: &'a Connection,
    number: u64,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if let Waiting::Open { replies, .. } = &mut *self.connection.waiting() {
            replies.remove(&self.number);
        }
    }
}

impl Shim {
    /// Connects to the shim of the pod in `directory`.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`] where nobody listens.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub async fn connect(directory: &Path) -> Result<Self, Error> {
        let failed = |source: Errno| Error::Connect {
            directory: directory.to_owned(),
            source: source.into(),
        };
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .map_err(failed)?;
        rustix::net::sockopt::set_socket_send_buffer_size(&socket, MAX_PACKET).map_err(failed)?;
        // A socket's address holds 108 bytes; the way through the descriptor is always short.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(directory, flags, Mode::empty()).map_err(failed)?;
        let address = SocketAddrUnix::new(format!("{}/{SOCKET}", proc_path(opened.as_fd())))
            .map_err(failed)?;
        loop {
            match rustix::net::connect(&socket, &address) {
                Ok(()) => break,
                // The listener's queue is full: it is alive, and about to accept.
                Err(Errno::AGAIN) => tokio::task::yield_now().await,
                Err(error) => return Err(failed(error)),
            }
        }
        let pid = rustix::net::sockopt::socket_peercred(&socket)
            .map_err(failed)?
            .pid;
        let connection = Arc::new(Connection {
            socket: syscall::watch(socket).map_err(|source| Error::Connect {
                directory: directory.to_owned(),
                source,
            })?,
            directory: directory.to_owned(),
            pid: pid.as_raw_nonzero().get(),
            next: AtomicU64::new(0),
            waiting: Mutex::new(Waiting::Open {
                replies: HashMap::new(),
                subscribers: Vec::new(),
            }),
        });
        let reader = tokio::spawn(read(Arc::clone(&connection))).abort_handle();
        Ok(Self {
            handle: Arc::new(Handle { connection, reader }),
        })
    }

    /// The shim's process id.
    pub fn pid(&self) -> i32 {
        self.handle.connection.pid
    }

    /// Makes a container up to the point before its process is executed, and gives that process.
    pub async fn create(&self, create: Create) -> Result<i32, Error> {
        match self.ask(Request::Create(create)).await? {
            Reply::Created { pid } => Ok(pid),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Executes a created container's process, and gives the time at which `execve` succeeded in
    /// nanoseconds since the epoch.
    pub async fn start(&self, container: &str) -> Result<i64, Error> {
        match self
            .ask(Request::Start {
                container: container.to_owned(),
            })
            .await?
        {
            Reply::Started { started_at } => Ok(started_at),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Sends `signal` to a container's init, or to all its processes. A container that has exited
    /// is not an error.
    pub async fn kill(&self, container: &str, signal: i32, all: bool) -> Result<(), Error> {
        let container = container.to_owned();
        self.done(Request::Kill {
            container,
            signal,
            all,
        })
        .await
    }

    /// Kills what is left of a container and forgets it. An unknown one is not an error.
    pub async fn delete(&self, container: &str) -> Result<(), Error> {
        self.done(Request::Delete {
            container: container.to_owned(),
        })
        .await
    }

    /// Runs one more process in a container, with the three streams as its descriptors 0 to 2.
    /// Gives the shim's number for it, which [`Event::ExecExited`] carries, and its process id.
    pub async fn exec(&self, exec: Exec, streams: [OwnedFd; 3]) -> Result<(u64, i32), Error> {
        let streams = streams.each_ref().map(AsFd::as_fd);
        match self.send(Request::Exec(exec), &streams, None).await? {
            (Reply::Executed { exec, pid }, _) => Ok((exec, pid)),
            (other, _) => Err(self.unexpected(&other)),
        }
    }

    /// Runs one more process in a container, on a terminal ([`Exec::terminal`] is set). Gives the
    /// shim's number for it and the terminal's end that shows and types.
    pub async fn exec_in_terminal(&self, exec: Exec) -> Result<(u64, OwnedFd), Error> {
        let (reply, descriptors) = self.send(Request::Exec(exec), &[], None).await?;
        match (reply, <[OwnedFd; 1]>::try_from(descriptors)) {
            (Reply::Executed { exec, .. }, Ok([terminal])) => Ok((exec, terminal)),
            (other, _) => Err(self.unexpected(&other)),
        }
    }

    /// Has the shim kill a process that it has [executed](Self::exec), with what
    /// [`Exec::cgroup`] makes it know of what that has started.
    pub async fn kill_exec(&self, exec: u64) -> Result<(), Error> {
        self.done(Request::KillExec { exec }).await
    }

    /// Copies a container's output into `outputs` (pipes, for standard output and error as far as
    /// they are wanted) until its end. Gives what leads to its standard input, where that is
    /// wanted, or its terminal.
    pub async fn attach(
        &self,
        attach: Attach,
        outputs: Vec<OwnedFd>,
    ) -> Result<Option<OwnedFd>, Error> {
        let pipes: Vec<BorrowedFd<'_>> = outputs.iter().map(AsFd::as_fd).collect();
        match self.send(Request::Attach(attach), &pipes, None).await? {
            (Reply::Attached, mut descriptors) => Ok(descriptors.pop()),
            (other, _) => Err(self.unexpected(&other)),
        }
    }

    /// Has the container's log opened anew, after it was moved away.
    pub async fn reopen_log(&self, container: &str) -> Result<(), Error> {
        self.done(Request::ReopenLog {
            container: container.to_owned(),
        })
        .await
    }

    /// Every container the shim knows.
    pub async fn list(&self) -> Result<Vec<Record>, Error> {
        match self.ask(Request::List).await? {
            Reply::Containers(records) => Ok(records),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Kills every container, records their exits, and ends the shim.
    pub async fn shutdown(&self) -> Result<(), Error> {
        self.done(Request::Shutdown).await
    }

    /// Every container as it is now, and every event from now on: no exit falls between the two.
    /// The receiver ends when the shim is gone.
    pub async fn subscribe(&self) -> Result<(Vec<Record>, mpsc::UnboundedReceiver<Event>), Error> {
        let (sender, receiver) = mpsc::unbounded_channel();
        match self.send(Request::Subscribe, &[], Some(sender)).await? {
            (Reply::Containers(records), _) => Ok((records, receiver)),
            (other, _) => Err(self.unexpected(&other)),
        }
    }

    async fn done(&self, request: Request) -> Result<(), Error> {
        match self.ask(request).await? {
            Reply::Done => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    async fn ask(&self, request: Request) -> Result<Reply, Error> {
        let (reply, _) = self.send(request, &[], None).await?;
        Ok(reply)
    }

    async fn send(
        &self,
        request: Request,
        descriptors: &[BorrowedFd<'_>],
        events: Option<mpsc::UnboundedSender<Event>>,
    ) -> Result<Answer, Error> {
        let connection = &*self.handle.connection;
        let number = connection.next.fetch_add(1, Ordering::Relaxed);
        let packet = postcard::to_stdvec(&Frame::Request { number, request }).map_err(|error| {
            Error::Protocol {
                directory: connection.directory.clone(),
                found: error.to_string(),
            }
        })?;
        if packet.len() > MAX_PACKET {
            return Err(Error::TooLarge {
                length: packet.len(),
            });
        }
        let (reply, receiver) = oneshot::channel();
        match &mut *connection.waiting() {
            Waiting::Open { replies, .. } => replies.insert(number, Waiter { reply, events }),
            Waiting::Ended => return Err(connection.gone()),
        };
        let _entry = Entry { connection, number };
        let answer = async {
            connection.write(&packet, descriptors).await?;
            Ok(receiver.await.map_err(|_| connection.gone())??)
        };
        tokio::time::timeout(PATIENCE, answer)
            .await
            .unwrap_or_else(|_| {
                Err(Error::Silent {
                    directory: connection.directory.clone(),
                })
            })
    }

    fn unexpected(&self, reply: &Reply) -> Error {
        Error::Protocol {
            directory: self.handle.connection.directory.clone(),
            found: format!("{reply:?}"),
        }
    }
}

impl Connection {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gone(&self) -> Error {
        Error::Gone {
            directory: self.directory.clone(),
        }
    }

    async fn write(&self, packet: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), Error> {
        loop {
            let mut ready = self.socket.writable().await.map_err(|_| self.gone())?;
            let sent = ready.try_io(|socket| Ok(send_packet(socket, packet, descriptors)?));
            match sent {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(_)) => return Err(self.gone()),
                Err(_would_block) => {}
            }
        }
    }

    async fn receive(&self) -> io::Result<Option<Packet>> {
        loop {
            let mut ready = self.socket.readable().await?;
            match ready.try_io(|socket| Ok(receive_packet(socket)?)) {
                Ok(received) => return received,
                Err(_would_block) => {}
            }
        }
    }

    fn dispatch(&self, frame: Frame, descriptors: Vec<OwnedFd>) {
        let mut waiting = self.waiting();
        let Waiting::Open {
            replies,
            subscribers,
        } = &mut *waiting
        else {
            return;
        };
        match frame {
            Frame::Reply { number, reply } => {
                let Some(waiter) = replies.remove(&number) else {
                    return;
                };
                if let Some(events) = waiter.events
                    && reply.is_ok()
                {
                    subscribers.push(events);
                }
                // The caller may have stopped waiting.
                let _ = waiter.reply.send(reply.map(|reply| (reply, descriptors)));
            }
            Frame::Event(event) => {
                subscribers.retain(|subscriber| subscriber.send(event.clone()).is_ok());
            }
            Frame::Request { .. } => {}
        }
    }
}

/// Hands out what the shim sends until it sends no more; then everybody's wait ends.
async fn read(connection: Arc<Connection>) {
    while let Ok(Some((bytes, descriptors))) = connection.receive().await {
        match postcard::from_bytes(&bytes) {
            Ok(frame) => connection.dispatch(frame, descriptors),
            Err(_) => break,
        }
    }
    *connection.waiting() = Waiting::Ended;
}

/// A descriptor's path.
pub(crate) fn proc_path(descriptor: BorrowedFd<'_>) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", descriptor.as_raw_fd())
}
