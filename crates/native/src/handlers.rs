//! The runtimes that a pod can be made with (CRI `RunPodSandboxRequest.runtime_handler`, which is
//! what a RuntimeClass names): the built-in one, and other OCI runtimes that are configured.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use serde::Deserialize;
use slipway_cri_api::v1::{NamespaceMode, PodSandboxConfig};
use slipway_engine::{Error, Result, blocking};
use slipway_shim::protocol::{Runtime, SubCgroup};
use tokio::process::Command;

use crate::config::{Handler as Config, not_absolute};
use crate::kernel;
use crate::program;
use crate::sandbox::remove_directory;
use crate::spec::pod_namespaces;

/// The name of the built-in one, which also has the empty name.
const BUILT_IN: &str = "slipway";

/// How long a runtime may take to say what it can do, when the daemon starts.
const FEATURES_DEADLINE: Duration = Duration::from_secs(5);

/// What a handler can do, as far as a kubelet asks for it (CRI `RuntimeHandlerFeatures`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Features {
    /// Mounts that are read-only with all that is mounted below them.
    pub(crate) recursive_read_only_mounts: bool,
    /// Pods with user namespaces.
    pub(crate) user_namespaces: bool,
}

/// Every handler of this node.
#[derive(Debug)]
pub(crate) struct Handlers {
    /// Of the built-in one.
    features: Features,
    external: BTreeMap<String, External>,
}

#[derive(Debug, Clone)]
struct External {
    runtime: Runtime,
    features: Features,
    /// Whether what its root directory holds is this daemon's alone.
    own_root: bool,
    offer: Offer,
}

/// To whom a handler is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offer {
    /// To every pod.
    All,
    /// To the pods that were made with it before it was taken out of the configuration.
    Known,
}

impl Handlers {
    /// Asks each runtime that is configured, and has been checked, what it can do. `state` is the
    /// daemon's state directory, below which each keeps its own by default.
    pub(crate) async fn open(
        configured: &BTreeMap<String, Config>,
        state: &Path,
        features: Features,
    ) -> Self {
        let open = async |(name, config): (&String, &Config)| {
            let root = state.join("runtimes").join(name);
            let mut runtime = Runtime {
                path: config.path.clone(),
                root: config.root.clone().unwrap_or(root),
                options: config.options.clone(),
                timeout: config.timeout_seconds,
                exec_cgroup: SubCgroup::Unsupported,
            };
            let (features, exec_cgroup) = tokio::join!(ask(name, &runtime), ask_exec(&runtime));
            runtime.exec_cgroup = exec_cgroup;
            let own_root = config.root.is_none();
            let external = External {
                runtime,
                features,
                own_root,
                offer: Offer::All,
            };
            (name.clone(), external)
        };
        let external = join_all(configured.iter().map(open)).await;
        Self {
            features,
            external: external.into_iter().collect(),
        }
    }

    /// Those of a new configuration, in the place of these: what is not in it any more stays for
    /// the pods that have it.
    pub(crate) async fn replaced(
        &self,
        configured: &BTreeMap<String, Config>,
        state: &Path,
    ) -> Self {
        let mut new = Self::open(configured, state, self.features).await;
        for (name, external) in &self.external {
            let kept = || External {
                offer: Offer::Known,
                ..external.clone()
            };
            new.external.entry(name.clone()).or_insert_with(kept);
        }
        new
    }

    /// Every name that a pod can ask for, and what it gets.
    pub(crate) fn list(&self) -> impl Iterator<Item = (&str, Features)> {
        let built_in = ["", BUILT_IN].map(|name| (name, self.features));
        let external = self.external.iter();
        let offered = external.filter(|(_, external)| external.offer == Offer::All);
        built_in
            .into_iter()
            .chain(offered.map(|(name, external)| (name.as_str(), external.features)))
    }

    /// What the handler of a pod that is to be made can do.
    ///
    /// # Errors
    ///
    /// [`slipway_engine::Kind::InvalidArgument`] when there is none of this name.
    fn check(&self, name: &str) -> Result<Features> {
        let found = self.list().find(|(known, _)| *known == name);
        found.map(|(_, features)| features).ok_or_else(|| {
            let known: Vec<_> = self.list().map(|(name, _)| format!("{name:?}")).collect();
            Error::invalid(format!(
                "runtime_handler {name:?} is not configured on this node, which has {}: correct \
                 the RuntimeClass's handler, or add [runtime.handlers.{name}] with its path to the \
                 configuration",
                known.join(", ")
            ))
        })
    }

    /// Refuses a pod that its handler cannot make.
    ///
    /// # Errors
    ///
    /// [`slipway_engine::Kind::InvalidArgument`] when there is no such handler,
    /// [`slipway_engine::Kind::FailedPrecondition`] when it lacks what the pod needs.
    pub(crate) fn check_pod(&self, name: &str, config: &PodSandboxConfig) -> Result<()> {
        let features = self.check(name)?;
        let options = pod_namespaces(config).userns_options;
        let isolated = options.is_some_and(|user| user.mode == NamespaceMode::Pod as i32);
        if isolated && self.external.contains_key(name) && !features.user_namespaces {
            return Err(Error::precondition(format!(
                "PodSandboxConfig.linux.security_context.namespace_options.userns_options: pods \
                 of runtime_handler {name:?} cannot have a user namespace"
            )));
        }
        Ok(())
    }

    /// The runtime of a pod's handler; none for the built-in one.
    ///
    /// # Errors
    ///
    /// [`slipway_engine::Kind::FailedPrecondition`] when the pod was made with one that is not
    /// configured any more.
    pub(crate) fn runtime(&self, name: &str) -> Result<Option<&Runtime>> {
        if matches!(name, "" | BUILT_IN) {
            return Ok(None);
        }
        match self.external.get(name) {
            Some(external) => Ok(Some(&external.runtime)),
            None => Err(Error::precondition(format!(
                "the pod was made with runtime handler {name:?}, which is not configured any more: \
                 configure runtime.handlers.{name} again, or make the pod anew"
            ))),
        }
    }

    /// Has a runtime forget a container whose processes are gone; safe to repeat. Where it cannot,
    /// its directory for the container is removed, so that no container outlives its runtime.
    pub(crate) async fn forget(&self, state: &Path, name: &str, container: &str) -> Result<()> {
        let (failed, root) = match self.runtime(name) {
            Ok(None) => return Ok(()),
            Ok(Some(runtime)) => (
                run(runtime, &["delete", "--force", container]).await.err(),
                runtime.root.clone(),
            ),
            Err(error) => (Some(error.to_string()), state.join("runtimes").join(name)),
        };
        let directory = root.join(container);
        if let Some(reason) = failed
            && directory.exists()
        {
            tracing::warn!(
                container,
                handler = name,
                reason,
                "its runtime did not delete it; what that keeps of it is removed"
            );
            blocking::run(move || remove_directory(&directory)).await?;
        }
        Ok(())
    }

    /// What the runtimes hold in directories of this daemon's own, by handler.
    pub(crate) fn held(&self) -> Vec<(&str, String)> {
        let own = self
            .external
            .iter()
            .filter(|(_, external)| external.own_root);
        own.flat_map(|(name, external)| {
            let entries = fs::read_dir(&external.runtime.root).into_iter().flatten();
            let ids = entries
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok());
            ids.map(|id| (name.as_str(), id)).collect::<Vec<_>>()
        })
        .collect()
    }
}

/// Looks for what cannot work, and tells it with its key below `[runtime]`.
pub(crate) fn check(name: &str, config: &Config, complain: &mut dyn FnMut(&str, String)) {
    let key = format!("handlers.{name}");
    let label = |name: &str| {
        let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = name.as_bytes();
        bytes.len() <= 63
            && ends(bytes.first())
            && ends(bytes.last())
            && bytes
                .iter()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    };
    if name == BUILT_IN {
        let reason = "that is the name of the built-in handler; choose another";
        complain(&key, reason.to_owned());
    }
    if !label(name) {
        let reason = "a RuntimeClass can name only handlers of at most 63 lower-case letters, \
                      digits and hyphens";
        complain(&key, reason.to_owned());
    }
    if let Some(root) = config.root.as_ref().filter(|root| !root.is_absolute()) {
        complain(&format!("{key}.root"), not_absolute(root));
    }
    if !(1..=Config::MAX_TIMEOUT).contains(&config.timeout_seconds) {
        complain(
            &format!("{key}.timeout_seconds"),
            format!(
                "{} is not between 1 and {}",
                config.timeout_seconds,
                Config::MAX_TIMEOUT
            ),
        );
    }
    if !config.path.is_absolute() {
        complain(&format!("{key}.path"), not_absolute(&config.path));
    } else if let Err(reason) = executable(&config.path) {
        complain(
            &format!("{key}.path"),
            format!(
                "{} {reason}; install the runtime, or correct the path",
                config.path.display()
            ),
        );
    }
}

/// Why a file cannot be executed.
pub(crate) fn executable(path: &Path) -> std::result::Result<(), String> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err("does not exist".to_owned()),
        Err(error) => Err(format!("cannot be used: {error}")),
        Ok(found) if !found.is_file() => Err("is not a file".to_owned()),
        Ok(found) if found.permissions().mode() & 0o111 == 0 => Err("is not executable".to_owned()),
        Ok(_) => Ok(()),
    }
}

/// The little that is read of what `features` says (OCI runtime specification, "Features").
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    #[serde(default)]
    mount_options: Vec<String>,
}

/// Asks a runtime what it can do. One that does not know the question can do nothing special.
async fn ask(name: &str, runtime: &Runtime) -> Features {
    let said = run(&hurried(runtime), &["features"])
        .await
        .and_then(|output| {
            serde_json::from_slice::<Said>(&output).map_err(|error| error.to_string())
        });
    match said {
        Ok(said) => Features {
            recursive_read_only_mounts: kernel::recursive_read_only().is_ok()
                && said.mount_options.iter().any(|option| option == "rro"),
            // The shim mounts the root file system, and makes the pod's namespaces, for itself only.
            user_namespaces: false,
        },
        Err(reason) => {
            tracing::info!(
                handler = name,
                reason,
                "the runtime does not say what it can do"
            );
            Features::default()
        }
    }
}

/// What a runtime says of its `exec --cgroup`, in the help that it has for people: there is nothing
/// for programs.
async fn ask_exec(runtime: &Runtime) -> SubCgroup {
    let said = run(&hurried(runtime), &["exec", "--help"]).await;
    let said = said.unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    match said.lines().find(|line| line.contains("--cgroup")) {
        None => SubCgroup::Unsupported,
        Some(line) if line.contains("<controller>") => SubCgroup::ControllerAndPath,
        Some(_) => SubCgroup::Path,
    }
}

/// The daemon's start does not wait long for anybody.
fn hurried(runtime: &Runtime) -> Runtime {
    Runtime {
        timeout: u32::try_from(FEATURES_DEADLINE.as_secs()).unwrap_or(1),
        ..runtime.clone()
    }
}

/// Runs a command of a runtime to its end and answers its standard output, or why there is none.
async fn run(runtime: &Runtime, command: &[&str]) -> std::result::Result<Vec<u8>, String> {
    let doing = || format!("{} {}", runtime.path.display(), command.join(" "));
    let limit = Duration::from_secs(runtime.timeout.into());
    match program::run(self::command(runtime).args(command), Some(limit)).await {
        Ok(Some(output)) if output.status.success() => Ok(output.stdout),
        Ok(Some(output)) => Err(format!(
            "{}: {}: {}",
            doing(),
            output.status,
            program::last_line(&output.stderr)
        )),
        Ok(None) => Err(format!(
            "{} did not end within {} s and was killed",
            doing(),
            runtime.timeout
        )),
        Err(error) => Err(format!("{}: {error}", doing())),
    }
}

/// A runtime's command line up to the command.
pub(crate) fn command(runtime: &Runtime) -> Command {
    let mut command = Command::new(&runtime.path);
    command
        .arg("--root")
        .arg(&runtime.root)
        .args(&runtime.options);
    command
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn config(path: &str) -> Config {
        Config {
            path: PathBuf::from(path),
            root: None,
            options: Vec::new(),
            timeout_seconds: 30,
        }
    }

    fn configured(handlers: &[(&str, Config)]) -> BTreeMap<String, Config> {
        let handlers = handlers.iter().cloned();
        handlers
            .map(|(name, config)| (name.to_owned(), config))
            .collect()
    }

    async fn handlers(handlers: &[(&str, Config)]) -> Handlers {
        let configured = configured(handlers);
        Handlers::open(&configured, Path::new("/state"), Features::default()).await
    }

    #[test]
    fn a_handler_that_cannot_work_is_refused_by_its_key() {
        let complaint = |name: &str, config: &Config| {
            let mut said = Vec::new();
            check(name, config, &mut |key, reason| {
                said.push(format!("{key}: {reason}"));
            });
            said.join("\n")
        };
        for (name, config, words) in [
            (
                "runc",
                config("/no/such"),
                "runc.path: /no/such does not exist",
            ),
            (
                "runc",
                config("runc"),
                "runc.path: \"runc\" is not an absolute path",
            ),
            ("runc", config("/etc"), "is not a file"),
            ("runc", config("/etc/passwd"), "is not executable"),
            ("slipway", config("/bin/true"), "built-in"),
            ("Run_C", config("/bin/true"), "RuntimeClass"),
            ("-", config("/bin/true"), "RuntimeClass"),
        ] {
            let said = complaint(name, &config);
            assert!(said.contains(words), "{said}");
        }
        let hasty = Config {
            timeout_seconds: 0,
            ..config("/bin/true")
        };
        let said = complaint("x", &hasty);
        assert!(said.contains("handlers.x.timeout_seconds: 0"), "{said}");
        assert_eq!(complaint("runc", &config("/bin/true")), "");
    }

    #[tokio::test]
    async fn a_pod_can_ask_for_what_is_configured_and_is_told_what_that_is() {
        let handlers = handlers(&[("quiet", config("/bin/true"))]).await;
        let names: Vec<_> = handlers.list().map(|(name, _)| name).collect();
        assert_eq!(names, ["", "slipway", "quiet"]);
        assert!(handlers.check("quiet").is_ok());
        let error = handlers.check("kata").unwrap_err();
        assert_eq!(error.kind(), slipway_engine::Kind::InvalidArgument);
        assert!(error.to_string().contains("\"quiet\""), "{error}");
        assert!(handlers.runtime("slipway").unwrap().is_none());
        let runtime = handlers.runtime("quiet").unwrap().unwrap();
        assert_eq!(runtime.root, Path::new("/state/runtimes/quiet"));
        let error = handlers.runtime("kata").unwrap_err();
        assert_eq!(error.kind(), slipway_engine::Kind::FailedPrecondition);
        let mut pod = PodSandboxConfig::default();
        let linux = pod.linux.get_or_insert_default();
        let security = linux.security_context.get_or_insert_default();
        let options = security.namespace_options.get_or_insert_default();
        options.userns_options.get_or_insert_default().mode = NamespaceMode::Pod.into();
        let error = handlers.check_pod("quiet", &pod).unwrap_err();
        assert_eq!(error.kind(), slipway_engine::Kind::FailedPrecondition);
        assert!(error.to_string().contains("userns_options"), "{error}");
        assert!(
            handlers.check_pod("", &pod).is_ok(),
            "whoever makes it says"
        );
    }

    #[tokio::test]
    async fn what_is_taken_out_stays_for_those_who_have_it() {
        let old = handlers(&[("a", config("/bin/true")), ("b", config("/bin/true"))]).await;
        let now = configured(&[("b", config("/bin/false")), ("c", config("/bin/true"))]);
        let new = old.replaced(&now, Path::new("/state")).await;
        let names: Vec<_> = new.list().map(|(name, _)| name).collect();
        assert_eq!(names, ["", "slipway", "b", "c"]);
        assert!(new.check("a").is_err(), "no new pod gets it");
        let path = |name| new.runtime(name).unwrap().unwrap().path.clone();
        assert_eq!(path("a"), Path::new("/bin/true"));
        assert_eq!(path("b"), Path::new("/bin/false"));
        let back = configured(&[("a", config("/bin/true"))]);
        let again = new.replaced(&back, Path::new("/state")).await;
        assert!(again.check("a").is_ok());
    }

    #[tokio::test]
    async fn features_are_what_the_runtime_says() {
        let directory = tempfile::tempdir().unwrap();
        let script = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            config(path.to_str().unwrap())
        };
        let able = script("able", r#"echo '{"mountOptions": ["ro", "rro"]}'"#);
        let plain = script("plain", r#"echo '{"mountOptions": ["ro"]}'"#);
        let old = script("old", "echo unknown command features >&2; exit 1");
        let told = script("told", "echo '  --cgroup=PATH  sub-cgroup'");
        let handlers = handlers(&[
            ("able", able),
            ("plain", plain),
            ("old", old),
            ("told", told),
        ])
        .await;
        let able = |name| handlers.check(name).unwrap().recursive_read_only_mounts;
        assert_eq!(
            [able("able"), able("plain"), able("old")],
            [true, false, false]
        );
    }
}
