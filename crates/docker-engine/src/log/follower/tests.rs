//! A Docker that writes and rotates, a kubelet that rotates, and a daemon that is killed, in one thread.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// A Docker, a log and a daemon that comes and goes.
struct World {
    directory: TempDir,
    written: u32,
    follower: Option<Follower>,
    /// Where the kubelet has put older logs.
    aside: Vec<PathBuf>,
    max_file: u32,
    compress: bool,
}

impl World {
    fn new(max_file: u32, compress: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["docker", "pods"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        let world = Self {
            directory,
            written: 0,
            follower: None,
            aside: Vec::new(),
            max_file,
            compress,
        };
        File::create(world.paths().docker).unwrap();
        world
    }

    fn paths(&self) -> Paths {
        let directory = self.directory.path();
        Paths {
            docker: directory.join("docker/c-json.log"),
            log: directory.join("pods/0.log"),
            position: directory.join("position"),
        }
    }

    fn docker_writes(&mut self, count: u32) {
        for _ in 0..count {
            let (number, pair) = (self.written, self.written / 2);
            // Every second line is partial, and so the pairs of them are one.
            let end = if number % 2 == 0 { "" } else { "\\n" };
            let time = format!("2026-01-02T03:04:05.{:09}Z", pair + 1);
            let time = time.replace("0Z", "Z");
            self.docker_writes_text(&format!(
                "{{\"log\":\"{number}{end}\",\"stream\":\"stdout\",\"time\":\"{time}\"}}\n"
            ));
            self.written += 1;
        }
    }

    fn docker_writes_text(&self, text: &str) {
        let mut options = OpenOptions::new();
        let mut file = options.append(true).open(self.paths().docker).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let suffix = if self.compress { ".gz" } else { "" };
        let path = self.paths().docker;
        PathBuf::from(format!("{}.{number}{suffix}", path.display()))
    }

    /// In the order in which it does that.
    fn docker_rotates(&self) {
        let current = self.paths().docker;
        if self.max_file > 1 {
            let _ = fs::remove_file(self.numbered(self.max_file - 1));
            for number in (2..self.max_file).rev() {
                let _ = fs::rename(self.numbered(number - 1), self.numbered(number));
            }
            let first = PathBuf::from(format!("{}.1", current.display()));
            fs::rename(&current, &first).unwrap();
            if self.compress {
                let file = File::create(self.numbered(1)).unwrap();
                let mut encoder = GzEncoder::new(file, Compression::fast());
                encoder.write_all(&fs::read(&first).unwrap()).unwrap();
                encoder.finish().unwrap();
                fs::remove_file(first).unwrap();
            }
        } else {
            fs::remove_file(&current).unwrap();
        }
        File::create(&current).unwrap();
    }

    fn proceed(&mut self) {
        let paths = self.paths();
        let follower = self
            .follower
            .get_or_insert_with(|| Follower::open("c", paths).unwrap());
        assert_eq!(follower.proceed().unwrap(), Progress::UpToDate);
    }

    fn kubelet_renames(&mut self) {
        let log = self.paths().log;
        let aside = log.with_extension(format!("log.{}", self.aside.len()));
        if fs::rename(log, &aside).is_ok() {
            self.aside.push(aside);
        }
    }

    fn kubelet_rotates(&mut self) {
        self.kubelet_renames();
        if let Some(follower) = &mut self.follower {
            follower.reopen().unwrap();
        }
    }

    /// A daemon is killed after it has written and before it has noted so.
    fn daemon_is_killed_over_writing(&mut self, whole: bool) {
        let position = self.paths().position;
        let before = fs::read(&position);
        self.proceed();
        self.follower = None;
        match before {
            Ok(before) => fs::write(position, before).unwrap(),
            Err(_) => return,
        }
        if !whole {
            let log = self.log_in_use();
            let length = fs::metadata(&log).unwrap().len();
            let noted = Position::read(&self.paths().position).unwrap().unwrap();
            if noted.log_length < length {
                let file = OpenOptions::new().write(true).open(&log).unwrap();
                file.set_len(noted.log_length + (length - noted.log_length) / 2)
                    .unwrap();
            }
        }
    }

    /// The one that a daemon has open: the kubelet may have renamed it.
    fn log_in_use(&self) -> PathBuf {
        let noted = Position::read(&self.paths().position).unwrap().unwrap();
        let log = self.paths().log;
        let mut all = self.aside.iter().chain([&log]);
        let inode = |path: &Path| source::inode(path).unwrap();
        all.find(|path| inode(path) == Some(noted.log_inode))
            .unwrap()
            .clone()
    }

    /// The numbers in all logs, and whether each ends its line.
    fn log(&self) -> Vec<(u32, bool)> {
        let log = self.paths().log;
        let files = self.aside.iter().chain([&log]);
        let text: String = files
            .map(|file| fs::read_to_string(file).unwrap_or_default())
            .collect();
        text.lines()
            .map(|line| {
                let parts: Vec<&str> = line.split(' ').collect();
                let [time, "stdout", tag, number] = parts[..] else {
                    panic!("{line:?} is not a line of CRI's");
                };
                assert_eq!(time.len(), "2026-01-02T03:04:05.000000006Z".len());
                (number.parse().unwrap(), tag == "F")
            })
            .collect()
    }

    fn assert_complete(&self) {
        let expected: Vec<_> = (0..self.written).map(|n| (n, n % 2 == 1)).collect();
        assert_eq!(self.log(), expected);
    }
}

#[test]
fn a_log_begins_with_the_oldest_and_in_place_of_somebody_elses_link() {
    let mut world = World::new(3, false);
    std::os::unix::fs::symlink("/somewhere", world.paths().log).unwrap();
    world.docker_writes(10);
    world.docker_rotates();
    world.docker_writes(10);
    world.docker_rotates();
    world.proceed();
    world.assert_complete();
    world.docker_writes(3);
    world.docker_writes_text("{\"log\":\"half");
    world.proceed();
    world.assert_complete();
}

#[test]
fn a_log_that_cannot_be_written_is_when_it_can() {
    let mut world = World::new(2, false);
    world.docker_writes(10);
    let (pods, away) = (
        world.directory.path().join("pods"),
        world.directory.path().join("away"),
    );
    fs::rename(&pods, &away).unwrap();
    let mut follower = Follower::open("c", world.paths()).unwrap();
    let error = follower.proceed().unwrap_err().to_string();
    assert!(error.contains("pods/0.log"), "{error}");
    world.docker_rotates();
    world.docker_writes(1);
    follower.proceed().unwrap_err();
    fs::rename(away, pods).unwrap();
    world.follower = Some(follower);
    world.proceed();
    world.assert_complete();
}

#[test]
fn what_docker_has_removed_is_missing_and_the_rest_is_there() {
    let mut world = World::new(2, false);
    world.docker_writes(2);
    world.proceed();
    world.follower = None;
    world.docker_writes(2);
    world.docker_rotates();
    world.docker_writes(2);
    world.docker_rotates();
    world.docker_writes(2);
    world.proceed();
    let numbers: Vec<_> = world.log().into_iter().map(|(number, _)| number).collect();
    assert_eq!(numbers, [0, 1, 4, 5, 6, 7]);
    assert!(world.follower.unwrap().told.missing);
}

#[test]
fn a_file_that_docker_begins_anew_is_read_from_its_beginning() {
    let mut world = World::new(1, false);
    world.docker_writes(20);
    world.proceed();
    File::create(world.paths().docker).unwrap();
    world.docker_writes(4);
    world.proceed();
    world.assert_complete();
    // One that is removed was read to its end before.
    world.docker_writes(4);
    world.docker_rotates();
    world.docker_writes(4);
    world.proceed();
    world.assert_complete();
}

#[test]
fn a_record_longer_than_a_batch_is_whole_and_bytes_that_are_none_are_passed_over() {
    let mut world = World::new(2, false);
    let long = "x".repeat(BATCH * 2);
    let record = format!(
        "{{\"log\":\"{long}\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-02T03:04:05Z\"}}\n"
    );
    world.docker_writes_text("nothing of Docker's\n\n");
    world.docker_writes_text(&record);
    world.proceed();
    let log = fs::read_to_string(world.paths().log).unwrap();
    assert_eq!(
        log,
        format!("2026-01-02T03:04:05.000000000Z stdout F {long}\n")
    );
    assert!(world.follower.unwrap().told.damaged);
}

#[test]
fn what_was_noted_goes_when_it_is_forgotten() {
    let mut world = World::new(2, false);
    world.proceed();
    assert!(world.paths().position.exists());
    world.follower.take().unwrap().forget();
    assert!(!world.paths().position.exists());
}

#[derive(Debug, Clone)]
enum Step {
    Write(u32),
    Rotate,
    Proceed,
    KubeletRenames,
    KubeletRotates,
    Kill,
    KillOverWriting(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1..30_u32).prop_map(Step::Write),
        2 => Just(Step::Rotate),
        2 => Just(Step::Proceed),
        1 => Just(Step::KubeletRenames),
        1 => Just(Step::KubeletRotates),
        1 => Just(Step::Kill),
        2 => any::<bool>().prop_map(Step::KillOverWriting),
    ];
    prop::collection::vec(step, 0..40)
}

proptest! {
    #[test]
    fn no_line_is_lost_or_there_twice(steps in steps(), compress: bool) {
        // Docker keeps enough.
        let mut world = World::new(50, compress);
        world.proceed();
        for step in steps {
            match step {
                Step::Write(count) => world.docker_writes(count),
                Step::Rotate => world.docker_rotates(),
                Step::Proceed => world.proceed(),
                // It waits for an answer before it does so once more.
                Step::KubeletRenames => world.kubelet_renames(),
                Step::KubeletRotates => world.kubelet_rotates(),
                Step::Kill => world.follower = None,
                Step::KillOverWriting(whole) => world.daemon_is_killed_over_writing(whole),
            }
        }
        world.proceed();
        world.assert_complete();
    }
}
