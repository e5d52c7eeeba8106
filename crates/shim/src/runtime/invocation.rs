//! The process that becomes a runtime's command.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs;
use std::io::Write;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, StatxFlags};
use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;
use rustix::process::Signal;
use rustix::thread::UnshareFlags;
use serde_json::{Value, json};

use crate::config::Spec;
use crate::create::terminal::{TERM, names_terminal};
use crate::create::{self, NOT_EXECUTED, Offspring, set_streams, write_oom_score};
use crate::failure::{Explain, Outcome};
use crate::protocol::{Exec, ExecProcess, Failure, Overlay, Runtime};
use crate::syscall;

/// Runtimes look for their helpers there.
const ENVIRONMENT: &CStr = c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What has to be there before a command can do its work.
#[derive(Debug)]
pub(super) enum Preparation<'a> {
    /// Nothing.
    None,
    /// The container's root file system, mounted on `root.path` of its `config.json` in a mount
    /// namespace that lasts as long as somebody is in it: first the runtime, then the container,
    /// whose own begins as a copy. Nothing is mounted on the node.
    RootFileSystem(&'a Overlay),
    /// The file that describes the process to execute.
    Process(&'a Exec, &'a Path),
}

/// A command of a runtime.
#[derive(Debug)]
pub(super) struct Invocation<'a> {
    pub(super) runtime: &'a Runtime,
    /// The container's bundle, which is the working directory.
    pub(super) bundle: &'a Path,
    pub(super) log: &'a Path,
    pub(super) command: &'static str,
    pub(super) arguments: &'a [OsString],
    pub(super) preparation: Preparation<'a>,
    /// Standard input, output and error.
    pub(super) streams: [BorrowedFd<'a>; 3],
    /// The shim's oom_score_adj before it changed it.
    pub(super) oom_score: i32,
}

impl Offspring for Invocation<'_> {
    fn run(&self) -> ! {
        let failure = match self.prepare().and_then(|()| self.execute()) {
            Ok(never) => match never {},
            Err(failure) => failure,
        };
        self.report(&failure);
        syscall::exit(NOT_EXECUTED)
    }
}

impl Invocation<'_> {
    fn prepare(&self) -> Outcome<()> {
        // The runtime works for the shim: alone it would go on with nobody to look after it.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .system(|| "tie the runtime to the shim")?;
        set_streams(self.streams)?;
        syscall::close_all_but(&mut []).system(|| "close descriptors")?;
        syscall::reset_signals();
        rustix::process::setsid().map(drop).system(|| "setsid")?;
        rustix::process::umask(Mode::from_raw_mode(0o022));
        write_oom_score(self.oom_score).system(|| "set oom_score_adj")?;
        rustix::process::chdir(self.bundle)
            .system(|| format!("change to {}", self.bundle.display()))?;
        match &self.preparation {
            Preparation::None => Ok(()),
            Preparation::RootFileSystem(overlay) => self.mount(overlay),
            Preparation::Process(exec, path) => self.describe(exec, path),
        }
    }

    fn mount(&self, overlay: &Overlay) -> Outcome<()> {
        let spec = create::read(&self.bundle.join("config.json"))?;
        syscall::unshare(UnshareFlags::NEWNS).system(|| "unshare the mount namespace")?;
        if spec.linux.rootfs_propagation.contains("shared") {
            self.keep_shared(&spec)?;
        } else {
            create::turn_away_from_node()?;
        }
        create::mount_rootfs(overlay, &self.bundle.join(&spec.root.path)).map(drop)
    }

    /// Keeps what is mounted in volumes going to the node, and only the root file system from it:
    /// that takes nothing but the mount which the bundle is on out of its peer group.
    fn keep_shared(&self, spec: &Spec) -> Outcome<()> {
        let mount_of = |path: &Path| {
            rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)
                .map(|found| found.stx_mnt_id)
                .system(|| format!("look at {}", path.display()))
        };
        let own = mount_of(self.bundle)?;
        for mount in &spec.mounts {
            let spreads = mount.options.iter().any(|option| option.contains("shared"));
            if let Some(source) = mount.source.as_deref().filter(|_| spreads)
                && mount_of(source)? == own
            {
                return Err(Failure::invalid(format!(
                    "bidirectional propagation of {} is not possible with an external runtime: \
                     it is on the same mount as the runtime's state directory",
                    source.display()
                )));
            }
        }
        for directory in self.bundle.ancestors() {
            match rustix::mount::mount_change(directory, MountPropagationFlags::PRIVATE) {
                // Not the root of a mount.
                Err(Errno::INVAL) => {}
                other => return other.system(|| "make the bundle's mount private"),
            }
        }
        Ok(())
    }

    /// Writes the process to execute for the runtime to read.
    fn describe(&self, exec: &Exec, path: &Path) -> Outcome<()> {
        let doing = || format!("write {}", path.display());
        let process = match &exec.process {
            ExecProcess::Given(json) => json.clone().into_bytes(),
            ExecProcess::Own { args } => {
                let config = self.bundle.join("config.json");
                let text = fs::read(&config).system(|| format!("read {}", config.display()))?;
                let mut config: Value = serde_json::from_slice(&text).invalid(doing)?;
                let process = &mut config["process"];
                process["args"] = json!(args);
                process["terminal"] = json!(exec.terminal);
                if exec.terminal
                    && let Some(environment) = process["env"].as_array_mut()
                {
                    let named = |value: &Value| value.as_str().is_some_and(names_terminal);
                    if !environment.iter().any(named) {
                        environment.push(json!(TERM));
                    }
                }
                serde_json::to_vec(process).system(doing)?
            }
        };
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .and_then(|mut file| file.write_all(&process))
            .system(doing)
    }

    fn execute(&self) -> Outcome<std::convert::Infallible> {
        let Runtime {
            path,
            root,
            options,
            ..
        } = self.runtime;
        let own = [
            path.as_os_str(),
            OsStr::new("--root"),
            root.as_os_str(),
            OsStr::new("--log"),
            self.log.as_os_str(),
            OsStr::new("--log-format"),
            OsStr::new("json"),
        ];
        let words = own
            .into_iter()
            .chain(options.iter().map(OsStr::new))
            .chain([OsStr::new(self.command)])
            .chain(self.arguments.iter().map(OsString::as_os_str))
            .map(|word| CString::new(word.as_bytes()))
            .collect::<Result<Vec<_>, _>>()
            .invalid(|| "the runtime's command line")?;
        let error = syscall::execute(&words[0], &words, &[ENVIRONMENT.to_owned()]);
        Err(Failure::system(format!(
            "execute {}: {error}",
            path.display()
        )))
    }

    /// Says what went wrong in the way of the runtime that never came to it.
    fn report(&self, failure: &Failure) {
        let line = json!({"level": "error", "msg": failure.message});
        // Where even that fails, the exit code is left.
        let _ = fs::write(self.log, format!("{line}\n"));
    }
}
