//! Lines of scripts that call docker or docker-compose.

use crate::secrets;

/// Subcommands of docker: what comes behind the word tells a call from a mention.
const SUBCOMMANDS: [&str; 60] = [
    "attach",
    "build",
    "builder",
    "buildx",
    "commit",
    "compose",
    "config",
    "container",
    "context",
    "cp",
    "create",
    "diff",
    "events",
    "exec",
    "export",
    "history",
    "image",
    "images",
    "import",
    "info",
    "inspect",
    "kill",
    "load",
    "login",
    "logout",
    "logs",
    "manifest",
    "network",
    "node",
    "pause",
    "plugin",
    "port",
    "ps",
    "pull",
    "push",
    "rename",
    "restart",
    "rm",
    "rmi",
    "run",
    "save",
    "search",
    "secret",
    "service",
    "stack",
    "start",
    "stats",
    "stop",
    "swarm",
    "system",
    "tag",
    "top",
    "trust",
    "unpause",
    "update",
    "version",
    "volume",
    "wait",
    "scan",
    "checkpoint",
];

/// Services that `systemctl` and `service` are told about.
const SERVICES: [&str; 3] = ["docker", "docker.service", "docker.socket"];

/// The call in a line of a shell script, a crontab or an `Exec…=` of a unit, if there is one.
pub(crate) fn call(line: &str) -> Option<String> {
    let line = line.trim();
    // Of many lines, hardly one goes on.
    if line.starts_with('#') || !line.contains("docker") {
        return None;
    }
    let mut words = words(line).peekable();
    let mut services = false;
    while let Some((at, word)) = words.next() {
        if word.starts_with('#') {
            return None;
        }
        let program = word.rsplit('/').next().unwrap_or(word);
        let next = words.peek().map(|(_, next)| *next);
        if services && SERVICES.contains(&word) {
            return Some(cut(&line[at..]));
        }
        let is_call = match program {
            // A file of that name, as in /etc/docker-compose, is no call of it.
            "docker-compose" => word == program || word.contains("bin/"),
            "docker" => {
                (word == program || word.contains("bin/")) && next.is_some_and(is_subcommand)
            }
            _ => false,
        };
        if is_call || word.contains("/docker.sock") {
            return Some(cut(&line[at..]));
        }
        services |= matches!(program, "systemctl" | "service");
        if matches!(word, "apt" | "apt-get" | "yum" | "dnf" | "echo") {
            services = false;
        }
    }
    None
}

/// The paths in a line of a shell script or a crontab, as far as it is no comment.
pub(crate) fn paths(line: &str) -> impl Iterator<Item = &str> {
    let words = words(line.trim()).map(|(_, word)| word);
    let words = words.take_while(|word| !word.starts_with('#'));
    words.filter(|word| word.len() > 1 && word.starts_with('/'))
}

fn is_subcommand(word: &str) -> bool {
    SUBCOMMANDS.contains(&word)
        || word.starts_with("-H")
        || word.starts_with("--")
        || word.starts_with('$')
}

/// What a shell would take for words, roughly, with the byte at which each begins.
fn words(line: &str) -> impl Iterator<Item = (usize, &str)> {
    let separator = |letter: char| {
        letter.is_whitespace()
            || matches!(
                letter,
                ';' | '|' | '&' | '(' | ')' | '`' | '"' | '\'' | '{' | '}' | '<' | '>' | '=' | ','
            )
    };
    line.split(separator)
        .filter(|word| !word.is_empty())
        .map(move |word| {
            let bare = word.trim_start_matches(['@', '-', '!', '[']);
            let bare = if bare.is_empty() || word.starts_with("--") || word.starts_with("-H") {
                word
            } else {
                bare
            };
            let at = bare.as_ptr() as usize - line.as_ptr() as usize;
            (at, bare.trim_end_matches([']', ':']))
        })
}

/// As much of it as is shown. What is cut off in the middle would not be known for a secret any more.
fn cut(text: &str) -> String {
    let mut text = secrets::hidden(text);
    if let Some((end, _)) = text.char_indices().nth(60) {
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn calls_are_told_from_mentions() {
        for line in [
            "docker ps -a",
            "  sudo /usr/bin/docker system prune -af",
            "*/5 * * * * root docker exec $(docker ps -q) true",
            "for id in `docker ps -q`; do",
            "ids=$(docker images -q)",
            "ExecStart=/usr/bin/docker run --rm x",
            "ExecStartPre=-/usr/bin/docker rm x",
            "cd /srv && docker-compose up -d",
            "docker compose up -d",
            "docker -H tcp://x ps",
            "if ! docker info >/dev/null; then",
            "[ \"$(docker ps -q)\" ]",
            "systemctl restart docker",
            "service docker restart",
            "curl --unix-socket /var/run/docker.sock http://x/containers/json",
            "alias d='docker ps'",
            "xargs docker rmi",
            "docker \"$@\"",
        ] {
            assert!(call(line).is_some(), "{line}");
        }
        for line in [
            "# docker ps",
            "echo done # docker ps",
            "apt-get install docker docker.io",
            "mkdir -p /etc/docker",
            "tar czf docker.tgz /var/lib/docker",
            "echo docker is not running",
            "ls /opt/docker-compose",
            "podman run docker://x",
            "image: docker.io/library/run",
            "crictl ps",
        ] {
            assert_eq!(call(line), None, "{line}");
        }
    }

    #[test]
    fn a_password_that_a_call_is_given_is_not_shown() {
        let call = call("x=$(docker login -u ci -p hunter2 registry.lan)").unwrap();
        assert!(call.starts_with("docker login -u ci -p … reg"), "{call}");
    }

    #[test]
    fn paths_are_found_in_lines_of_shells_and_crontabs() {
        for (line, expected) in [
            (
                "0 3 * * * root /data/clean.sh --all >/dev/null 2>&1",
                &["/data/clean.sh", "/dev/null"][..],
            ),
            (
                "sh -c '/data/a.sh; \"/data/b\" x' # /data/c",
                &["/data/a.sh", "/data/b"],
            ),
            ("# /data/d", &[]),
            ("#!/bin/sh", &[]),
            ("A=/data/e", &["/data/e"]),
            ("a/b / c", &[]),
        ] {
            assert_eq!(paths(line).collect::<Vec<_>>(), expected, "{line}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(line in "(docker|compose|-|run|[ -~]|\u{e4})*") {
            call(&line);
        }
    }
}
