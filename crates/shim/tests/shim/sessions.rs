//! Terminals, standard input, attached clients, and what an exec leaves behind.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::termios::Winsize;
use slipway_shim::Error;
use slipway_shim::protocol::{
    Attach, AttachStdin, Create, Event, Exec, ExecCgroup, ExecProcess, FailureKind,
};

use crate::scene::Scene;

fn null() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

fn own(container: &str, args: &[&str]) -> Exec {
    Exec {
        container: container.to_owned(),
        process: ExecProcess::Own {
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
        },
        terminal: false,
        cgroup: ExecCgroup::Container,
    }
}

fn attach(container: &str, stdin: AttachStdin) -> Attach {
    Attach {
        container: container.to_owned(),
        stdin,
        stdout: true,
        stderr: false,
    }
}

fn resize(terminal: &OwnedFd, rows: u16, columns: u16) {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(terminal, size).unwrap();
}

/// Reads until what has come ends like this.
fn read_until(source: &mut impl Read, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        let mut byte = [0];
        match source.read(&mut byte) {
            Ok(1) => text.push(byte[0]),
            other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&text)),
        }
    }
    String::from_utf8(text).unwrap()
}

/// Runs what waits off the thread that answers the shim.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let work = tokio::task::spawn_blocking(work);
    tokio::time::timeout(Duration::from_secs(20), work)
        .await
        .expect("it hangs")
        .unwrap()
}

/// What seq(1) writes from 1 to `last`.
fn sequence(last: u32) -> String {
    let lines: Vec<String> = (1..=last).map(|number| number.to_string()).collect();
    lines.join("\n") + "\n"
}

/// How many processes with these arguments there are in a scene's containers.
fn running(scene: &str, arguments: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let found = processes.filter(|entry| {
        let read = |name| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        read("cmdline") == arguments && read("cgroup").contains(scene)
    });
    found.count()
}

impl Scene {
    async fn attach(&self, request: Attach) -> (PipeReader, Option<PipeWriter>) {
        let (reader, writer) = std::io::pipe().unwrap();
        let input = self
            .shim
            .attach(request, vec![writer.into()])
            .await
            .unwrap();
        (reader, input.map(PipeWriter::from))
    }

    /// Starts a container that has standard input.
    async fn start_open(&self, container: &str, args: &[&str]) {
        let create = Create {
            stdin: true,
            ..self.bundle_of(container, &self.config(args))
        };
        self.shim.create(create).await.unwrap();
        self.shim.start(container).await.unwrap();
    }
}

#[tokio::test]
async fn an_exec_has_a_terminal_of_the_container() {
    let mut scene = Scene::new().await;
    scene.start("one", &["sleep", "1000"]).await;
    let script = "tty; test -t 0 && test -t 2 && echo controlling > /dev/tty; \
                  echo $TERM; trap 'stty size' WINCH; echo ready; \
                  while [ \"$line\" != something ]; do read -r line && echo got $line; done; \
                  read -r line || exit 3";
    let exec = Exec {
        terminal: true,
        ..own("one", &["sh", "-c", script])
    };
    let (number, terminal) = scene.shim.exec_in_terminal(exec).await.unwrap();
    let copy = std::fs::File::from(terminal.try_clone().unwrap());
    let (text, mut copy) = apart(move || {
        let mut copy = copy;
        (read_until(&mut copy, "ready\r\n"), copy)
    })
    .await;
    assert_eq!(text, "/dev/pts/0\r\ncontrolling\r\nxterm\r\nready\r\n");
    resize(&terminal, 33, 77);
    let (text, mut copy) = apart(move || {
        let text = read_until(&mut copy, "\r\n");
        copy.write_all(b"something\n").unwrap();
        // The terminal echoes what is typed.
        let answer = read_until(&mut copy, "got something\r\n");
        copy.write_all(&[4]).unwrap();
        (text + &answer, copy)
    })
    .await;
    assert_eq!(text, "33 77\r\nsomething\r\ngot something\r\n");
    let Event::ExecExited { exec, exit } = scene.event().await else {
        panic!("another event")
    };
    assert_eq!((exec, exit.code), (number, 3));
    // The last of it has been closed.
    let end = apart(move || copy.read(&mut [0])).await;
    assert_eq!(end.unwrap_err().raw_os_error(), Some(libc::EIO));
}

#[tokio::test]
async fn a_terminal_that_its_owner_lets_go_of_hangs_up() {
    let mut scene = Scene::new().await;
    scene.start("one", &["sleep", "1000"]).await;
    let exec = Exec {
        terminal: true,
        ..own("one", &["sleep", "1000"])
    };
    let (_, terminal) = scene.shim.exec_in_terminal(exec).await.unwrap();
    drop(terminal);
    let Event::ExecExited { exit, .. } = scene.event().await else {
        panic!("another event")
    };
    assert_eq!(exit.signal, Some(libc::SIGHUP));
}

#[tokio::test]
async fn something_else_in_the_place_of_the_terminals_is_refused() {
    let scene = Scene::new().await;
    let mut config = scene.config(&[
        "sh",
        "-c",
        "mount --bind /dev/pts/0 /dev/pts/ptmx; \
                                     mount --bind /dev/null /dev/pts/ptmx && echo done; sleep 1000",
    ]);
    let capabilities = serde_json::json!(["CAP_SYS_ADMIN"]);
    for set in ["bounding", "effective", "permitted"] {
        config["process"]["capabilities"][set] = capabilities.clone();
    }
    scene.start_with("one", &config).await;
    scene.wait_for_line("one", "done").await;
    let exec = Exec {
        terminal: true,
        ..own("one", &["true"])
    };
    let Error::Failure(failure) = scene.shim.exec_in_terminal(exec).await.unwrap_err() else {
        panic!("not an answer")
    };
    assert_eq!(failure.kind, FailureKind::Invalid);
    assert!(failure.message.contains("devpts"), "{failure}");
}

#[tokio::test]
async fn an_exec_is_killed_with_all_that_it_has_started() {
    let mut scene = Scene::new().await;
    scene.start("one", &["sleep", "1000"]).await;
    // One in a session of its own whose parent has gone, and one that ignores all it can.
    let script = "(setsid sh -c 'sleep 801 & sleep 802' &) ; trap '' HUP TERM INT; sleep 803 & \
                  echo started; sleep 804";
    let (reader, writer) = std::io::pipe().unwrap();
    let exec = Exec {
        cgroup: ExecCgroup::Own,
        ..own("one", &["sh", "-c", script])
    };
    let streams = [null(), writer.into(), null()];
    let (number, _) = scene.shim.exec(exec, streams).await.unwrap();
    let name = scene.name.clone();
    let left = move |number: u32| running(&name, &format!("sleep\0{number}\0"));
    apart(move || {
        let mut reader = reader;
        read_until(&mut reader, "started\n")
    })
    .await;
    let all = async {
        while (801..805).any(|number| left(number) == 0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all)
        .await
        .expect("not all have started");
    scene.shim.kill_exec(number).await.unwrap();
    let Event::ExecExited { exit, .. } = scene.event().await else {
        panic!("another event")
    };
    assert_eq!(exit.signal, Some(libc::SIGKILL));
    let gone = async {
        while (801..805).any(|number| left(number) > 0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone)
        .await
        .expect("something of it has outlived it");
    assert_eq!(left(1000), 1, "the container lives");
    // Its cgroup goes with it, at the latest with the next.
    let exec = Exec {
        cgroup: ExecCgroup::Own,
        ..own("one", &["true"])
    };
    let streams = [null(), null(), null()];
    scene.shim.exec(exec, streams).await.unwrap();
    scene.event().await;
    let hierarchy = scene.cgroup("pids");
    let below = || -> Vec<_> {
        let entries = std::fs::read_dir(&hierarchy).unwrap().flatten();
        entries.filter(|entry| entry.path().is_dir()).collect()
    };
    let removed = async {
        while !below().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(20), removed).await;
    assert!(ended.is_ok(), "{:?}", below());
}

#[tokio::test]
async fn attachers_get_what_the_log_gets_and_the_end() {
    let mut scene = Scene::new().await;
    scene
        .start_open(
            "one",
            &["sh", "-c", "read line; echo $line; echo more >&2; exit 4"],
        )
        .await;
    let (mut first, input) = scene.attach(attach("one", AttachStdin::Shared)).await;
    let (mut second, _) = scene.attach(attach("one", AttachStdin::None)).await;
    input.unwrap().write_all(b"hello\n").unwrap();
    assert_eq!(scene.exit("one").await.code, 4);
    for reader in [&mut first, &mut second] {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello\n");
    }
    let mut lines = scene.lines("one");
    lines.sort();
    assert_eq!(lines, ["stderr F more", "stdout F hello"]);
    let (_, writer) = std::io::pipe().unwrap();
    let request = attach("one", AttachStdin::None);
    let late = scene.shim.attach(request, vec![writer.into()]).await;
    let Error::Failure(failure) = late.unwrap_err() else {
        panic!("not an answer")
    };
    assert_eq!(failure.kind, FailureKind::WrongState);
}

#[tokio::test]
async fn a_slow_attacher_loses_nothing_and_one_that_is_gone_holds_nothing_up() {
    let mut scene = Scene::new().await;
    let script = "read go; seq 1 200000; echo end >&2; read go; seq 1 200000";
    scene.start_open("one", &["sh", "-c", script]).await;
    let (mut slow, input) = scene.attach(attach("one", AttachStdin::Shared)).await;
    let (gone, _) = scene.attach(attach("one", AttachStdin::None)).await;
    let mut input = input.unwrap();
    input.write_all(b"go\n").unwrap();
    // Both pipes are full, and the container waits.
    let full = async {
        while rustix::io::ioctl_fionread(&slow).unwrap() < 60_000 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), full)
        .await
        .expect("nothing comes");
    assert!(!scene.lines("one").contains(&"stderr F end".to_owned()));
    drop(gone);
    let expected = sequence(200_000);
    let length = expected.len();
    let (text, mut slow) = apart(move || {
        let mut text = vec![0; length];
        slow.read_exact(&mut text).unwrap();
        (text, slow)
    })
    .await;
    assert!(text == expected.as_bytes(), "it is not what was written");
    scene.wait_for_line("one", "stderr F end").await;
    // The container's end does not wait for anybody, and what is left is still to be had.
    input.write_all(b"go\n").unwrap();
    let text = apart(move || {
        let mut text = vec![0; length - 100_000];
        slow.read_exact(&mut text).unwrap();
        // The rest is in pipes.
        std::thread::sleep(Duration::from_millis(100));
        let mut rest = Vec::new();
        slow.read_to_end(&mut rest).unwrap();
        text.extend(rest);
        text
    })
    .await;
    assert!(text == expected.as_bytes(), "it is not what was written");
    assert_eq!(scene.exit("one").await.code, 0);
    let lines = scene.lines("one");
    let logged: Vec<&str> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("stdout F "))
        .collect();
    assert_eq!(logged.len(), 400_000);
}

#[tokio::test]
async fn what_an_attacher_has_not_read_outlives_the_shim() {
    let mut scene = Scene::new().await;
    scene
        .start_open("one", &["sh", "-c", "read go; seq 1 20000"])
        .await;
    let (mut reader, input) = scene.attach(attach("one", AttachStdin::Shared)).await;
    input.unwrap().write_all(b"go\n").unwrap();
    assert_eq!(scene.exit("one").await.code, 0);
    scene.shim.shutdown().await.unwrap();
    let text = apart(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    })
    .await;
    let expected = sequence(20_000);
    assert!(
        text == expected,
        "{} of {} bytes",
        text.len(),
        expected.len()
    );
}

#[tokio::test]
async fn standard_input_that_is_handed_over_ends_with_its_owner() {
    let mut scene = Scene::new().await;
    scene.start_open("once", &["cat"]).await;
    let (mut reader, input) = scene.attach(attach("once", AttachStdin::Only)).await;
    let (_, writer) = std::io::pipe().unwrap();
    let second = attach("once", AttachStdin::Only);
    let refused = scene.shim.attach(second, vec![writer.into()]).await;
    let Error::Failure(failure) = refused.unwrap_err() else {
        panic!("not an answer")
    };
    assert_eq!(failure.kind, FailureKind::WrongState);
    assert!(failure.message.contains("stdin_once"), "{failure}");
    let mut input = input.unwrap();
    input.write_all(b"all there is").unwrap();
    drop(input);
    assert_eq!(scene.exit("once").await.code, 0);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "all there is");

    // Shared, it stays open for the next.
    scene.start_open("more", &["cat"]).await;
    for line in ["one\n", "two\n"] {
        let (reader, input) = scene.attach(attach("more", AttachStdin::Shared)).await;
        input.unwrap().write_all(line.as_bytes()).unwrap();
        let text = apart(move || {
            let mut reader = reader;
            read_until(&mut reader, "\n")
        })
        .await;
        assert_eq!(text, line);
    }
    scene.shim.delete("more").await.unwrap();
}

#[tokio::test]
async fn a_containers_terminal_is_shown_typed_into_and_resized() {
    let mut scene = Scene::new().await;
    let script = "trap 'stty size' WINCH; while [ \"$line\" != end ]; do \
                  read -r line && echo got $line; done; echo bye";
    let mut config = scene.config(&["sh", "-c", script]);
    config["process"]["terminal"] = serde_json::json!(true);
    let create = Create {
        terminal: true,
        stdin: true,
        ..scene.bundle_of("one", &config)
    };
    scene.shim.create(create).await.unwrap();
    // Whoever attaches before the start misses nothing.
    let (reader, terminal) = scene.attach(attach("one", AttachStdin::Only)).await;
    scene.shim.start("one").await.unwrap();
    let terminal = OwnedFd::from(terminal.unwrap());
    let mut typing = std::fs::File::from(terminal.try_clone().unwrap());
    typing.write_all(b"a\n").unwrap();
    let (text, reader) = apart(move || {
        let mut reader = reader;
        (read_until(&mut reader, "got a\r\n"), reader)
    })
    .await;
    assert_eq!(text, "a\r\ngot a\r\n");
    resize(&terminal, 20, 30);
    let (text, mut reader) = apart(move || {
        let mut reader = reader;
        (read_until(&mut reader, "\n"), reader)
    })
    .await;
    assert_eq!(text, "20 30\r\n");
    typing.write_all(b"end\n").unwrap();
    assert_eq!(scene.exit("one").await.code, 0);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "end\r\ngot end\r\nbye\r\n");
}
