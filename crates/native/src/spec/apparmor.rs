//! A container's AppArmor profile (apparmor(7)).

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use slipway_cri_api::v1::LinuxContainerSecurityContext;
use slipway_engine::{Error, Profile, Result};

/// The profile of containers that ask for the runtime's default.
const DEFAULT: &str = "slipway-default";

/// What the kernel says of its AppArmor.
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";

/// The profile to apply, which is loaded. Where the kernel has AppArmor and nothing is asked for,
/// it is the default one, as at the peers. May execute a program, so it blocks.
pub(super) fn of(security: &LinuxContainerSecurityContext) -> Result<Option<String>> {
    if security.privileged {
        return Ok(None);
    }
    let enabled = is_enabled();
    match Profile::apparmor(security)? {
        Profile::Unconfined => Ok(None),
        Profile::Unspecified | Profile::RuntimeDefault if !enabled => Ok(None),
        Profile::RuntimeDefault => load_default().map(|()| Some(DEFAULT.to_owned())).map_err(
            |reason| {
                Error::precondition(format!(
                    "security_context.apparmor: the profile {DEFAULT} cannot be loaded: {reason}"
                ))
            },
        ),
        Profile::Unspecified => match load_default() {
            Ok(()) => Ok(Some(DEFAULT.to_owned())),
            Err(reason) => {
                static TOLD: Once = Once::new();
                TOLD.call_once(|| {
                    tracing::warn!(
                        %reason,
                        "containers that ask for no AppArmor profile run without one: \
                         {DEFAULT} cannot be loaded"
                    );
                });
                Ok(None)
            }
        },
        Profile::Localhost(name) if !enabled => Err(Error::precondition(format!(
            "security_context.apparmor: the profile {name:?} is asked for, and this node's kernel \
             has no AppArmor, or has it disabled; run the pod on a node that has it"
        ))),
        Profile::Localhost(name) if is_loaded(&name) => Ok(Some(name)),
        Profile::Localhost(name) => Err(Error::precondition(format!(
            "security_context.apparmor: the profile {name:?} is not loaded on this node; load it \
             with apparmor_parser(8)"
        ))),
    }
}

fn is_enabled() -> bool {
    fs::read(ENABLED).is_ok_and(|value| value.starts_with(b"Y")) && Path::new(PROFILES).exists()
}

fn is_loaded(name: &str) -> bool {
    fs::read_to_string(PROFILES).is_ok_and(|profiles| lists(&profiles, name))
}

/// Whether a list as the kernel has it, `name (mode)` a line, has a profile.
fn lists(profiles: &str, name: &str) -> bool {
    profiles
        .lines()
        .filter_map(|line| line.rsplit_once(" ("))
        .any(|(listed, _)| listed == name)
}

/// Loads the default profile, once in the daemon's life in any case, because the kernel may still
/// have an older one.
fn load_default() -> std::result::Result<(), String> {
    static LOADED: AtomicBool = AtomicBool::new(false);
    if LOADED.load(Ordering::Acquire) && is_loaded(DEFAULT) {
        return Ok(());
    }
    let own = fs::read_to_string("/proc/self/attr/current").unwrap_or_default();
    load(&default_profile(own.trim_end_matches(['\0', '\n'])))?;
    LOADED.store(true, Ordering::Release);
    Ok(())
}

fn load(profile: &str) -> std::result::Result<(), String> {
    let explain = |error: std::io::Error| {
        format!("apparmor_parser, of the package apparmor, cannot be executed: {error}")
    };
    let mut parser = Command::new("apparmor_parser")
        .args(["--replace", "--skip-cache"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(explain)?;
    if let Some(mut stdin) = parser.stdin.take() {
        // One that ends early says why.
        let _ = stdin.write_all(profile.as_bytes());
    }
    let output = parser.wait_with_output().map_err(explain)?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "apparmor_parser: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}

/// The default profile: everything that the container's other walls leave, but for mounts and the
/// kernel's settings, which processes of several containers share. `daemon` is what the daemon
/// itself is confined by, so that it can send signals.
fn default_profile(daemon: &str) -> String {
    let daemon = match daemon.split_once(' ').map_or(daemon, |(name, _)| name) {
        "" => "unconfined",
        name => name,
    };
    let mut peers = vec!["unconfined", "runc", "crun"];
    if !peers.contains(&daemon) {
        peers.push(daemon);
    }
    let mut signals = String::new();
    for peer in peers {
        signals.extend(["  signal (receive) peer=\"", peer, "\",\n"]);
    }
    format!(
        "#include <tunables/global>\n\
         profile {DEFAULT} flags=(attach_disconnected,mediate_deleted) {{\n\
         \x20 #include <abstractions/base>\n\
         \x20 network,\n\
         \x20 capability,\n\
         \x20 file,\n\
         \x20 umount,\n\
         {signals}\
         \x20 signal (send, receive) peer={DEFAULT},\n\
         \x20 ptrace (trace, tracedby, read, readby) peer={DEFAULT},\n\
         \x20 deny mount,\n\
         {DENIED}\
         }}\n"
    )
}

/// The kernel's settings in /proc and /sys; cgroups have their own guards.
const DENIED: &str = "  \
  deny @{PROC}/* w,
  deny @{PROC}/{acpi,bus,driver,fs,irq,scsi,sys}/** w,
  deny @{PROC}/kcore rwklx,
  deny @{PROC}/sysrq-trigger rwklx,
  deny /sys/{block,bus,class,dev,devices,hypervisor,kernel,module,power}/** wklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/firmware/** rwklx,
  deny /sys/fs/[^c]** wklx,
  deny /sys/kernel/security/** rwklx,
";

#[cfg(test)]
mod tests {
    use slipway_cri_api::v1::SecurityProfile;
    use slipway_engine::Kind;

    use super::*;

    #[test]
    fn the_kernels_list_is_read() {
        let profiles = "slipway-default (enforce)\n/usr/bin/man (complain)\nman (groff) (kill)\n";
        assert!(lists(profiles, "slipway-default"));
        assert!(lists(profiles, "/usr/bin/man"));
        assert!(lists(profiles, "man (groff)"));
        assert!(!lists(profiles, "slipway"));
    }

    #[test]
    fn the_default_profile_lets_the_daemon_send_signals() {
        let unconfined = default_profile("unconfined");
        assert_eq!(unconfined.matches("peer=\"unconfined\"").count(), 1);
        assert!(default_profile("").contains("peer=\"unconfined\""));
        assert!(default_profile("slipwayd (enforce)").contains("peer=\"slipwayd\""));
        for rule in [
            "deny mount,",
            "deny @{PROC}/kcore",
            "profile slipway-default ",
        ] {
            assert!(unconfined.contains(rule), "{rule}");
        }
    }

    #[test]
    fn privileged_and_unconfined_containers_have_none() {
        let unconfined = LinuxContainerSecurityContext {
            apparmor: Some(SecurityProfile {
                profile_type: 1,
                localhost_ref: String::new(),
            }),
            ..Default::default()
        };
        assert_eq!(of(&unconfined).unwrap(), None);
        let privileged = LinuxContainerSecurityContext {
            privileged: true,
            ..Default::default()
        };
        assert_eq!(of(&privileged).unwrap(), None);
    }

    #[test]
    fn a_profile_that_is_not_there_is_refused_by_name() {
        let error = of(&LinuxContainerSecurityContext {
            apparmor: Some(SecurityProfile {
                profile_type: 2,
                localhost_ref: "no-such-profile".to_owned(),
            }),
            ..Default::default()
        })
        .unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        assert!(
            error.to_string().contains("security_context.apparmor"),
            "{error}"
        );
    }
}
