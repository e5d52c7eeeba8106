//! The node's range of pod addresses: from the kubelet into a configuration, by a template.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::Path;

use crate::catalog::{Catalog, read};
use crate::conflist::Conflist;
use crate::template::{Template, Value};
use crate::{Config, Error};

/// The configuration that is made of the template.
pub(crate) const FILE: &str = "10-slipway-net.conflist";

/// Ranges of addresses as a kubelet writes them: one, or one for each family with a comma between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodCidrs(Vec<Cidr>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Cidr {
    text: String,
    address: IpAddr,
}

impl PodCidrs {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let cidrs: Option<_> = text.split(',').map(|one| Cidr::parse(one.trim())).collect();
        cidrs.map(Self).ok_or_else(|| Error::PodCidr {
            given: text.to_owned(),
        })
    }

    /// The default route of each family that is there, IPv4 first.
    fn routes(&self) -> Vec<String> {
        let has = |v4: bool| self.0.iter().any(|cidr| cidr.address.is_ipv4() == v4);
        [(true, "0.0.0.0/0"), (false, "::/0")]
            .into_iter()
            .filter(|(v4, _)| has(*v4))
            .map(|(_, route)| route.to_owned())
            .collect()
    }
}

impl Cidr {
    fn parse(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
        let length: u8 = length.parse().ok().filter(|_| digits)?;
        (length <= longest).then(|| Self {
            text: text.to_owned(),
            address,
        })
    }
}

/// Writes the configuration for `cidrs`, unless another one than ours is in force: a network add-on
/// that brings its own needs no template. Blocking.
pub(crate) fn apply(config: &Config, catalog: &Catalog, cidrs: &PodCidrs) -> Result<(), Error> {
    let Some(template) = &config.conf_template else {
        tracing::info!(
            "there is no network.conf_template: the pod CIDR is left to network add-ons"
        );
        return Ok(());
    };
    let file = config.conf_dir.join(FILE);
    if let Ok(selected) = catalog.selected()
        && selected.file != file
    {
        tracing::info!(
            in_force = %selected.file.display(),
            "the pod CIDR is not written into a configuration: there is another one"
        );
        return Ok(());
    }
    let content = render(template, &file, cidrs)?;
    if fs::read(&file).is_ok_and(|present| present == content.as_bytes()) {
        return Ok(());
    }
    let written = fs::create_dir_all(&config.conf_dir).and_then(|()| replace(&file, &content));
    written.map_err(|source| Error::Cache {
        action: "write",
        path: file.clone(),
        source,
    })?;
    tracing::info!(file = %file.display(), "CNI configuration written from the template");
    Ok(())
}

fn render(template: &Path, file: &Path, cidrs: &PodCidrs) -> Result<String, Error> {
    let bad = |reason: String| Error::Template {
        file: template.to_owned(),
        reason,
    };
    let text = read(template).map_err(bad)?;
    let text = String::from_utf8(text).map_err(|_| bad("it is not UTF-8".to_owned()))?;
    let ranges: Vec<_> = cidrs.0.iter().map(|cidr| cidr.text.clone()).collect();
    let content = Template::parse(&text)
        .and_then(|template| {
            template.render(&[
                ("PodCIDR", Value::Text(&ranges[0])),
                ("PodCIDRRanges", Value::List(&ranges)),
                ("Routes", Value::List(&cidrs.routes())),
            ])
        })
        .map_err(|complaint| bad(complaint.to_string()))?;
    Conflist::parse(file, content.as_bytes()).map_err(|reason| {
        bad(format!(
            "what it becomes is no configuration list: {reason}"
        ))
    })?;
    Ok(content)
}

/// Puts a whole file in the place of another: a reader sees one of the two.
fn replace(file: &Path, content: &str) -> io::Result<()> {
    let temporary = file.with_extension("conflist.new");
    let mut new = File::create(&temporary)?;
    new.write_all(content.as_bytes())?;
    new.sync_all()?;
    fs::rename(&temporary, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the peers' documentation gives as an example, for two families.
    const TEMPLATE: &str = r#"{
  "name": "pods",
  "cniVersion": "1.0.0",
  "plugins": [
    {
      "type": "bridge",
      "ipam": {
        "type": "host-local",
        "subnet": "{{.PodCIDR}}",
        "ranges": [{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}],
        "routes": [{{range $i, $route := .Routes}}{{if $i}}, {{end}}{"dst": "{{$route}}"}{{end}}]
      }
    }
  ]
}
"#;

    struct Node {
        directory: tempfile::TempDir,
        config: Config,
    }

    impl Node {
        fn new(template: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("template");
            fs::write(&path, template).unwrap();
            let config = Config {
                conf_dir: directory.path().join("net.d"),
                conf_template: Some(path),
                ..Config::default()
            };
            Self { directory, config }
        }

        fn apply(&self, cidrs: &str) -> Result<(), Error> {
            let catalog = Catalog::new(self.config.conf_dir.clone());
            apply(&self.config, &catalog, &PodCidrs::parse(cidrs)?)
        }

        fn written(&self) -> serde_json::Value {
            let content = fs::read(self.config.conf_dir.join(FILE)).unwrap();
            serde_json::from_slice(&content).unwrap()
        }
    }

    #[test]
    fn both_families_are_written_and_a_later_range_replaces_them() {
        let node = Node::new(TEMPLATE);
        node.apply("10.1.0.0/24, fd00:1::/64").unwrap();
        let ipam = &node.written()["plugins"][0]["ipam"];
        assert_eq!(ipam["subnet"], "10.1.0.0/24");
        assert_eq!(
            ipam["ranges"],
            serde_json::json!([[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]])
        );
        assert_eq!(
            ipam["routes"],
            serde_json::json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}])
        );
        node.apply("10.2.0.0/24").unwrap();
        let ipam = &node.written()["plugins"][0]["ipam"];
        assert_eq!(ipam["subnet"], "10.2.0.0/24");
        assert_eq!(ipam["routes"], serde_json::json!([{"dst": "0.0.0.0/0"}]));
        let names: Vec<_> = fs::read_dir(&node.config.conf_dir).unwrap().collect();
        assert_eq!(names.len(), 1, "nothing else is left");
    }

    #[test]
    fn the_configuration_of_a_network_add_on_stays_in_force() {
        let node = Node::new(TEMPLATE);
        fs::create_dir(&node.config.conf_dir).unwrap();
        let other = r#"{"cniVersion": "1.0.0", "name": "other", "plugins": [{"type": "x"}]}"#;
        fs::write(node.config.conf_dir.join("50-other.conflist"), other).unwrap();
        node.apply("10.1.0.0/24").unwrap();
        assert!(!node.config.conf_dir.join(FILE).exists());
    }

    #[test]
    fn what_is_wrong_is_named_and_nothing_is_written() {
        let says = |template: &str, cidrs: &str, words: &[&str]| {
            let node = Node::new(template);
            let error = node.apply(cidrs).unwrap_err().to_string();
            for word in words {
                assert!(error.contains(word), "{word:?} is not in: {error}");
            }
            assert!(!node.config.conf_dir.join(FILE).exists());
            drop(node.directory);
        };
        for cidr in [
            "",
            "10.1.0.0",
            "10.1.0.0/33",
            "fd00::/129",
            "x/8",
            "10.0.0.0/+8",
            "a,b",
        ] {
            says(TEMPLATE, cidr, &["pod_cidr", &format!("{cidr:?}")]);
        }
        says(
            "\n{{.PodCidr}}",
            "10.1.0.0/24",
            &["template", "line 2", ".PodCIDR"],
        );
        says(
            "{}",
            "10.1.0.0/24",
            &["template", "no configuration list", "name"],
        );
        let missing = Node::new("");
        fs::remove_file(missing.config.conf_template.as_ref().unwrap()).unwrap();
        let error = missing.apply("10.1.0.0/24").unwrap_err().to_string();
        assert!(error.contains("cannot be read"), "{error}");
    }

    #[test]
    fn without_a_template_there_is_nothing_to_do() {
        let mut node = Node::new("");
        node.config.conf_template = None;
        node.apply("10.1.0.0/24").unwrap();
        assert!(!node.config.conf_dir.exists());
        node.apply("nonsense").unwrap_err();
    }
}
