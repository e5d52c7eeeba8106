//! Whom a pod asks for names.

use slipway_cri_api::v1::DnsConfig;

/// A pod's resolver configuration (resolv.conf(5)); empty where it says nothing of it.
pub fn resolver_configuration(dns: &DnsConfig) -> String {
    let line = |keyword: &str, words: &[String]| match words {
        [] => String::new(),
        words => format!("{keyword} {}\n", words.join(" ")),
    };
    let servers: String = dns
        .servers
        .iter()
        .map(|server| line("nameserver", std::slice::from_ref(server)))
        .collect();
    line("search", &dns.searches) + &servers + &line("options", &dns.options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_configuration_has_a_line_for_each_kind() {
        let list = |items: &[&str]| items.iter().map(|&item| item.to_owned()).collect();
        let dns = DnsConfig {
            servers: list(&["10.0.0.10", "fd00::10"]),
            searches: list(&["a.svc", "svc"]),
            options: list(&["ndots:5"]),
        };
        assert_eq!(
            resolver_configuration(&dns),
            "search a.svc svc\nnameserver 10.0.0.10\nnameserver fd00::10\noptions ndots:5\n"
        );
        assert_eq!(resolver_configuration(&DnsConfig::default()), "");
    }
}
