//! The shim's event loop and its connections.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::WaitOptions;

use crate::container::Waiter;
use crate::create::write_oom_score;
use crate::failure::{Explain, Outcome};
use crate::log::Stream;
use crate::packet::{Packet, receive_packet, send_packet};
use crate::pod::{Surroundings, open_null, stdio_to};
use crate::poller::{Interest, Poller, Token};
use crate::probe;
use crate::protocol::{Failure, Frame, MAX_PACKET, Pod, READY, Reply, Request, SOCKET};
use crate::supervisor::{Effect, Supervisor};
use crate::syscall;

/// How many packets wait for a daemon that does not read, before it is hung up on. It finds out
/// what it has missed when it subscribes anew.
const MAX_UNSENT: usize = 1024;

/// Killed for want of memory only when nothing else is left: everything in the pod depends on it.
const OOM_SCORE: i32 = -999;

/// What a shim is from beginning to end: takes a [`Pod`] as JSON from standard input, makes it,
/// says [`READY`] on standard output, and serves the protocol until it is shut down. When it
/// cannot, it takes back what it has made and says why on standard output.
///
/// The process must have no other threads, and must be root's.
///
/// Called as `slipway-shim probe-user-namespaces DIRECTORY…`, it is no pod's: it only tries whether
/// a pod could have a user namespace, with its layers in these directories, and says so in the same
/// way.
pub fn serve() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if let Some((first, directories)) = arguments.split_first()
        && first == probe::ARGUMENT
    {
        let (answer, code) = match probe::user_namespaces(directories) {
            Ok(()) => (READY.to_owned(), ExitCode::SUCCESS),
            Err(failure) => (format!("{failure}\n"), ExitCode::FAILURE),
        };
        // There may be nobody left to hear it.
        let _ = io::stdout().write_all(answer.as_bytes());
        return code;
    }
    let started = read_pod()
        .and_then(|pod| Server::start(&pod))
        .and_then(|server| {
            // A launcher that is gone does not know about this shim: then it must not stay.
            let mut stdout = io::stdout();
            stdout
                .write_all(READY.as_bytes())
                .and_then(|()| stdout.flush())
                .system(|| "say ready")?;
            let null = open_null().system(|| "open /dev/null")?;
            stdio_to(&null).system(|| "let go of the standard streams")?;
            Ok(server)
        });
    match started {
        Ok(mut server) => {
            server.surroundings.keep();
            server.run()
        }
        Err(failure) => {
            // There may be nobody left to hear it.
            let _ = writeln!(io::stdout(), "{failure}");
            ExitCode::FAILURE
        }
    }
}

fn read_pod() -> Outcome<Pod> {
    let mut text = Vec::with_capacity(4096);
    io::stdin()
        .read_to_end(&mut text)
        .system(|| "read the pod from standard input")?;
    serde_json::from_slice(&text).invalid(|| "the pod on standard input")
}

/// The signals that are waited for.
const SIGNALS: [i32; 2] = [libc::SIGCHLD, libc::SIGTERM];

#[derive(Debug)]
struct Server {
    poller: Poller,
    signals: OwnedFd,
    listener: Listener,
    connections: BTreeMap<u64, Connection>,
    next: u64,
    supervisor: Supervisor,
    surroundings: Surroundings,
}

/// A daemon's connection.
#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    subscribed: bool,
    unsent: VecDeque<Packet>,
}

/// The listening socket, with its name in the file system.
#[derive(Debug)]
struct Listener {
    socket: OwnedFd,
    path: PathBuf,
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = fs::remove_file(&self.path);
    }
}

impl Listener {
    fn new(pod: &Pod) -> Outcome<Self> {
        let path = pod.directory.join(SOCKET);
        let doing = || format!("listen on {}", path.display());
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let kind = SocketType::SEQPACKET;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None).system(doing)?;
        // A socket's address holds 108 bytes; from within the directory it is always short.
        rustix::process::chdir(&pod.directory).system(doing)?;
        let address = SocketAddrUnix::new(SOCKET).system(doing)?;
        rustix::net::bind(&socket, &address).system(doing)?;
        let listener = Self {
            socket,
            path: path.clone(),
        };
        rustix::fs::chmod(SOCKET, Mode::from_raw_mode(0o600)).system(doing)?;
        rustix::process::chdir("/").system(doing)?;
        rustix::net::listen(&listener.socket, 16).system(doing)?;
        Ok(listener)
    }
}

impl Server {
    fn start(pod: &Pod) -> Outcome<Self> {
        let _ = rustix::thread::set_name(c"slipway-shim");
        // Fails where the launcher has done it already.
        let _ = rustix::process::setsid();
        rustix::process::umask(Mode::from_raw_mode(0o027));
        syscall::ignore_signals(&[libc::SIGPIPE, libc::SIGHUP, libc::SIGINT]);
        syscall::block_signals(&SIGNALS);
        let signals = syscall::signal_descriptor(&SIGNALS).system(|| "make a signal descriptor")?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .system(|| "become child subreaper")?;
        let oom_score = lower_oom_score();
        let poller = Poller::new().system(|| "make an epoll instance")?;
        poller
            .add(&signals, Token::Signal)
            .system(|| "watch for signals")?;
        let supervisor = Supervisor::new(oom_score)?;
        let surroundings = Surroundings::make(pod)?;
        let listener = Listener::new(pod)?;
        poller
            .add(&listener.socket, Token::Listener)
            .system(|| "watch for connections")?;
        Ok(Self {
            poller,
            signals,
            listener,
            connections: BTreeMap::new(),
            next: 0,
            supervisor,
            surroundings,
        })
    }

    fn run(mut self) -> ExitCode {
        syscall::trim_heap();
        let mut dismissed = false;
        loop {
            let Ok(events) = self.poller.wait() else {
                return ExitCode::FAILURE;
            };
            for event in events {
                match event.token {
                    Token::Signal => {
                        dismissed |= self.is_dismissed();
                        self.reap();
                    }
                    Token::Listener => self.accept(),
                    Token::Connection(number) => {
                        if event.writable {
                            self.flush(number);
                        }
                        self.receive(number);
                    }
                    Token::ContainerSync(number) => {
                        self.supervisor.container_ready(&self.poller, number);
                    }
                    Token::Output(number) => {
                        self.supervisor
                            .stream_ready(&self.poller, number, Stream::Out);
                    }
                    Token::ErrorOutput(number) => {
                        self.supervisor
                            .stream_ready(&self.poller, number, Stream::Error);
                    }
                    Token::Leftover(number) => self.supervisor.settle(&self.poller, number),
                    Token::ExecSync(number) => self.supervisor.exec_ready(&self.poller, number),
                    Token::RuntimeDeadline(number) => self.supervisor.runtime_overdue(number),
                    Token::Memory(number) => self.supervisor.memory_changed(&self.poller, number),
                    Token::Attached(number) => self.supervisor.attached_ready(&self.poller, number),
                }
                self.send_effects();
            }
            if let Some(waiter) = self.supervisor.is_over() {
                self.answer(waiter, Ok(Reply::Done));
                self.surroundings.end_init();
                return ExitCode::SUCCESS;
            }
            if dismissed && self.supervisor.is_idle() {
                self.surroundings.end_init();
                return ExitCode::SUCCESS;
            }
        }
    }

    /// Takes the signals that have come; whether SIGTERM is among them: a node that is shut down
    /// sends it to all processes, and waits for those that stay.
    fn is_dismissed(&self) -> bool {
        const SIZE: usize = size_of::<libc::signalfd_siginfo>();
        let mut dismissed = false;
        let mut information = [0; 8 * SIZE];
        while let Ok(length @ 1..) = rustix::io::read(&self.signals, &mut information) {
            // Each begins with the signal's number.
            let mut numbers = information[..length].chunks(SIZE);
            dismissed |= numbers.any(|one| one.starts_with(&libc::SIGTERM.to_ne_bytes()));
        }
        dismissed
    }

    fn reap(&mut self) {
        // One signal may stand for many children; so the signals themselves say nothing of them.
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if self.surroundings.init == Some(pid) {
                self.surroundings.init = None;
            }
            self.supervisor.reaped(&self.poller, pid, status);
        }
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        while let Ok(socket) = rustix::net::accept_with(&self.listener.socket, flags) {
            self.next += 1;
            let number = self.next;
            let ready = rustix::net::sockopt::set_socket_send_buffer_size(&socket, MAX_PACKET)
                .and_then(|()| self.poller.add(&socket, Token::Connection(number)));
            if ready.is_ok() {
                let connection = Connection {
                    socket,
                    subscribed: false,
                    unsent: VecDeque::new(),
                };
                self.connections.insert(number, connection);
            }
        }
    }

    fn receive(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        let (bytes, descriptors) = match receive_packet(&connection.socket) {
            Ok(Some(packet)) => packet,
            Err(Errno::AGAIN | Errno::INTR) => return,
            Ok(None) | Err(_) => return self.hang_up(number),
        };
        let Ok(Frame::Request {
            number: request_number,
            request,
        }) = postcard::from_bytes(&bytes)
        else {
            return self.hang_up(number);
        };
        drop(bytes);
        connection.subscribed |= matches!(request, Request::Subscribe);
        let waiter = Waiter {
            connection: number,
            number: request_number,
        };
        self.supervisor
            .request(&self.poller, waiter, request, descriptors);
    }

    fn send_effects(&mut self) {
        for effect in self.supervisor.effects() {
            match effect {
                Effect::Answer(waiter, reply) => self.answer(waiter, reply),
                Effect::Hand(waiter, reply, descriptors) => {
                    let (connection, number) = (waiter.connection, waiter.number);
                    let reply = Ok(reply);
                    self.send_with(connection, &Frame::Reply { number, reply }, descriptors);
                }
                Effect::Tell(event) => {
                    let subscribers: Vec<u64> = self
                        .connections
                        .iter()
                        .filter(|(_, connection)| connection.subscribed)
                        .map(|(number, _)| *number)
                        .collect();
                    for number in subscribers {
                        self.send(number, &Frame::Event(event.clone()));
                    }
                }
            }
        }
    }

    fn answer(&mut self, waiter: Waiter, reply: Result<Reply, Failure>) {
        self.send(
            waiter.connection,
            &Frame::Reply {
                number: waiter.number,
                reply,
            },
        );
    }

    fn send(&mut self, number: u64, frame: &Frame) {
        self.send_with(number, frame, Vec::new());
    }

    /// Sends a packet with descriptors beside it, after those that wait already.
    fn send_with(&mut self, number: u64, frame: &Frame, descriptors: Vec<OwnedFd>) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        let Ok(packet) = postcard::to_stdvec(frame) else {
            return self.hang_up(number);
        };
        connection.unsent.push_back((packet, descriptors));
        self.flush(number);
    }

    /// Sends what waits, as far as the other side takes it.
    fn flush(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        let before = connection.unsent.len();
        let result = loop {
            let Some((packet, descriptors)) = connection.unsent.front() else {
                break Ok(());
            };
            let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
            match send_packet(&connection.socket, packet, &descriptors) {
                Ok(()) => drop(connection.unsent.pop_front()),
                Err(Errno::INTR) => {}
                Err(error) => break Err(error),
            }
        };
        let interest = match result {
            Ok(()) if before > 1 => Interest::Read,
            Ok(()) => return,
            Err(Errno::AGAIN) if connection.unsent.len() <= MAX_UNSENT => Interest::ReadAndWrite,
            Err(_) => return self.hang_up(number),
        };
        let token = Token::Connection(number);
        if self
            .poller
            .change(&connection.socket, token, interest)
            .is_err()
        {
            self.hang_up(number);
        }
    }

    fn hang_up(&mut self, number: u64) {
        if let Some(connection) = self.connections.remove(&number) {
            self.poller.remove(&connection.socket);
        }
    }
}

/// Makes the kernel spare the shim, as far as it may be spared, and gives the value from before,
/// which is what its containers start from.
fn lower_oom_score() -> i32 {
    let inherited = fs::read_to_string("/proc/self/oom_score_adj")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0);
    // Without CAP_SYS_RESOURCE the value stays what it is.
    let _ = write_oom_score(OOM_SCORE.min(inherited));
    inherited
}
