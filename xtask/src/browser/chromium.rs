//! Chromium in a Debian of its own, spoken to over a pipe by the Chrome `DevTools` Protocol
//! (<https://chromedevtools.github.io/devtools-protocol/>): messages of JSON that end with a NUL.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cache::Cached;
use crate::debian::{self, RELEASE};
use crate::program;

/// The browser, the letters it draws with (wider than most), and what reads the PDFs it prints.
const PACKAGES: &[&str] = &[
    "chromium-headless-shell",
    "fonts-dejavu-core",
    "poppler-utils",
];

/// How long all pages together may take, in seconds.
const LIMIT: &str = "300";

/// Its arguments are the Debian and the directory of pages; its input and output are the pipe. The
/// browser has no network, not even a loopback device that is up.
const START: &str = r#"
mount -t proc proc "$1/proc"
mount -t tmpfs tmpfs "$1/dev/shm"
mount -t tmpfs tmpfs "$1/tmp"
mount --bind "$2" "$1/mnt"
exec timeout -s KILL "$3" chroot "$1" env -i HOME=/tmp PATH=/usr/bin:/bin LANG=C.UTF-8 \
    chromium-headless-shell --no-sandbox --disable-gpu --hide-scrollbars --remote-debugging-pipe \
    3<&0 4>&1 </dev/null >/dev/null
"#;

/// Debian with a browser in it, in the user's cache.
#[derive(Debug)]
pub(super) struct Installed(Cached);

impl Installed {
    /// Makes it where it is not there yet, which takes minutes.
    pub(super) fn provide() -> Result<Self> {
        let recipe = format!("{RELEASE}{PACKAGES:?}");
        let what = format!("a browser in a Debian {RELEASE}");
        let make = |directory: &Path| debian::bootstrap(&directory.join("root"), PACKAGES);
        Cached::provide("slipway-browser", &what, &recipe, make).map(Self)
    }

    fn root(&self) -> PathBuf {
        self.0.directory().join("root")
    }

    /// What a program of it, poppler's for PDFs, prints about a file.
    pub(super) fn tool(&self, program: &str, arguments: &[&str], input: &Path) -> Result<String> {
        let output = program::run(
            Command::new("chroot")
                .arg(self.root())
                .arg(program)
                .args(arguments)
                .stdin(File::open(input)?),
        )?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    }
}

/// A running browser with one page. It ends with this, and leaves nothing.
#[derive(Debug)]
pub(super) struct Chromium {
    browser: Child,
    commands: ChildStdin,
    messages: BufReader<ChildStdout>,
    said: PathBuf,
    last: u64,
    session: Option<String>,
    events: Vec<Value>,
    _scratch: TempDir,
}

impl Chromium {
    /// Starts it; it finds the files of `pages` in [`Self::url`].
    pub(super) fn start(installed: &Installed, pages: &Path) -> Result<Self> {
        let scratch = tempfile::tempdir()?;
        let said = scratch.path().join("stderr");
        let mut browser = program::contained()
            .args(["--net", "sh", "-e", "-c", START, "sh"])
            .arg(installed.root())
            .arg(pages)
            .arg(LIMIT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&said)?)
            .spawn()
            .context("cannot start setpriv")?;
        let pipe = browser.stdin.take().zip(browser.stdout.take());
        let (commands, messages) = pipe.context("the browser has no pipe")?;
        let mut browser = Self {
            browser,
            commands,
            messages: BufReader::new(messages),
            said,
            last: 0,
            session: None,
            events: Vec::new(),
            _scratch: scratch,
        };
        let target = browser.call("Target.createTarget", &json!({ "url": "about:blank" }))?;
        let target = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", &target)?;
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Network", "Log", "Runtime", "Accessibility"] {
            browser.call(&format!("{domain}.enable"), &json!({}))?;
        }
        Ok(browser)
    }

    /// Where it sees a file of its pages.
    pub(super) fn url(file: &str) -> String {
        format!("file:///mnt/{file}")
    }

    /// Opens a page, waits until it is all there, and answers what happened meanwhile.
    pub(super) fn open(&mut self, file: &str) -> Result<Vec<Value>> {
        self.events.clear();
        let answer = self.call("Page.navigate", &json!({ "url": Self::url(file) }))?;
        if let Some(error) = answer["errorText"].as_str() {
            bail!("the browser cannot open {file}: {error}");
        }
        while !self.has("Page.loadEventFired") {
            let event = self.message()?;
            self.events.push(event);
        }
        Ok(std::mem::take(&mut self.events))
    }

    fn has(&self, event: &str) -> bool {
        self.events.iter().any(|one| one["method"] == event)
    }

    /// The value of a function of the page, called with arguments.
    pub(super) fn evaluate(&mut self, function: &str, arguments: &Value) -> Result<Value> {
        let expression = format!("({function})({arguments})");
        let wanted = json!({ "expression": expression, "returnByValue": true });
        let mut answer = self.call("Runtime.evaluate", &wanted)?;
        if let Some(thrown) = answer.get("exceptionDetails") {
            bail!("the judge has failed: {thrown}");
        }
        Ok(answer["result"]["value"].take())
    }

    /// Calls a method of the protocol.
    pub(super) fn call(&mut self, method: &str, parameters: &Value) -> Result<Value> {
        self.last += 1;
        let mut command = json!({ "id": self.last, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        let sent = write!(self.commands, "{command}\0").and_then(|()| self.commands.flush());
        if sent.is_err() {
            bail!("{}", self.ended());
        }
        loop {
            let mut message = self.message()?;
            if message["id"] != self.last {
                self.events.push(message);
            } else if let Some(error) = message.get("error") {
                bail!("{method}: {error}");
            } else {
                return Ok(message["result"].take());
            }
        }
    }

    fn message(&mut self) -> Result<Value> {
        let mut message = Vec::new();
        self.messages.read_until(0, &mut message)?;
        if message.pop() != Some(0) {
            bail!("{}", self.ended());
        }
        serde_json::from_slice(&message).context("the browser sends no JSON")
    }

    fn ended(&self) -> String {
        let said = fs::read_to_string(&self.said).unwrap_or_default();
        format!("the browser has ended, after {LIMIT} s at the latest; it said:\n{said}")
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let _ = self.browser.kill();
        let _ = self.browser.wait();
        // The pipe is at its end when the last of its processes is.
        let _ = self.messages.read_to_end(&mut Vec::new());
    }
}
