//! Secrets in what people wrote: they carry over, and are shown to nobody.

/// In place of a secret.
const HIDDEN: &str = "…";

/// Text without the credentials of its addresses: what is between `://` and `@`.
pub(crate) fn without_credentials(text: &str) -> String {
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

/// Options whose values are secrets: of Docker's log drivers, and of the kubelet.
const OPTIONS: [&str; 3] = ["splunk-token", "logentries-token", "manifest-url-header"];

/// An option's value as it is shown.
pub(crate) fn option(name: &str, value: &str) -> String {
    if OPTIONS.contains(&name) {
        return HIDDEN.to_string();
    }
    without_credentials(value)
}

/// Text of any file as it is shown: without credentials of addresses, and without what follows the
/// names of options that are secrets.
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
            if start > after && end > start {
                shown.replace_range(start..end, HIDDEN);
            }
            from = after;
        }
    }
    shown
}

/// Whether it has credentials in addresses.
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
        ] {
            assert_eq!(hidden(text), shown);
            assert_eq!(has_credentials(text.as_bytes()), text != shown);
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
