//! A configuration list carried out for one pod (CNI specification, sections 3 and 4).

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use serde_json::{Map, Value, json};

use crate::attachment::Attachment;
use crate::conflist::{Conflist, Element};
use crate::plugin::{Call, Command, Plugin};
use crate::{Config, Error, result};

/// The plugins of a list, all of them found.
pub(crate) struct Chain<'a> {
    config: &'a Config,
    list: &'a Conflist,
    plugins: Vec<(&'a Element, Plugin)>,
}

/// The pod that a chain is carried out for.
pub(crate) struct Pod<'a> {
    pub(crate) attachment: &'a Attachment,
    /// Its network namespace; empty when there is none any more.
    pub(crate) netns: &'a Path,
    /// What plugins read their configuration from; see [`Call::input`].
    pub(crate) input: &'a File,
}

impl<'a> Chain<'a> {
    /// Looks up the list's plugins; `file` is only for the message.
    pub(crate) fn find(config: &'a Config, list: &'a Conflist, file: &Path) -> Result<Self, Error> {
        let find = |element: &'a Element| {
            let plugin = Plugin::find(&element.kind, &config.bin_dirs);
            plugin
                .map(|plugin| (element, plugin))
                .ok_or_else(|| Error::PluginMissing {
                    network: list.name.clone(),
                    file: file.to_owned(),
                    plugin: element.kind.clone(),
                    searched: config.bin_dirs.clone(),
                })
        };
        let plugins = list.plugins.iter().map(find).collect::<Result<_, _>>()?;
        Ok(Self {
            config,
            list,
            plugins,
        })
    }

    /// Calls ADD of each plugin in order; `progress` is told each one's result. The last result is
    /// the chain's.
    pub(crate) fn add(
        &self,
        pod: &Pod<'_>,
        mut progress: impl FnMut(&Value) -> Result<(), Error>,
    ) -> Result<Value, Error> {
        let mut previous = None;
        for (element, plugin) in &self.plugins {
            let mut result = self.call(Command::Add, pod, element, plugin, previous.as_ref())?;
            result::stamp(&mut result, self.list.version);
            progress(&result)?;
            previous = Some(result);
        }
        Ok(previous.unwrap_or_default())
    }

    /// Calls DEL of each plugin in reverse order, and stops at the first that fails: what it still
    /// holds may depend on those before it, such as a forwarded port on an address.
    pub(crate) fn delete(&self, pod: &Pod<'_>, result: Option<&Value>) -> Result<(), Error> {
        let result = result.filter(|_| self.list.version.gives_delete_the_result());
        for (element, plugin) in self.plugins.iter().rev() {
            self.call(Command::Del, pod, element, plugin, result)?;
        }
        Ok(())
    }

    fn call(
        &self,
        command: Command,
        pod: &Pod<'_>,
        element: &Element,
        plugin: &Plugin,
        previous: Option<&Value>,
    ) -> Result<Value, Error> {
        let started = Instant::now();
        let span = tracing::trace_span!(
            target: "otel",
            "CNI plugin",
            otel.name = format!("{command} {}", element.kind),
        );
        let _within = span.enter();
        let outcome = plugin.call(&Call {
            command,
            container: &pod.attachment.pod_id,
            netns: pod.netns,
            arguments: &pod.attachment.arguments(),
            bin_dirs: &self.config.bin_dirs,
            configuration: &configuration(self.list, element, pod.attachment, previous),
            input: pod.input,
            timeout: self.config.timeout(),
        });
        tracing::debug!(
            pod = pod.attachment.pod_id,
            network = self.list.name,
            plugin = element.kind,
            %command,
            microseconds = started.elapsed().as_micros(),
            succeeded = outcome.is_ok(),
            "CNI plugin"
        );
        outcome.map_err(|failure| Error::Plugin {
            network: self.list.name.clone(),
            plugin: element.kind.clone(),
            command,
            failure: Box::new(failure),
        })
    }
}

/// What a plugin reads: its section of the list, with what the runtime adds to it.
fn configuration(
    list: &Conflist,
    element: &Element,
    attachment: &Attachment,
    previous: Option<&Value>,
) -> Value {
    let mut configuration = element.section.clone();
    configuration.insert("name".into(), json!(list.name));
    configuration.insert("cniVersion".into(), json!(list.version.as_str()));
    let parameters: Map<String, Value> = element
        .capabilities
        .iter()
        .filter_map(|name| Some((name.clone(), attachment.capability(name)?)))
        .collect();
    if !parameters.is_empty() {
        configuration.insert("runtimeConfig".into(), Value::Object(parameters));
    }
    if let Some(previous) = previous {
        configuration.insert("prevResult".into(), previous.clone());
    }
    Value::Object(configuration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PortMapping, Protocol};

    #[test]
    fn a_plugin_gets_only_the_parameters_that_it_declares() {
        let list: Conflist = serde_json::from_value(json!({
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [
                {"type": "bridge", "mtu": 1400, "name": "overridden"},
                {"type": "portmap", "capabilities": {"portMappings": true, "dns": false}},
            ],
        }))
        .expect("a valid list");
        let attachment = Attachment {
            port_mappings: vec![PortMapping {
                protocol: Protocol::Tcp,
                container_port: 80,
                host_port: 8080,
                host_ip: None,
            }],
            dns: Some(crate::Dns::default()),
            ..Attachment::default()
        };
        assert_eq!(
            configuration(&list, &list.plugins[0], &attachment, None),
            json!({"type": "bridge", "mtu": 1400, "name": "pods", "cniVersion": "1.0.0"}),
        );
        let previous = json!({"ips": []});
        assert_eq!(
            configuration(&list, &list.plugins[1], &attachment, Some(&previous)),
            json!({
                "type": "portmap", "name": "pods", "cniVersion": "1.0.0",
                "capabilities": {"portMappings": true, "dns": false},
                "runtimeConfig": {"portMappings": [
                    {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
                ]},
                "prevResult": {"ips": []},
            }),
        );
    }
}
