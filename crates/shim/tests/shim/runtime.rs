//! Containers that runc makes: what the daemon's own tests of them cannot reach.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use slipway_shim::Error;
use slipway_shim::protocol::{
    Attach, AttachStdin, Create, Event, Exec, ExecCgroup, ExecProcess, FailureKind, Runtime,
    SubCgroup,
};

use crate::scene::Scene;

/// The containers that runc has made in a scene, which it forgets in the end.
struct Runc<'a> {
    scene: &'a Scene,
    path: PathBuf,
}

impl Drop for Runc<'_> {
    fn drop(&mut self) {
        let root = self.root();
        for entry in std::fs::read_dir(&root).into_iter().flatten().flatten() {
            // There is nobody left to tell.
            let _ = Command::new(&self.path)
                .arg("--root")
                .arg(&root)
                .args(["delete", "--force"])
                .arg(entry.file_name())
                .status();
        }
    }
}

impl<'a> Runc<'a> {
    fn new(scene: &'a Scene) -> Self {
        let places = ["/usr/sbin/runc", "/usr/bin/runc", "/usr/local/bin/runc"];
        let found = places.iter().map(Path::new).find(|path| path.exists());
        let path = found.expect("these tests need runc").to_owned();
        Self { scene, path }
    }

    fn root(&self) -> PathBuf {
        self.scene.path("runc")
    }

    /// A container that runs `args`.
    fn container(&self, name: &str, args: &[&str], terminal: bool) -> Create {
        let mut config = self.scene.config(args);
        config["ociVersion"] = json!("1.0.2");
        config["process"]["terminal"] = json!(terminal);
        config["linux"]["cgroupsPath"] = json!(format!("/{}", self.scene.name));
        let access = [json!({"allow": true, "access": "rwm"})];
        config["linux"]["resources"] = json!({"devices": access});
        for set in [
            "bounding",
            "effective",
            "permitted",
            "inheritable",
            "ambient",
        ] {
            config["process"]["capabilities"][set] = json!(["CAP_KILL"]);
        }
        if let Some(process) = config["process"].as_object_mut() {
            process.remove("oomScoreAdj");
            process.remove("rlimits");
        }
        Create {
            terminal,
            runtime: Some(Box::new(Runtime {
                path: self.path.clone(),
                root: self.root(),
                options: Vec::new(),
                timeout: 20,
                exec_cgroup: SubCgroup::ControllerAndPath,
            })),
            ..self.scene.bundle_of(name, &config)
        }
    }

    async fn start(&self, create: Create) {
        let name = create.container.clone();
        self.scene.shim.create(create).await.unwrap();
        self.scene.shim.start(&name).await.unwrap();
    }
}

fn exec(container: &str, args: &[&str], terminal: bool) -> Exec {
    Exec {
        container: container.to_owned(),
        process: ExecProcess::Own {
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
        },
        terminal,
        cgroup: ExecCgroup::Container,
    }
}

fn null() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

async fn read_until(source: &OwnedFd, end: &str) -> String {
    let mut source = std::fs::File::from(source.try_clone().unwrap());
    let end = end.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        while !text.ends_with(&end) {
            let mut byte = [0];
            match source.read(&mut byte) {
                Ok(1) => text.push(byte[0].into()),
                other => panic!("{other:?} after {text:?}"),
            }
        }
        text
    });
    let read = tokio::time::timeout(Duration::from_secs(20), read).await;
    read.expect("it hangs").unwrap()
}

/// The end of an exec, whatever else is told.
async fn exec_exit(events: &mut tokio::sync::mpsc::UnboundedReceiver<Event>, number: u64) -> i32 {
    loop {
        let event = tokio::time::timeout(Duration::from_secs(20), events.recv()).await;
        match event.expect("no event came").expect("the shim is gone") {
            Event::ExecExited { exec, exit } if exec == number => return exit.code,
            _ => {}
        }
    }
}

#[tokio::test]
async fn terminals_of_a_foreign_container_and_its_execs_are_the_shims() {
    let scene = Scene::new().await;
    let runc = Runc::new(&scene);
    let (_, mut events) = scene.shim.subscribe().await.unwrap();
    let script = "tty; echo ready; read line; stty size; echo got $line; sleep 1000";
    runc.start(runc.container("one", &["sh", "-c", script], true))
        .await;
    scene.wait_for_line("one", "ready").await;
    let request = Attach {
        container: "one".to_owned(),
        stdin: AttachStdin::Shared,
        stdout: true,
        stderr: false,
    };
    let (reader, writer) = std::io::pipe().unwrap();
    let terminal = scene
        .shim
        .attach(request, vec![writer.into()])
        .await
        .unwrap()
        .expect("the terminal");
    let size = rustix::termios::Winsize {
        ws_row: 33,
        ws_col: 77,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(&terminal, size).unwrap();
    let mut typed = std::fs::File::from(terminal.try_clone().unwrap());
    typed.write_all(b"hello\n").unwrap();
    let shown = read_until(&reader.into(), "got hello\r\n").await;
    assert!(shown.contains("33 77"), "{shown:?}");
    assert!(
        scene
            .lines("one")
            .contains(&"stdout F got hello".to_owned())
    );

    let script = "test -t 0 && echo terminal; read line; echo got $line; exit 6";
    let request = exec("one", &["sh", "-c", script], true);
    let (number, terminal) = scene.shim.exec_in_terminal(request).await.unwrap();
    read_until(&terminal, "terminal\r\n").await;
    let mut typed = std::fs::File::from(terminal.try_clone().unwrap());
    typed.write_all(b"there\n").unwrap();
    read_until(&terminal, "got there\r\n").await;
    assert_eq!(exec_exit(&mut events, number).await, 6);
    let left: Vec<_> = std::fs::read_dir(scene.bundle("one"))
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("exec-") || name.starts_with("console-"))
        .collect();
    assert_eq!(left, [""; 0], "what an exec needed is left");
    drop(runc);
}

#[tokio::test]
async fn standard_input_of_a_foreign_container_is_held_open_for_who_attaches() {
    let scene = Scene::new().await;
    let runc = Runc::new(&scene);
    let create = Create {
        stdin: true,
        ..runc.container(
            "one",
            &["sh", "-c", "read line; echo got $line; cat; sleep 1000"],
            false,
        )
    };
    runc.start(create).await;
    let request = Attach {
        container: "one".to_owned(),
        stdin: AttachStdin::Only,
        stdout: true,
        stderr: false,
    };
    let (reader, writer) = std::io::pipe().unwrap();
    let input = scene
        .shim
        .attach(request, vec![writer.into()])
        .await
        .unwrap()
        .expect("standard input");
    let mut input = std::fs::File::from(input);
    input.write_all(b"hello\nrest").unwrap();
    drop(input);
    let shown = read_until(&reader.into(), "rest").await;
    assert_eq!(shown, "got hello\nrest");
    drop(runc);
}

#[tokio::test]
async fn ends_that_come_at_once_are_not_lost() {
    let scene = Scene::new().await;
    let runc = Runc::new(&scene);
    let (_, mut events) = scene.shim.subscribe().await.unwrap();
    for number in 0..10 {
        let name = format!("quick-{number}");
        runc.start(runc.container(&name, &["sh", "-c", "exit 3"], false))
            .await;
        let exit = loop {
            let event = tokio::time::timeout(Duration::from_secs(20), events.recv()).await;
            if let Event::Exited(record) = event.expect("no event").expect("no shim") {
                break record;
            }
        };
        let slipway_shim::protocol::Phase::Exited {
            started_at, exit, ..
        } = exit.phase
        else {
            panic!("{exit:?}")
        };
        assert_eq!(exit.code, 3);
        assert!(started_at.is_some(), "it was executed");
        scene.shim.delete(&name).await.unwrap();
        let deleted = Command::new(&runc.path)
            .arg("--root")
            .arg(runc.root())
            .args(["delete", "--force", &name])
            .status();
        assert!(deleted.unwrap().success());
        for cgroup in &scene.cgroups {
            std::fs::create_dir_all(cgroup).unwrap();
        }
    }
    runc.start(runc.container("long", &["sleep", "1000"], false))
        .await;
    for _ in 0..10 {
        let request = exec("long", &["sh", "-c", "exit 4"], false);
        let (number, _) = scene
            .shim
            .exec(request, [null(), null(), null()])
            .await
            .unwrap();
        assert_eq!(exec_exit(&mut events, number).await, 4);
    }
    drop(runc);
}

#[tokio::test]
async fn a_foreign_container_that_is_being_made_can_be_deleted() {
    let scene = Scene::new().await;
    let runc = Runc::new(&scene);
    let mut create = runc.container("slow", &["sleep", "1000"], false);
    let script = scene.path("slow.sh");
    std::fs::write(&script, "#!/bin/sh\nsleep 1000\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, mode).unwrap();
    create.runtime.as_mut().unwrap().path = script;
    let deleting = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        scene.shim.delete("slow").await
    };
    let (created, deleted) = tokio::join!(scene.shim.create(create), deleting);
    let Err(Error::Failure(failure)) = created else {
        panic!("{created:?}")
    };
    assert_eq!(failure.kind, FailureKind::System);
    deleted.unwrap();
    assert!(scene.shim.list().await.unwrap().is_empty());
    drop(runc);
}
