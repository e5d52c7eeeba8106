//! Secrets in what people wrote: they carry over, and are shown to nobody.

use std::ops::Range;

/// In place of a secret.
const HIDDEN: &str = "…";

/// Text without the credentials of its addresses, what is between `://` and `@`, and of the proxies that
/// it names.
pub(crate) fn without_credentials(text: &str) -> String {
    let lines = text.split_inclusive('\n').map(without_proxies);
    without_addresses(&lines.collect::<String>())
}

fn without_addresses(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut left = text;
    while let Some(at) = left.find("://") {
        let (before, after) = left.split_at(at + "://".len());
        shown.push_str(before);
        let end = after.find(|one: char| one.is_whitespace() || "\"'<>".contains(one));
        let address = &after[..end.unwrap_or(after.len())];
        // A password may have a slash or an at sign that should have been encoded.
        let host = match address.rfind('@') {
            Some(end) => {
                shown.push_str(HIDDEN);
                &address[end..]
            }
            None => address,
        };
        shown.push_str(host);
        left = &after[address.len()..];
    }
    shown.push_str(left);
    shown
}

/// The value of a variable or a setting that names a proxy, without the credentials in it. It need not
/// have a scheme: Go puts `http://` in front then (golang.org/x/net/http/httpproxy).
pub(crate) fn proxy(value: &str) -> String {
    let is_scheme = |text: &str| text.chars().all(|one| one.is_ascii_alphanumeric());
    let at = match value.find("://") {
        Some(at) if is_scheme(&value[..at]) => at + "://".len(),
        _ => 0,
    };
    let (scheme, address) = value.split_at(at);
    match address.rfind('@') {
        Some(end) => format!("{scheme}{HIDDEN}{}", &address[end..]),
        None => value.to_string(),
    }
}

/// Whether a name is that of a variable, a key or an option whose value is a proxy: of dockerd's
/// `daemon.json` and of Docker's `config.json` among them.
fn names_proxy(name: &str) -> bool {
    let name = name.trim_start_matches('-').to_ascii_lowercase();
    let keys = ["http-proxy", "https-proxy", "httpproxy", "httpsproxy"];
    let others = ["ftp-proxy", "all-proxy", "ftpproxy", "allproxy"];
    name.ends_with("_proxy") || keys.contains(&name.as_str()) || others.contains(&name.as_str())
}

/// A line without the credentials of the proxies that it names.
fn without_proxies(line: &str) -> String {
    // On a command line the value may be the next argument.
    let is_wanted = |name: &str, sign| names_proxy(name) && (sign != ' ' || name.starts_with("--"));
    let mut shown = String::with_capacity(line.len());
    let mut at = 0;
    for value in values(line, is_wanted) {
        shown.push_str(&line[at..value.start]);
        shown.push_str(&proxy(&line[value.clone()]));
        at = value.end;
    }
    shown + &line[at..]
}

/// Options whose values are secrets: of Docker's log drivers, and of the kubelet.
const OPTIONS: [&str; 3] = ["splunk-token", "logentries-token", "manifest-url-header"];

/// An option's value as it is shown.
pub(crate) fn option(name: &str, value: &str) -> String {
    if OPTIONS.contains(&name) {
        return HIDDEN.to_string();
    }
    without_credentials(value)
}

/// Keys whose values are secrets wherever they are written: in `registry.configs` of containerd, as
/// headers of a `hosts.toml` and of the kubelet's `staticPodURLHeader`, in Docker's `config.json`.
const KEYS: [&str; 10] = [
    "auth",
    "authorization",
    "identity_token",
    "identitytoken",
    "passwd",
    "password",
    "proxy-authorization",
    "registrytoken",
    "secret",
    "token",
];

/// How keys end whose values are, those of variables among them.
const ENDS: [&str; 7] = [
    "_api_key",
    "_passwd",
    "_secret",
    "_secret_access_key",
    "_secret_key",
    "_token",
    "password",
];

/// Text of any file as it is shown: without credentials of addresses, and without what follows the
/// names of options and keys that are secrets.
pub(crate) fn hidden(text: &str) -> String {
    let mut shown = without_credentials(text);
    for name in OPTIONS {
        let mut from = 0;
        while let Some(at) = shown[from..].find(name) {
            let after = from + at + name.len();
            let value = shown[after..].trim_start_matches(['"', '\'', ' ', ':', '=']);
            let start = shown.len() - value.len();
            let end = value.find(|one: char| "\"'\n".contains(one) || one == ' ');
            let end = start + end.unwrap_or(value.len());
            if start > after && end > start && !value.starts_with(HIDDEN) {
                shown.replace_range(start..end, HIDDEN);
            }
            from = after;
        }
    }
    let mut in_list = false;
    let lines = shown.split_inclusive('\n');
    lines.map(|line| line_without(line, &mut in_list)).collect()
}

/// A line without the values of keys that are secrets. `in_list` is whether the line above ended in
/// such a key, whose values are items of a list then.
fn line_without(line: &str, in_list: &mut bool) -> String {
    let (line, end) = match line.strip_suffix('\n') {
        Some(line) => (line, "\n"),
        None => (line, ""),
    };
    let item = line.trim_start_matches(['+', '-', ' ']);
    let dash = &line[..line.len() - item.len()];
    if *in_list && dash.ends_with("- ") && !item.contains(": ") {
        return format!("{dash}{HIDDEN}{end}");
    }
    *in_list = false;
    let mut shown = String::with_capacity(line.len());
    let mut at = 0;
    for value in values(line, |name, sign| sign != ' ' && is_secret(name)) {
        *in_list = line[value.start..].trim().is_empty();
        let is_hidden = !matches!(&line[value.clone()], "" | "true" | "false" | "null");
        shown.push_str(&line[at..value.start]);
        shown.push_str(if is_hidden {
            HIDDEN
        } else {
            &line[value.clone()]
        });
        at = value.end;
    }
    let shown = passwords_of_commands(&(shown + &line[at..]));
    shown + end
}

/// Where the values are of the line's keys that are wanted by their name and the sign behind it,
/// without the quotes and brackets around them; an empty one where the line has none.
fn values(line: &str, is_wanted: impl Fn(&str, char) -> bool) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(next) = line[at..].find([':', '=', ' ']) {
        let key = at + next;
        at = key + 1;
        let sign = char::from(line.as_bytes()[key]);
        let (name, within) = key_before(&line[..key]);
        if !is_wanted(name, sign) {
            continue;
        }
        let blank = line[at..].len() - line[at..].trim_start().len();
        let length = match within {
            Within::Quotes(quote) => quoted(&line[at..], quote),
            Within::Nothing => value_length(line[at..].trim_start(), sign) + blank,
        };
        if length == blank {
            found.push(at..at);
            continue;
        }
        // Quotes and brackets stay, so that it reads as what it is.
        let value = &line[at..at + length];
        let start = value.find(|one: char| !" \t[\"'".contains(one));
        let start = start.unwrap_or(value.len());
        let rest = value
            .trim_end_matches([' ', ']', '"', '\'', ',', '\r', '\n'])
            .len();
        found.push(at + start..at + rest.max(start));
        at += length;
    }
    found
}

/// What a key and its value are in together.
enum Within {
    /// `"NAME=value"`
    Quotes(char),
    Nothing,
}

/// The key that what stands in front of a sign ends in.
fn key_before(before: &str) -> (&str, Within) {
    let bare = before.trim_end();
    let name = bare.strip_suffix(['"', '\'']).unwrap_or(bare);
    let is_letter = |one: char| one.is_ascii_alphanumeric() || "_-".contains(one);
    let start = name.trim_end_matches(is_letter).len();
    let opened = name[..start].chars().next_back();
    let opened = opened.filter(|one| matches!(one, '"' | '\'') && name.len() == bare.len());
    (
        &name[start..],
        opened.map_or(Within::Nothing, Within::Quotes),
    )
}

fn is_secret(name: &str) -> bool {
    let key = name.trim_start_matches('-').to_ascii_lowercase();
    KEYS.contains(&key.as_str()) || ENDS.iter().any(|ending| key.ends_with(ending))
}

/// How long a value is that follows its key and a sign.
fn value_length(value: &str, sign: char) -> usize {
    match value.chars().next() {
        Some(quote @ ('"' | '\'')) => 1 + quoted(&value[1..], quote) + 1,
        Some('[') => value.find(']').unwrap_or(value.len()),
        // What is in it has keys of its own.
        Some('{') | None => 0,
        // YAML has blanks in its values, a command line has not.
        Some(_) if sign == ':' => value.len(),
        Some(_) => value.find(char::is_whitespace).unwrap_or(value.len()),
    }
    .min(value.len())
}

/// How long it is to the quote that ends it, which may be escaped inside.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            letter if letter == quote => return at,
            _ => {}
        }
    }
    text.len()
}

/// A command line without the password that `docker login -p` and `--password` are given.
fn passwords_of_commands(line: &str) -> String {
    let mut shown = line.to_string();
    for option in [" --password ", " -p "] {
        if !shown.contains(" login ") {
            continue;
        }
        if let Some(at) = shown.find(option) {
            let start = at + option.len();
            let end = shown[start..].find(char::is_whitespace);
            let end = end.map_or(shown.len(), |end| start + end);
            shown.replace_range(start..end, HIDDEN);
        }
    }
    shown
}

/// Whether it has credentials in addresses or proxies.
pub(crate) fn has_credentials(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    without_credentials(&text) != text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_addresses_are_not_shown() {
        for (text, shown) in [
            ("http://u:p@x:3128", "http://…@x:3128"),
            ("http://x:3128/", "http://x:3128/"),
            ("localhost,10.0.0.0/8", "localhost,10.0.0.0/8"),
            ("http://u:p/q@r@x/, http://y", "http://…@x/, http://y"),
            (
                "Environment=\"A=http://u:%%40@x\" \"B=https://t@y/z\"\n",
                "Environment=\"A=http://…@x\" \"B=https://…@y/z\"\n",
            ),
            ("://", "://"),
            ("HTTP_PROXY=u:p@x:3128\n", "HTTP_PROXY=…@x:3128\n"),
            (
                "Environment=\"http_proxy=u:p/q'@r@x\" \"NO_PROXY=.lan\" all_proxy=t@y\n",
                "Environment=\"http_proxy=…@x\" \"NO_PROXY=.lan\" all_proxy=…@y\n",
            ),
            (
                "export HTTPS_PROXY='http://u:p\"q@x'",
                "export HTTPS_PROXY='http://…@x'",
            ),
            (
                "{\"proxies\":{\"http-proxy\":\"u:p://q@x\",\"https-proxy\": \"v:q@y\"}}",
                "{\"proxies\":{\"http-proxy\":\"…@x\",\"https-proxy\": \"…@y\"}}",
            ),
            (
                "{\"default\": {\"httpProxy\": \"u:p@x\"}}",
                "{\"default\": {\"httpProxy\": \"…@x\"}}",
            ),
            (
                "dockerd --http-proxy u:p@x --https-proxy=v:q@y --userland-proxy=a@b",
                "dockerd --http-proxy …@x --https-proxy=…@y --userland-proxy=a@b",
            ),
            ("HTTP_PROXY: u:p@x\r\n", "HTTP_PROXY: …@x\r\n"),
            ("HTTP_PROXY=x:3128", "HTTP_PROXY=x:3128"),
            (
                "kube-proxy: r:5000/kube-proxy@sha256:a",
                "kube-proxy: r:5000/kube-proxy@sha256:a",
            ),
        ] {
            assert_eq!(hidden(text), shown);
            assert_eq!(has_credentials(text.as_bytes()), text != shown);
        }
    }

    #[test]
    fn credentials_of_a_proxy_are_not_shown() {
        for (value, shown) in [
            ("u:p@x:3128", "…@x:3128"),
            ("http://u:p@x:3128", "http://…@x:3128"),
            ("u:p://q@x", "…@x"),
            ("x:3128", "x:3128"),
            ("", ""),
        ] {
            assert_eq!(proxy(value), shown);
        }
    }

    #[test]
    fn secrets_of_keys_are_not_shown() {
        for (text, shown) in [
            (
                "[plugins.cri.registry.configs.\"x\".auth]\n  password = \"a \\\"b\" # c\n",
                "[plugins.cri.registry.configs.\"x\".auth]\n  password = \"…\" # c\n",
            ),
            (
                "+identitytoken='x'\n-auth = \"eDp5\"\n",
                "+identitytoken='…'\n-auth = \"…\"\n",
            ),
            (
                "[host.x.header]\n  Authorization = [\"Basic eDp5\"]\n",
                "[host.x.header]\n  Authorization = [\"…\"]\n",
            ),
            (
                "{\"auths\": {\"x\": {\"auth\": \"eDp5\", \"email\": \"e\"}}}",
                "{\"auths\": {\"x\": {\"auth\": \"…\", \"email\": \"e\"}}}",
            ),
            (
                "staticPodURLHeader:\n  Authorization:\n  - Basic eDp5\nsyncFrequency: 0s\n",
                "staticPodURLHeader:\n  Authorization:\n  - …\nsyncFrequency: 0s\n",
            ),
            (
                "Environment=\"REGISTRY_PASSWORD=a b\" AWS_SECRET_ACCESS_KEY=x OTHER=y\n",
                "Environment=\"REGISTRY_PASSWORD=…\" AWS_SECRET_ACCESS_KEY=… OTHER=y\n",
            ),
            ("password: a b\r\n", "password: …\r\n"),
            (
                "docker login -u x -p y registry.lan",
                "docker login -u x -p … registry.lan",
            ),
            (
                "docker login --password=y registry.lan",
                "docker login --password=… registry.lan",
            ),
        ] {
            assert_eq!(hidden(text), shown);
        }
        for text in [
            "authorization:\n  mode: Webhook\n  webhook:\n",
            "-authorization:\n-  mode: Webhook\n",
            "docker run -p 80:80 x",
            "--token-auth-file=/x --authorization-mode=Webhook",
            "auth = {",
            "password = \"\"",
            "[password]",
        ] {
            assert_eq!(hidden(text), text);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_can_be_shown(text in "(password|TOKEN|auth|--http-proxy|_PROXY|[:=\"' \\\\\n\\[\\]{},-]|://|@|[a-z\u{e4}])*") {
            let once = hidden(&text);
            proptest::prop_assert_eq!(text.lines().count(), once.lines().count());
            proptest::prop_assert_eq!(hidden(&once), once);
        }
    }

    #[test]
    fn secrets_of_options_are_not_shown() {
        for (text, shown) in [
            (
                "--log-opt splunk-token=abc --x",
                "--log-opt splunk-token=… --x",
            ),
            (
                "{\"splunk-token\": \"a\", \"max-size\": \"1m\"}",
                "{\"splunk-token\": \"…\", \"max-size\": \"1m\"}",
            ),
            (
                "--manifest-url-header=Authorization:x",
                "--manifest-url-header=…",
            ),
            (
                "--authentication-token-webhook=true",
                "--authentication-token-webhook=true",
            ),
            ("splunk-token", "splunk-token"),
        ] {
            assert_eq!(hidden(text), shown);
        }
        assert_eq!(option("splunk-token", "abc"), "…");
        assert_eq!(option("loki-url", "https://u:p@x/push"), "https://…@x/push");
    }
}
