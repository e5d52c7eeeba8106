//! A running machine.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{BufRead as _, BufReader, ErrorKind};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use tempfile::TempDir;

use super::image::Image;
use super::share::{Disk, Share};

/// How long a machine may take to come up: many times what it takes on two busy cores under
/// emulation.
const BOOT: Duration = Duration::from_mins(4);

/// How long hardware acceleration may take to show that it works.
const PROBE: Duration = Duration::from_secs(30);

/// How much of a hung machine's console is shown, in lines.
const CONSOLE: usize = 60;

/// What executes the machine's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accelerator {
    Hardware,
    Emulation,
}

impl Accelerator {
    fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Hardware => ["-accel", "kvm", "-cpu", "host"],
            Self::Emulation => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}

/// A machine to boot. Nothing that it writes outlives it.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    image: &'a Image,
    memory: u32,
    network: Option<(String, String)>,
    parameters: String,
}

impl<'a> Machine<'a> {
    pub(super) fn new(image: &'a Image) -> Self {
        Self {
            image,
            memory: 4096,
            network: None,
            parameters: String::new(),
        }
    }

    /// With this much memory, in MiB.
    pub(super) fn memory(self, memory: u32) -> Self {
        Self { memory, ..self }
    }

    /// On a private network, with an address there.
    pub(super) fn network(self, name: &str, address: &str) -> Self {
        Self {
            network: Some((name.to_owned(), address.to_owned())),
            ..self
        }
    }

    /// With more parameters of the kernel (kernel-parameters(7)), separated by blanks.
    pub(super) fn parameters(self, parameters: &str) -> Self {
        Self {
            parameters: parameters.to_owned(),
            ..self
        }
    }

    /// Runs the command on the disk; gives its exit code.
    pub(super) fn run(&self, disk: &Disk, limit: Duration) -> Result<u8> {
        let accelerator = self.accelerator()?;
        self.run_with(accelerator, disk, BOOT, limit, Stdio::inherit())
    }

    /// Gives the machine's console to the terminal until it is powered off.
    pub(super) fn shell(&self, disk: &Disk) -> Result<ExitCode> {
        let mut command = self.command(self.accelerator()?, disk);
        command.args(["-serial", "mon:stdio"]);
        let status = command
            .status()
            .context("cannot start qemu-system-x86_64")?;
        ensure!(status.success(), "the machine ended with {status}");
        Ok(ExitCode::SUCCESS)
    }

    /// Hardware acceleration where a machine boots with it: that the device is there says little.
    /// What was found is kept beside the image, for this boot of the host.
    fn accelerator(&self) -> Result<Accelerator> {
        if !Path::new("/dev/kvm").exists() {
            return Ok(Accelerator::Emulation);
        }
        let note = self.image.directory().join("accelerator");
        let host = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        if let Ok(text) = fs::read_to_string(&note)
            && let Some(found) = text.strip_prefix(&host)
        {
            return Ok(match found {
                "kvm" => Accelerator::Hardware,
                _ => Accelerator::Emulation,
            });
        }
        let mut share = Share::new()?;
        share.command(&["true".to_owned()])?;
        let disk = share.into_disk()?;
        let probed = self.run_with(Accelerator::Hardware, &disk, PROBE, PROBE, Stdio::null());
        let (found, word) = match probed {
            Ok(0) => (Accelerator::Hardware, "kvm"),
            _ => (Accelerator::Emulation, "tcg"),
        };
        fs::write(note, format!("{host}{word}"))?;
        Ok(found)
    }

    fn command(&self, accelerator: Accelerator, disk: &Disk) -> Command {
        let mut append = String::from("root=/dev/vda rw console=ttyS0 quiet net.ifnames=0");
        append.push(' ');
        append.push_str(&self.parameters);
        // A machine ends with whoever has started it, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        command.args(accelerator.arguments());
        command.args([
            "-machine",
            "q35",
            "-smp",
            "2",
            "-nodefaults",
            "-display",
            "none",
        ]);
        command.args(["-m", &self.memory.to_string()]);
        command.args(["-device", "virtio-rng-pci", "-device", "virtio-serial"]);
        for (path, options) in [
            // What is written goes with the machine: there is nothing to flush it for.
            (self.image.disk(), "snapshot=on,cache=unsafe"),
            (disk.path().to_owned(), "readonly=on"),
        ] {
            let path = path.display();
            command.args([
                "-drive",
                &format!("file={path},format=raw,if=virtio,{options}"),
            ]);
        }
        match &self.network {
            None => command.args(["-net", "none"]),
            Some((name, address)) => {
                append.push_str(" address=");
                append.push_str(address);
                let (port, mac) = (port_of(name), mac_of(address));
                command.args([
                    "-netdev",
                    &format!("socket,id=private,mcast=230.0.0.1:{port},localaddr=127.0.0.1"),
                    "-device",
                    &format!("virtio-net-pci,netdev=private,mac={mac}"),
                ])
            }
        };
        command.arg("-kernel").arg(self.image.kernel());
        command.arg("-initrd").arg(self.image.initial());
        command.args(["-append", &append]);
        command
    }

    fn run_with(
        &self,
        accelerator: Accelerator,
        disk: &Disk,
        boot: Duration,
        limit: Duration,
        output: Stdio,
    ) -> Result<u8> {
        let directory = TempDir::new()?;
        let console = directory.path().join("console");
        let socket = directory.path().join("status");
        let listener = UnixListener::bind(&socket)?;
        let mut command = self.command(accelerator, disk);
        command.args(["-serial", &format!("file:{}", console.display())]);
        command.args(["-chardev", "stdio,id=output,signal=off"]);
        command.args(["-device", "virtserialport,chardev=output,name=output"]);
        let status = format!("socket,id=status,path={}", socket.display());
        command.args(["-chardev", &status]);
        command.args(["-device", "virtserialport,chardev=status,name=status"]);
        // At the end of its input the emulator would take the output port for closed as well.
        command.stdin(Stdio::piped()).stdout(output);
        let mut process = Process(command.spawn().context("cannot start qemu-system-x86_64")?);
        let ended = follow(&mut process, &listener, boot, limit);
        ended.map_err(|error| {
            let text = fs::read(&console).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(CONSOLE)..].join("\n");
            anyhow!("{error:#}; its console:\n{tail}")
        })
    }
}

/// The emulator's process, killed when this is dropped.
#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already where all went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until the machine is up, and then until its command has ended.
fn follow(
    process: &mut Process,
    listener: &UnixListener,
    boot: Duration,
    limit: Duration,
) -> Result<u8> {
    let begin = Instant::now();
    let stream = accept(process, listener)?;
    let mut lines = BufReader::new(stream);
    let line = expect_line(&mut lines, boot, "come up")?;
    ensure!(
        line == "up",
        "the machine says {line:?} instead of coming up"
    );
    eprintln!(
        "the machine was up after {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    let deadline = Instant::now() + limit;
    let line = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = expect_line(&mut lines, left, "end its command")?;
        // A command may reboot the machine, and is then run once more.
        if line != "up" {
            break line;
        }
    };
    let code = line
        .strip_prefix("exit ")
        .and_then(|code| code.parse().ok());
    code.with_context(|| format!("the machine says {line:?} instead of an exit code"))
}

/// The emulator connects as soon as it runs.
fn accept(process: &mut Process, listener: &UnixListener) -> Result<UnixStream> {
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(status) = process.0.try_wait()? {
            bail!("qemu-system-x86_64 ended with {status}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn expect_line(lines: &mut BufReader<UnixStream>, limit: Duration, what: &str) -> Result<String> {
    let deadline = Instant::now() + limit;
    let mut line = String::new();
    while !line.ends_with('\n') {
        let left = deadline.saturating_duration_since(Instant::now());
        ensure!(
            !left.is_zero(),
            "the machine did not {what} within {:.0} s",
            limit.as_secs_f64()
        );
        lines.get_ref().set_read_timeout(Some(left))?;
        match lines.read_line(&mut line) {
            Ok(0) => bail!("the machine ended before it did {what}"),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(line.trim_end().to_owned())
}

/// Machines that name the same network meet on the same port of loopback.
fn port_of(network: &str) -> u16 {
    let mut hasher = DefaultHasher::new();
    network.hash(&mut hasher);
    let [low, high, ..] = hasher.finish().to_le_bytes();
    20_000 + u16::from_le_bytes([low, high]) % 10_000
}

/// A locally administered hardware address for each address.
fn mac_of(address: &str) -> String {
    let mut hasher = DefaultHasher::new();
    address.hash(&mut hasher);
    let bytes = hasher.finish().to_le_bytes();
    let parts = bytes[..5].iter().map(|byte| format!(":{byte:02x}"));
    format!("52{}", parts.collect::<String>())
}
