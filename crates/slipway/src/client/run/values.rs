//! Values on the command line of `slipway run`.

use std::net::IpAddr;

use anyhow::{Context, anyhow, bail};
use slipway_cri_api::v1::{KeyValue, Mount, PortMapping, Protocol};

/// Who runs the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) user: UserName,
    pub(super) group: Option<i64>,
}

/// A user by number, or by a name that the image knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum UserName {
    Number(i64),
    Name(String),
}

/// Reads `USER[:GROUP]`.
pub(super) fn user(text: &str) -> anyhow::Result<User> {
    let (user, group) = text
        .split_once(':')
        .map_or((text, None), |(u, g)| (u, Some(g)));
    if user.is_empty() {
        bail!("there is no user in it");
    }
    let group = group.map(|group| {
        let number = group.parse::<u32>().map(i64::from);
        number.with_context(|| format!("the group {group:?} is not a number"))
    });
    let user = user.parse::<u32>().map_or_else(
        |_| UserName::Name(user.into()),
        |number| UserName::Number(number.into()),
    );
    Ok(User {
        user,
        group: group.transpose()?,
    })
}

/// Reads `NAME=VALUE`.
pub(super) fn environment(text: &str) -> anyhow::Result<KeyValue> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok(KeyValue {
            key: key.into(),
            value: value.into(),
        }),
        _ => bail!("write it as NAME=VALUE"),
    }
}

/// Reads `HOST:CONTAINER[:ro]`. A relative path on the host is taken from the working directory.
pub(super) fn mount(text: &str) -> anyhow::Result<Mount> {
    let (host, container, readonly) = match text.split(':').collect::<Vec<_>>()[..] {
        [host, container] | [host, container, "rw"] => (host, container, false),
        [host, container, "ro"] => (host, container, true),
        [_, _, mode] => bail!("{mode:?} is neither ro nor rw"),
        _ => bail!("write it as HOST:CONTAINER[:ro]"),
    };
    if !container.starts_with('/') {
        bail!("the path in the container is not absolute");
    }
    let host = std::path::absolute(host).context("the path on the host")?;
    let host_path = host
        .to_str()
        .ok_or_else(|| anyhow!("the path on the host is not UTF-8"))?;
    Ok(Mount {
        container_path: container.into(),
        host_path: host_path.into(),
        readonly,
        ..Default::default()
    })
}

/// Reads `[IP:]PORT:PORT[/PROTOCOL]`, the host's port first. An IPv6 address is in brackets.
pub(super) fn port(text: &str) -> anyhow::Result<PortMapping> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        other => bail!("{other:?} is none of tcp, udp and sctp"),
    };
    let form = "write it as [IP:]PORT:PORT[/tcp|udp|sctp], the host's port first";
    let (host, container) = ports.rsplit_once(':').context(form)?;
    let (address, host) = host
        .rsplit_once(':')
        .map_or(("", host), |(ip, port)| (ip, port));
    let address = address.trim_start_matches('[').trim_end_matches(']');
    if !address.is_empty() {
        address
            .parse::<IpAddr>()
            .with_context(|| format!("{address:?}: {form}"))?;
    }
    let number = |text: &str| match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(i32::from(port)),
        _ => Err(anyhow!("{text:?} is not a port: {form}")),
    };
    Ok(PortMapping {
        protocol: protocol.into(),
        container_port: number(container)?,
        host_port: number(host)?,
        host_ip: address.into(),
    })
}

/// Reads a number of bytes with a unit as Kubernetes has them: Ki, Mi, Gi, Ti or k, M, G, T.
pub(super) fn memory(text: &str) -> anyhow::Result<i64> {
    let digits = text
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: i64 = match unit {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => bail!("write it in bytes, or with a unit of Ki, Mi, Gi, Ti, k, M, G or T"),
    };
    let number: i64 = number.parse().context("write it like 64Mi")?;
    number
        .checked_mul(factor)
        .filter(|bytes| *bytes > 0)
        .context("it is out of range")
}

/// A share of the processors, as the kernel's scheduler is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CpuQuota {
    /// Microseconds of processor time in each period.
    pub(super) quota: i64,
    /// Weight against other containers, 1024 for each processor.
    pub(super) shares: i64,
}

/// Microseconds; the kernel's own default.
pub(super) const CPU_PERIOD: i64 = 100_000;

/// Reads a number of processors.
pub(super) fn cpus(text: &str) -> anyhow::Result<CpuQuota> {
    let cpus: f64 = text.parse().context("write it like 0.5")?;
    // The kernel takes no quota under a millisecond, and no machine has a million processors.
    if !(0.01..1e6).contains(&cpus) {
        bail!("it is out of range; the least is 0.01");
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "checked above"
    )]
    let times = |unit: i64| (cpus * unit as f64).round() as i64;
    Ok(CpuQuota {
        quota: times(CPU_PERIOD),
        shares: times(1024).max(2),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_has_kubernetes_units() {
        assert_eq!(memory("64Mi").unwrap(), 64 << 20);
        assert_eq!(memory("1G").unwrap(), 1_000_000_000);
        assert_eq!(memory("4096").unwrap(), 4096);
        for text in ["", "Mi", "64m", "-1", "0", "1.5Gi", "9999999999Ti"] {
            assert!(memory(text).is_err(), "{text}");
        }
    }

    #[test]
    fn processors_may_be_parts() {
        assert_eq!(
            cpus("0.5").unwrap(),
            CpuQuota {
                quota: 50_000,
                shares: 512
            }
        );
        assert_eq!(
            cpus("2").unwrap(),
            CpuQuota {
                quota: 200_000,
                shares: 2048
            }
        );
        for text in ["0", "-1", "NaN", "inf", "two", "1e9"] {
            assert!(cpus(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_port_may_have_an_address_and_a_protocol() {
        let port = |text| {
            super::port(text).map(|port| {
                (
                    port.host_ip.clone(),
                    port.host_port,
                    port.container_port,
                    port.protocol(),
                )
            })
        };
        assert_eq!(
            port("8080:80").unwrap(),
            (String::new(), 8080, 80, Protocol::Tcp)
        );
        assert_eq!(
            port("127.0.0.1:53:5353/udp").unwrap(),
            ("127.0.0.1".into(), 53, 5353, Protocol::Udp)
        );
        assert_eq!(
            port("[::1]:1:2").unwrap(),
            ("::1".into(), 1, 2, Protocol::Tcp)
        );
        for text in [
            "80",
            "0:80",
            "80:0",
            "80:65536",
            "x:80:80",
            "80:80/icmp",
            "",
        ] {
            assert!(port(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_mount_may_be_read_only() {
        let mount = super::mount("/a:/b:ro").unwrap();
        assert_eq!(
            (mount.host_path.as_str(), mount.container_path.as_str()),
            ("/a", "/b")
        );
        assert!(mount.readonly && !super::mount("/a:/b").unwrap().readonly);
        assert!(super::mount("a:/b").unwrap().host_path.starts_with('/'));
        for text in ["/a", "/a:b", "/a:/b:rx", "/a:/b:ro:x", ":/b"] {
            assert!(super::mount(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_user_is_a_number_or_a_name() {
        let number = User {
            user: UserName::Number(1000),
            group: Some(50),
        };
        assert_eq!(user("1000:50").unwrap(), number);
        assert_eq!(
            user("web").unwrap(),
            User {
                user: UserName::Name("web".into()),
                group: None
            }
        );
        for text in ["", ":5", "1:staff"] {
            assert!(user(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_variable_may_be_empty() {
        assert_eq!(environment("A=b=c").unwrap().value, "b=c");
        assert_eq!(environment("A=").unwrap().value, "");
        assert!(environment("A").is_err() && environment("=b").is_err());
    }
}
