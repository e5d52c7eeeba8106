//! A container's process: what is executed, as whom, where and with what environment.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;

use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, Process, ProcessBuilder, UserBuilder};
use slipway_cri_api::v1::{ContainerConfig, KeyValue, LinuxContainerSecurityContext};
use slipway_engine::{Error, Result};

use super::{Plan, built, capabilities};
use crate::config::rlimit_type;
use crate::kernel;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn of(plan: &Plan<'_>, security: &LinuxContainerSecurityContext) -> Result<Process> {
    let image = plan.image.config().clone().unwrap_or_default();
    refuse_nul(plan.container)?;
    let user = UserBuilder::default()
        .uid(plan.user.uid)
        .gid(plan.user.gid)
        .additional_gids(plan.user.groups.clone())
        .build()
        .map_err(built)?;
    let args = arguments(
        image.entrypoint().as_deref().unwrap_or_default(),
        image.cmd().as_deref().unwrap_or_default(),
        &plan.container.command,
        &plan.container.args,
    )?;
    let working_dir = [
        plan.container.working_dir.as_str(),
        image.working_dir().as_deref().unwrap_or_default(),
        "/",
    ]
    .into_iter()
    .find(|directory| !directory.is_empty())
    .map(PathBuf::from)
    .unwrap_or_default();
    if !working_dir.is_absolute() {
        return Err(Error::invalid(format!(
            "ContainerConfig.working_dir, or the image's, {} is not an absolute path",
            working_dir.display()
        )));
    }
    let mut process = ProcessBuilder::default()
        .terminal(plan.container.tty)
        .user(user)
        .args(args)
        .env(environment(
            image.env().as_deref().unwrap_or_default(),
            &plan.container.envs,
            plan.hostname,
            plan.container.tty,
        ))
        .cwd(working_dir)
        .capabilities(capabilities::of(security)?)
        .no_new_privileges(security.no_new_privs)
        .build()
        .map_err(built)?;
    process.set_rlimits(Some(rlimits(plan)?));
    let resources = plan
        .container
        .linux
        .as_ref()
        .and_then(|linux| linux.resources.as_ref());
    if let Some(resources) = resources {
        let adjustment = i32::try_from(resources.oom_score_adj)
            .ok()
            .filter(|adjustment| (-1000..=1000).contains(adjustment))
            .ok_or_else(|| {
                Error::invalid(format!(
                    "oom_score_adj {} is not between -1000 and 1000",
                    resources.oom_score_adj
                ))
            })?;
        // The shim would do with what it may have; other runtimes fail.
        process.set_oom_score_adj(Some(adjustment.max(kernel::lowest_oom_score())));
    }
    Ok(process)
}

/// The kernel takes strings up to the first NUL, so that one would cut off the rest in silence.
fn refuse_nul(container: &ContainerConfig) -> Result<()> {
    let envs = container.envs.iter();
    let envs: Vec<&String> = envs.flat_map(|env| [&env.key, &env.value]).collect();
    for (field, strings) in [
        ("command", container.command.iter().collect()),
        ("args", container.args.iter().collect()),
        ("envs", envs),
        ("working_dir", vec![&container.working_dir]),
    ] {
        if let Some(string) = strings.iter().find(|string| string.contains('\0')) {
            return Err(Error::invalid(format!(
                "ContainerConfig.{field} has a NUL byte in {string:?}"
            )));
        }
    }
    Ok(())
}

/// What is executed: a command replaces the image's entrypoint and its arguments; arguments alone
/// replace only the image's arguments (CRI `ContainerConfig.command`, `.args`).
fn arguments(
    entrypoint: &[String],
    cmd: &[String],
    command: &[String],
    args: &[String],
) -> Result<Vec<String>> {
    let (command, args) = match (command.is_empty(), args.is_empty()) {
        (true, true) => (entrypoint, cmd),
        (true, false) => (entrypoint, args),
        (false, _) => (command, args),
    };
    let all = [command, args].concat();
    match all.first() {
        Some(first) if !first.is_empty() => Ok(all),
        _ => Err(Error::invalid(
            "there is no command: the request has neither command nor args, and the image has \
             neither entrypoint nor cmd",
        )),
    }
}

/// The image's environment with the request's over it, each name once, in order of appearance.
fn environment(
    image: &[String],
    request: &[KeyValue],
    hostname: &str,
    terminal: bool,
) -> Vec<String> {
    let mut environment = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if terminal {
        environment.push("TERM=xterm".to_owned());
    }
    let request = request
        .iter()
        .map(|KeyValue { key, value }| format!("{key}={value}"));
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let mut places: HashMap<String, usize> = environment
        .iter()
        .enumerate()
        .map(|(place, variable)| (name(variable), place))
        .collect();
    for variable in image.iter().cloned().chain(request) {
        match places.entry(name(&variable)) {
            Entry::Occupied(place) => environment[*place.get()] = variable,
            Entry::Vacant(place) => {
                place.insert(environment.len());
                environment.push(variable);
            }
        }
    }
    environment
}

fn rlimits(plan: &Plan<'_>) -> Result<Vec<PosixRlimit>> {
    plan.config
        .rlimits
        .iter()
        .map(|(name, limit)| {
            PosixRlimitBuilder::default()
                .typ(rlimit_type(name).map_err(Error::invalid)?)
                .soft(limit.soft)
                .hard(limit.hard)
                .build()
                .map_err(built)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn a_command_replaces_entrypoint_and_cmd_and_args_replace_cmd() {
        let of = |command: &[&str], args: &[&str]| {
            let image = (strings(&["entry"]), strings(&["cmd"]));
            arguments(&image.0, &image.1, &strings(command), &strings(args)).unwrap()
        };
        assert_eq!(of(&[], &[]), ["entry", "cmd"]);
        assert_eq!(of(&[], &["x"]), ["entry", "x"]);
        assert_eq!(of(&["c"], &[]), ["c"]);
        assert_eq!(of(&["c"], &["x"]), ["c", "x"]);
        assert!(arguments(&[], &[], &[], &[]).is_err());
    }

    #[test]
    fn a_string_that_would_be_cut_off_is_refused_by_its_field() {
        let word = || "a\0b".to_owned();
        let default = ContainerConfig::default;
        for (config, field) in [
            (
                ContainerConfig {
                    args: vec![word()],
                    ..default()
                },
                "args",
            ),
            (
                ContainerConfig {
                    envs: vec![KeyValue {
                        key: "A".to_owned(),
                        value: word(),
                    }],
                    ..default()
                },
                "envs",
            ),
        ] {
            let error = refuse_nul(&config).unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
        }
        assert!(refuse_nul(&default()).is_ok());
    }

    #[test]
    fn the_request_overrides_the_image_which_overrides_the_defaults() {
        let request = [KeyValue {
            key: "A".to_owned(),
            value: "2=3".to_owned(),
        }];
        assert_eq!(
            environment(&strings(&["A=1", "PATH=/p", "B"]), &request, "host", false),
            ["PATH=/p", "HOSTNAME=host", "A=2=3", "B"]
        );
        assert!(environment(&[], &[], "host", true).contains(&"TERM=xterm".to_owned()));
    }
}
