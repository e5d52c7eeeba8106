//! Sessions: commands with streams and terminals, and attached clients; from the client through the streaming server and the shim to the process and back.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use slipway_cri_api::v1::{
    AttachRequest, ContainerConfig, ContainerState, ExecRequest, PodSandboxStatusRequest,
    PortForwardRequest,
};
use slipway_testbed::{Node, eventually, pod, slipway_binary};
use tokio::net::TcpStream as Connection;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{WebSocketStream, client_async};
use tonic::Code;

use crate::{node, on_docker, refused};

/// How long anything may take before it counts as hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A client command that is under way, which ends with the test.
pub(crate) struct Client(pub(crate) Child);

impl Drop for Client {
    fn drop(&mut self) {
        // Where it has ended already, there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(node: &Node, arguments: &[&str]) -> Command {
    let endpoint = format!("unix://{}", node.cri().socket().display());
    let mut command = Command::new(slipway_binary().unwrap());
    command.args(["--endpoint", &endpoint]).args(arguments);
    command
}

impl Client {
    pub(crate) fn start(node: &Node, arguments: &[&str]) -> Self {
        let mut command = command(node, arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    pub(crate) fn stdin(&mut self) -> &mut ChildStdin {
        self.0.stdin.as_mut().unwrap()
    }

    /// Reads standard output until it ends like this.
    pub(crate) async fn shows(&mut self, end: &str) -> String {
        let end = end.to_owned();
        let mut stdout = self.0.stdout.take().unwrap();
        let (text, stdout) = apart(move || {
            let mut text = Vec::new();
            while !text.ends_with(end.as_bytes()) {
                let mut byte = [0];
                let shown = || String::from_utf8_lossy(&text).into_owned();
                match stdout.read(&mut byte) {
                    Ok(1) => text.push(byte[0]),
                    other => panic!("{other:?} instead of {end:?} after {:?}", shown()),
                }
            }
            (String::from_utf8(text).unwrap(), stdout)
        })
        .await;
        self.0.stdout = Some(stdout);
        text
    }

    /// What is left of its output, with standard input closed.
    async fn end(mut self) -> Output {
        drop(self.0.stdin.take());
        self.ends().await
    }

    /// What is left of its output, which ends by itself.
    pub(crate) async fn ends(mut self) -> Output {
        apart(move || {
            let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
            let mut pipe = self.0.stderr.take().unwrap();
            let errors = std::thread::spawn(move || {
                pipe.read_to_end(&mut stderr).unwrap();
                stderr
            });
            let pipe = self.0.stdout.as_mut().unwrap();
            pipe.read_to_end(&mut stdout).unwrap();
            Output {
                status: self.0.wait().unwrap(),
                stdout,
                stderr: errors.join().unwrap(),
            }
        })
        .await
    }
}

/// Runs what waits off the thread that other things wait on.
pub(crate) async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(work))
        .await
        .expect("it hangs")
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Runs a client command to its end with this on standard input.
async fn run(node: &Node, arguments: &[&str], input: &[u8]) -> Output {
    let mut client = Client::start(node, arguments);
    let (input, mut stdin) = (input.to_owned(), client.0.stdin.take().unwrap());
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = client.end().await;
    // Whether the command has read it all is for the test to say.
    let _ = writer.join().unwrap();
    output
}

async fn pod_with(node: &Node, container: &ContainerConfig) -> (String, String) {
    let config = node.pod("session");
    let pod = node.cri().run_pod(&config).await.unwrap();
    let id = node.cri().launch(&pod, &config, container).await.unwrap();
    (pod, id)
}

pub(crate) fn interactive(image: &str, script: &str) -> ContainerConfig {
    ContainerConfig {
        stdin: true,
        ..pod::shell("main", image, script)
    }
}

#[tokio::test]
async fn an_exec_has_its_streams_apart_the_end_of_its_input_and_its_code() {
    let (node, image) = node().await;
    let (_, id) = pod_with(&node, &pod::sleeper("main", &image)).await;
    let script = "cat; echo to stderr >&2; exit 5";
    let output = run(
        &node,
        &["exec", "-i", &id, "--", "sh", "-c", script],
        b"a\nb",
    )
    .await;
    assert_eq!(text(&output.stderr), "to stderr\n");
    assert_eq!(text(&output.stdout), "a\nb");
    assert_eq!(output.status.code(), Some(5));
    // Without -i there is nothing to read.
    let output = run(&node, &["exec", &id, "cat"], b"unseen").await;
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), ""));
    // A child that lives on with the streams does not hold the end up.
    let began = Instant::now();
    let left = ["exec", &id, "--", "sh", "-c", "sleep 60 & echo done"];
    let output = run(&node, &left, b"").await;
    assert_eq!(text(&output.stdout), "done\n");
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
    let output = run(&node, &["exec", &id, "/no/such"], b"").await;
    // Docker says so in the command's own output; a later one has the code that shells have for it.
    let (codes, said) = if on_docker() {
        (&[126, 127][..], &output.stdout)
    } else {
        (&[1][..], &output.stderr)
    };
    let code = output.status.code().unwrap();
    assert!(codes.contains(&code), "{output:?}");
    assert!(text(said).contains("/no/such"), "{output:?}");
    let output = run(
        &node,
        &["exec", "-s", &id, "--", "sh", "-c", "echo x; exit 2"],
        b"",
    )
    .await;
    assert_eq!(
        (output.status.code(), text(&output.stdout)),
        (Some(2), "x\n")
    );

    let cri = node.cri();
    let request = ExecRequest {
        container_id: "0123".to_owned(),
        cmd: vec!["true".to_owned()],
        stdout: true,
        ..Default::default()
    };
    let unknown = cri.runtime().exec(request.clone()).await;
    refused(unknown, Code::NotFound, &["0123"]);
    cri.stop(&id, 0).await.unwrap();
    let stopped = ExecRequest {
        container_id: id.clone(),
        ..request
    };
    let stopped = cri.runtime().exec(stopped).await;
    refused(stopped, Code::FailedPrecondition, &["not running"]);
    node.finish().await.unwrap();
}

#[tokio::test]
async fn megabytes_go_both_ways_intact() {
    let (node, image) = node().await;
    let (_, id) = pod_with(&node, &pod::sleeper("main", &image)).await;
    let mut bytes = vec![0; 12 << 20];
    File::open("/dev/urandom")
        .unwrap()
        .read_exact(&mut bytes)
        .unwrap();
    let output = run(&node, &["exec", "-i", &id, "cat"], &bytes).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(
        output.stdout == bytes,
        "what comes back is not what was sent"
    );
    let output = run(&node, &["exec", "-i", &id, "sha256sum"], &bytes).await;
    let here = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut here = here.unwrap();
    here.stdin.take().unwrap().write_all(&bytes).unwrap();
    let here = here.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout), text(&here.stdout));
    node.finish().await.unwrap();
}

/// A terminal that this test types into and looks at.
pub(crate) struct Typist {
    master: OwnedFd,
    slave: OwnedFd,
    shown: String,
}

impl Typist {
    pub(crate) fn new(rows: u16, columns: u16) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::grantpt(&master).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
        let typist = Self {
            master,
            slave,
            shown: String::new(),
        };
        typist.resize(rows, columns);
        typist
    }

    fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.master, size).unwrap();
    }

    /// Starts a client command on it, as a shell would.
    pub(crate) fn start(&self, node: &Node, arguments: &[&str]) -> Client {
        let client = command(node, arguments);
        let stream = || self.slave.try_clone().unwrap();
        let mut command = Command::new("setsid");
        command
            .args(["--ctty", "--wait"])
            .arg(client.get_program())
            .args(client.get_args())
            .stdin(stream())
            .stdout(stream())
            .stderr(stream());
        Client(command.spawn().unwrap())
    }

    fn types(&self, keys: &str) {
        let mut master = File::from(self.master.try_clone().unwrap());
        master.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until this is shown.
    pub(crate) async fn sees(&mut self, what: &str) {
        let mut master = File::from(self.master.try_clone().unwrap());
        let (what, mut shown) = (what.to_owned(), std::mem::take(&mut self.shown));
        self.shown = apart(move || {
            loop {
                if let Some(at) = shown.find(&what) {
                    return shown.split_off(at + what.len());
                }
                let mut buffer = [0; 4096];
                let length = master.read(&mut buffer);
                let length = length.unwrap_or_else(|error| panic!("{error} after {shown:?}"));
                shown.push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
        })
        .await;
    }

    fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.slave).unwrap().local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO)
    }
}

/// Whether a process with these arguments runs in a container.
pub(crate) async fn runs(node: &Node, id: &str, arguments: &str) -> bool {
    let listed = node.cri().exec(id, &["ps", "-o", "args"]).await.unwrap();
    let mut lines = text(&listed.stdout).lines();
    lines.any(|line| line.trim() == arguments)
}

pub(crate) async fn code(mut client: Client) -> Option<i32> {
    let status: ExitStatus = apart(move || client.0.wait().unwrap()).await;
    status.code()
}

#[tokio::test]
async fn a_terminal_has_a_size_echoes_and_is_left_as_it_was_found() {
    let (node, image) = node().await;
    let (_, id) = pod_with(&node, &pod::sleeper("main", &image)).await;
    let mut typist = Typist::new(41, 101);
    let client = typist.start(&node, &["exec", "-it", &id, "sh"]);
    typist.sees("# ").await;
    assert!(typist.is_raw(), "keys are passed on as they are typed");
    // What is typed can be there before the terminal has its size, which goes another way.
    typist.types("until stty size | grep -q '^41 101$'; do sleep 0.1; done\r");
    typist.types("echo first $(stty size); tty\r");
    typist.sees("first 41 101\r\n").await;
    typist.sees("/dev/pts/").await;
    typist.resize(22, 55);
    typist.types("until stty size | grep -q '^22 55$'; do sleep 0.1; done; echo now $?\r");
    typist.sees("now 0").await;
    // ctrl-c is the container's.
    typist.types("sleep 1000\r");
    typist.sees("sleep 1000").await;
    let sleeping = async || Ok(runs(&node, &id, "sleep 1000").await);
    eventually("sleep to run", PATIENCE, sleeping)
        .await
        .unwrap();
    typist.types("\u{3}");
    typist.types("echo code $?\r");
    typist.sees("code 130").await;
    typist.types("exit 3\r");
    assert_eq!(code(client).await, Some(3));
    assert!(!typist.is_raw(), "the terminal is left in raw mode");

    // Whatever ends the client, the terminal is given back, and the command is hung up on.
    let client = typist.start(
        &node,
        &["exec", "-it", &id, "--", "sh", "-c", "echo up; sleep 4711"],
    );
    typist.sees("up").await;
    assert!(typist.is_raw());
    let own = client_under(client.0.id());
    rustix::process::kill_process(own, rustix::process::Signal::TERM).unwrap();
    assert_eq!(code(client).await, Some(143));
    assert!(!typist.is_raw(), "the terminal is left in raw mode");
    let gone = async || Ok(!runs(&node, &id, "sleep 4711").await);
    eventually("the command to be gone", PATIENCE, gone)
        .await
        .unwrap();
    let refusal = run(&node, &["exec", "-it", &id, "sh"], b"").await;
    assert_eq!(refusal.status.code(), Some(1));
    assert!(
        text(&refusal.stderr).contains("terminal on standard input"),
        "{refusal:?}"
    );
    node.finish().await.unwrap();
}

/// The client that setsid(1) has started.
pub(crate) fn client_under(parent: u32) -> rustix::process::Pid {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let children = children.unwrap();
    // It has become the client itself where it did not have to fork.
    let own = children
        .split_whitespace()
        .next()
        .map_or(parent, |pid| pid.parse().unwrap());
    rustix::process::Pid::from_raw(own.try_into().unwrap()).unwrap()
}

#[tokio::test]
async fn several_clients_attach_and_a_new_daemon_lets_them_attach_again() {
    let (mut node, image) = node().await;
    let script = "while read -r line; do echo got $line; echo err $line >&2; \
                  [ $line = quit ] && exit 7; done";
    let container = interactive(&image, script);
    let (_, id) = pod_with(&node, &container).await;
    let mut first = Client::start(&node, &["attach", "-i", &id]);
    let mut second = Client::start(&node, &["attach", "-i", &id]);
    first.stdin().write_all(b"1\n").unwrap();
    assert!(first.shows("got 1\n").await.starts_with("got 1"));
    // The second may have come too late for that.
    second.stdin().write_all(b"2\n").unwrap();
    assert_eq!(first.shows("got 2\n").await, "got 2\n");
    second.shows("got 2\n").await;
    // One that goes leaves the others alone, and standard input open.
    drop(second);
    first.stdin().write_all(b"3\n").unwrap();
    first.shows("got 3\n").await;
    let began = node.cri().container_status(&id).await.unwrap().started_at;

    node.daemon.kill9();
    let cut = first.end().await;
    assert_eq!(cut.status.code(), Some(1));
    assert!(text(&cut.stderr).contains("cut off"), "{cut:?}");
    node.daemon.restart().await.unwrap();
    let status = node.cri().container_status(&id).await.unwrap();
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    assert_eq!(status.started_at, began);
    let again = run(&node, &["attach", "-i", &id], b"4\nquit\n").await;
    assert_eq!(text(&again.stdout), "got 4\ngot quit\n");
    assert_eq!(text(&again.stderr), "err 4\nerr quit\n");
    assert_eq!(again.status.code(), Some(7), "the container's own code");
    let late = run(&node, &["attach", &id], b"").await;
    assert!(text(&late.stderr).contains("has exited"), "{late:?}");
    node.finish().await.unwrap();
}

#[tokio::test]
async fn standard_input_of_once_ends_with_the_first_client() {
    let (node, image) = node().await;
    let container = ContainerConfig {
        stdin_once: true,
        ..interactive(&image, "sha256sum; seq 1 300000")
    };
    let (_, id) = pod_with(&node, &container).await;
    let bytes = vec![b'x'; 3 << 20];
    let output = run(&node, &["attach", "-i", &id], &bytes).await;
    let lines: Vec<&str> = text(&output.stdout).lines().collect();
    assert_eq!(lines.len(), 300_001, "{}", text(&output.stderr));
    assert_eq!(
        lines[0],
        "3bea8a9a07c1e8dcaa4c1b816815c35a29b4fb585ba6ecc70ea44840a794cfb3  -"
    );
    assert_eq!(lines[300_000], "300000");
    assert_eq!(output.status.code(), Some(0));
    let status = node.cri().wait_for_exit(&id).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
    node.finish().await.unwrap();
}

#[tokio::test]
async fn an_attach_that_does_not_fit_its_container_is_refused() {
    let (node, image) = node().await;
    let cri = node.cri();
    let (pod, id) = pod_with(&node, &pod::sleeper("main", &image)).await;
    let request = |stdin, tty| AttachRequest {
        container_id: id.clone(),
        stdin,
        tty,
        stdout: true,
        stderr: false,
    };
    let answer = cri.runtime().attach(request(true, false)).await;
    refused(
        answer,
        Code::InvalidArgument,
        &["AttachRequest.stdin", "ContainerConfig.stdin"],
    );
    let answer = cri.runtime().attach(request(false, true)).await;
    refused(
        answer,
        Code::InvalidArgument,
        &["AttachRequest.tty", "ContainerConfig.tty"],
    );
    cri.runtime().attach(request(false, false)).await.unwrap();
    cri.stop(&id, 0).await.unwrap();
    let answer = cri.runtime().attach(request(false, false)).await;
    refused(answer, Code::FailedPrecondition, &["exited", &id]);
    cri.stop_pod(&pod).await.unwrap();
    let request = PortForwardRequest {
        pod_sandbox_id: pod.clone(),
        port: vec![80],
    };
    let answer = cri.runtime().port_forward(request).await;
    refused(answer, Code::FailedPrecondition, &["not ready", &pod]);
    node.finish().await.unwrap();
}

#[tokio::test]
async fn a_containers_terminal_is_attached_to_left_and_found_again() {
    let (node, image) = node().await;
    let container = ContainerConfig {
        tty: true,
        stdin_once: true,
        ..interactive(&image, "exec sh")
    };
    let (_, id) = pod_with(&node, &container).await;
    let mut typist = Typist::new(31, 91);
    let client = typist.start(&node, &["attach", "-it", &id]);
    // What is typed can be there before the terminal has its size, which goes another way.
    typist
        .types("until stty size | grep -q '^31 91$'; do sleep 0.1; done; echo size $(stty size)\r");
    typist.sees("size 31 91\r\n").await;
    // ctrl-p ctrl-q
    typist.types("\u{10}\u{11}");
    assert_eq!(code(client).await, Some(0));
    assert!(!typist.is_raw());
    let status = node.cri().container_status(&id).await.unwrap();
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    let client = typist.start(&node, &["attach", "-it", &id]);
    typist.types("echo again; exit 9\r");
    typist.sees("again\r\n").await;
    assert_eq!(code(client).await, Some(9));
    node.finish().await.unwrap();
}

type Socket = WebSocketStream<Connection>;

/// Opens a session that reads its standard input, without a client command.
async fn open(node: &Node, id: &str, command: &[&str]) -> Socket {
    let request = ExecRequest {
        container_id: id.to_owned(),
        cmd: command.iter().map(|&word| word.to_owned()).collect(),
        stdin: true,
        stdout: true,
        ..Default::default()
    };
    let url = node
        .cri()
        .runtime()
        .exec(request)
        .await
        .unwrap()
        .into_inner()
        .url;
    let address = url.strip_prefix("http://").unwrap();
    let mut request = format!("ws://{address}").into_client_request().unwrap();
    let protocol = "v5.channel.k8s.io".parse().unwrap();
    request
        .headers_mut()
        .insert("sec-websocket-protocol", protocol);
    let stream = Connection::connect(address.split('/').next().unwrap())
        .await
        .unwrap();
    client_async(request, stream).await.unwrap().0
}

/// What a process has used of the processor, in clock ticks, and its threads.
fn used(pid: i32) -> (u64, usize) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .count();
    (ticks, threads)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_idle_sessions_keep_nothing_busy() {
    let (node, image) = node().await;
    let (pod, id) = pod_with(&node, &pod::sleeper("main", &image)).await;
    let daemon = node.daemon.pid();
    let request = PodSandboxStatusRequest {
        pod_sandbox_id: pod,
        verbose: true,
    };
    let answer = node.cri().runtime().pod_sandbox_status(request).await;
    let info = answer.unwrap().into_inner().info["info"].clone();
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    // On Docker there is no shim of Slipway's: the daemon is looked at twice.
    let shim = info["shimPid"]
        .as_i64()
        .map(|pid| i32::try_from(pid).unwrap());
    let shim = shim.unwrap_or(daemon);
    let (_, threads_before) = used(daemon);
    let mut sessions = Vec::new();
    for _ in 0..100 {
        sessions.push(open(&node, &id, &["cat"]).await);
    }
    let echo = async |socket: &mut Socket| {
        socket
            .send(Message::binary(b"\x00ping".to_vec()))
            .await
            .unwrap();
        loop {
            let message = socket.next().await.unwrap().unwrap().into_data();
            if message.len() > 1 {
                assert_eq!(&message[..], b"\x01ping");
                return;
            }
        }
    };
    for session in &mut sessions {
        tokio::time::timeout(PATIENCE, echo(session))
            .await
            .expect("no echo");
    }
    // What the opening has left to do is done when it has been quiet for a while.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (before, shim_before) = (used(daemon), used(shim));
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (after, shim_after) = (used(daemon), used(shim));
    // A busy thread would have used 300 of 100 a second.
    assert!(
        after.0 - before.0 <= 15,
        "the daemon: {before:?}, {after:?}"
    );
    if !on_docker() {
        assert!(
            shim_after.0 - shim_before.0 <= 3,
            "the shim: {shim_before:?}, {shim_after:?}"
        );
        assert_eq!(shim_after.1, 1, "the shim has one thread");
    }
    assert!(
        after.1 < threads_before + 50,
        "{threads_before} threads have become {}",
        after.1
    );
    tokio::time::timeout(PATIENCE, echo(sessions.last_mut().unwrap()))
        .await
        .expect("no echo");
    drop(sessions);
    // Who reads a pipe that nobody writes to any more ends.
    let ended = async || Ok(!runs(&node, &id, "cat").await);
    eventually("all to have ended", PATIENCE, ended)
        .await
        .unwrap();
    node.finish().await.unwrap();
}
