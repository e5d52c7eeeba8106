//! containerd's files, with what Docker and dockershim were told.

use std::path::{Path, PathBuf};
use std::slice;

use toml_edit::{DocumentMut, Item, Table, TableLike, Value, value};

use super::cni::{self, Cni};
use super::files::Files;
use super::runtime::{Wanted, array, document, set, table};
use super::{Error, Settings, hosts};

pub(super) const MAIN: &str = "/etc/containerd/config.toml";

/// Where packages have their files.
const OF_PACKAGES: [&str; 2] = ["/usr", "/lib"];

/// Changes them; says what people have to know of it.
pub(super) fn change(files: &mut Files<'_>, wanted: &Wanted<'_>) -> Result<Vec<String>, Error> {
    let mut configuration = Configuration::read(files, &wanted.imported)?;
    configuration.enable_cri();
    configuration.cgroups(wanted.systemd_cgroups);
    if let Some(image) = wanted.pause_image {
        let file = configuration.file_of(Part::Images);
        let keys = file.plugins.pause_image;
        file.say(Part::Images, keys, image.into());
    }
    configuration.registries(wanted.docker)?;
    let left_out = configuration.cni(files, &wanted.cni)?;
    let imported = configuration.write(files)?;
    hosts::change(files, wanted.docker)?;
    Ok(left_out.into_iter().chain(imported).collect())
}

/// containerd's file and those that it imports, in the order in which they are read.
struct Configuration(Vec<File>);

struct File {
    path: PathBuf,
    before: String,
    document: DocumentMut,
    plugins: Plugins,
}

impl Configuration {
    fn read(files: &mut Files<'_>, imported: &[PathBuf]) -> Result<Self, Error> {
        let mut all: Vec<File> = Vec::new();
        for path in [PathBuf::from(MAIN)].iter().chain(imported) {
            let mut document = match files.read(path)? {
                Some(source) => document(path, &source)?,
                None => DocumentMut::new(),
            };
            let before = document.to_string();
            let plugins = match all.first() {
                Some(main) => Plugins::of_imported(document.as_table(), main.plugins),
                None => Plugins::of(document.as_table_mut()),
            };
            let path = path.clone();
            all.push(File {
                path,
                before,
                document,
                plugins,
            });
        }
        Ok(Self(all))
    }

    /// The file whose word on a part counts: the last one that has it. Up to containerd 1.7 that
    /// stands for all that files before it say of the part, and from 2.0 on for the keys that it has.
    fn file_of(&mut self, part: Part) -> &mut File {
        let has = |file: &File| file.said(part, &[]).is_some();
        let last = self.0.iter().rposition(has);
        &mut self.0[last.unwrap_or(0)]
    }

    /// The last word on keys of a part.
    fn said(&self, part: Part, keys: &[&str]) -> Option<&Item> {
        let mut files = self.0.iter().rev();
        files.find_map(|file| file.said(part, keys))
    }

    /// What one file switches off, no other switches on.
    fn enable_cri(&mut self) {
        for file in &mut self.0 {
            let disabled = file.document.get_mut("disabled_plugins");
            let Some(disabled) = disabled.and_then(Item::as_array_mut) else {
                continue;
            };
            disabled.retain(|plugin| {
                let name = plugin.as_str().unwrap_or_default();
                name.split('.').all(|part| part != "cri")
            });
        }
    }

    fn cgroups(&mut self, systemd: bool) {
        let file = self.file_of(Part::Runtime);
        let runc = ["containerd", "runtimes", "runc"];
        let runtime = file.table(Part::Runtime, &runc);
        if !runtime.contains_key("runtime_type") {
            runtime.insert("runtime_type", value("io.containerd.runc.v2"));
        }
        let keys = [&runc[..], &["options", "SystemdCgroup"]].concat();
        file.say(Part::Runtime, &keys, systemd.into());
    }

    fn registries(&mut self, docker: &Settings) -> Result<(), Error> {
        if !docker.has_registries() && docker.certificates.is_empty() {
            return Ok(());
        }
        for file in &self.0 {
            let registry = file.said(Part::Images, &["registry"]);
            let registry = registry.and_then(Item::as_table_like);
            if let Some(key) = registry.and_then(hosts::instead_of_hosts) {
                let path = file.path.clone();
                return Err(Error::InsteadOfHosts { path, key });
            }
        }
        let keys = ["registry", "config_path"];
        let is = self.said(Part::Images, &keys).and_then(Item::as_str);
        let directories = hosts::directories(is.unwrap_or_default(), docker);
        self.file_of(Part::Images)
            .say(Part::Images, &keys, directories.into());
        Ok(())
    }

    /// Where CNI's files are; what is left out of that.
    fn cni(&mut self, files: &Files<'_>, cni: &Cni) -> Result<Option<String>, Error> {
        if cni.is_in_use {
            self.say_directory("conf_dir", cni.directory(), cni::CONFIGURATIONS);
        }
        let directories = cni.directories();
        let now = self.plugin_directories();
        // Somebody may have made it ready: then its own have what the network needs.
        let lacking = |directories| cni.lacking(files, directories).len();
        if !cni.is_in_use && lacking(&directories) >= lacking(&now) {
            return Ok(None);
        }
        if self.has_list() {
            if now != directories {
                let file = self.file_of(Part::Runtime);
                let directories = array(&directories).into();
                file.say(Part::Runtime, &["cni", "bin_dirs"], directories);
            }
            return Ok(None);
        }
        let one = one_of(files, cni)?;
        self.say_directory("bin_dir", &one, cni::PLUGINS);
        let mut others = directories;
        others.retain(|directory| *directory != one);
        Ok((!others.is_empty()).then(|| {
            format!(
                "containerd looks for CNI's plugins in one directory (bin_dir): that is {one}, and {}, with nothing else that the network needs, is left out",
                others.join(", ")
            )
        }))
    }

    /// Where CNI's plugins are looked for.
    fn plugin_directories(&self) -> Vec<String> {
        let said = |key| self.said(Part::Runtime, &["cni", key]);
        if let Some(list) = said("bin_dirs").and_then(Item::as_array) {
            let all = list.iter().filter_map(Value::as_str);
            return all.map(str::to_string).collect();
        }
        let one = said("bin_dir").and_then(Item::as_str);
        vec![one.unwrap_or(cni::PLUGINS).to_string()]
    }

    /// Whether they are said as a list, which containerd has from 2.1 on, and takes no pods with both.
    fn has_list(&self) -> bool {
        let says = |key| self.said(Part::Runtime, &["cni", key]).is_some();
        says("bin_dirs") || !says("bin_dir") && self.0[0].plugins.has_list_alone
    }

    /// Says a directory of CNI's where a file says another one, or all say nothing and it is not the
    /// usual one.
    fn say_directory(&mut self, key: &str, wanted: &str, usual: &str) {
        let keys = ["cni", key];
        let is = |item: Option<&Item>, directory: &str| {
            let said = item.and_then(Item::as_str);
            said.is_some_and(|said| said.trim_end_matches('/') == directory.trim_end_matches('/'))
        };
        let nobody_says = self.said(Part::Runtime, &keys).is_none();
        let file = self.file_of(Part::Runtime);
        let is_said = is(file.said(Part::Runtime, &keys), wanted);
        let goes_without = nobody_says && wanted.trim_end_matches('/') == usual;
        if !(is_said || goes_without) {
            file.say(Part::Runtime, &keys, wanted.into());
        }
    }

    /// Writes those that are changed; says which of them are not containerd's own.
    fn write(self, files: &mut Files<'_>) -> Result<Vec<String>, Error> {
        let mut remarks = Vec::new();
        for file in self.0 {
            let text = file.document.to_string();
            if text == file.before {
                continue;
            }
            let path = file.path;
            if OF_PACKAGES.iter().any(|above| path.starts_with(above)) {
                return Err(Error::ImportOfPackage { path });
            }
            if path != Path::new(MAIN) {
                remarks.push(format!(
                    "{} is imported by {MAIN} and overrules it, so it is changed there: whatever writes that file has to leave it so",
                    path.display()
                ));
            }
            files.write(&path, text.into_bytes())?;
        }
        Ok(remarks)
    }
}

/// The directory that has all plugins of several.
///
/// # Errors
///
/// [`Error::PluginsApart`] where none has.
fn one_of(files: &Files<'_>, cni: &Cni) -> Result<String, Error> {
    let directories = cni.directories();
    let nowhere = cni.lacking(files, &directories);
    let lacking = |directory: &String| {
        let mut lacking = cni.lacking(files, slice::from_ref(directory));
        lacking.retain(|plugin| !nowhere.contains(plugin));
        lacking
    };
    let each = directories.iter().map(|one| (one, lacking(one)));
    match each.min_by_key(|(_, lacking)| lacking.len()) {
        Some((one, lacking)) if lacking.is_empty() => Ok(one.clone()),
        Some((one, lacking)) => Err(Error::PluginsApart {
            directory: one.clone(),
            lacking: lacking.into_iter().map(str::to_string).collect(),
            directories: directories.clone(),
        }),
        None => Ok(cni::PLUGINS.to_string()),
    }
}

impl File {
    fn said(&self, part: Part, keys: &[&str]) -> Option<&Item> {
        let root: &dyn TableLike = self.document.as_table();
        let plugin = root.get("plugins")?.as_table_like()?;
        let item = plugin.get(self.plugins.name(part))?;
        keys.iter()
            .try_fold(item, |item, key| item.as_table_like()?.get(key))
    }

    fn say(&mut self, part: Part, keys: &[&str], wanted: Value) {
        if let Some((key, above)) = keys.split_last() {
            set(self.table(part, above), key, wanted);
        }
    }

    fn table(&mut self, part: Part, keys: &[&str]) -> &mut dyn TableLike {
        let plugin = ["plugins", self.plugins.name(part)];
        let keys = [&plugin[..], keys].concat();
        table(self.document.as_table_mut(), &keys)
    }
}

/// A part of the CRI plugin's settings.
#[derive(Clone, Copy)]
enum Part {
    Runtime,
    Images,
}

/// Where the version of a file has the CRI plugin's settings.
#[derive(Clone, Copy)]
struct Plugins {
    runtime: &'static str,
    images: &'static str,
    /// In `images`.
    pause_image: &'static [&'static str],
    /// Whether `bin_dir` is what older files say.
    has_list_alone: bool,
}

impl Plugins {
    const FIRST: Self = Self {
        runtime: "cri",
        images: "cri",
        pause_image: &["sandbox_image"],
        has_list_alone: false,
    };
    const SECOND: Self = Self {
        runtime: "io.containerd.grpc.v1.cri",
        images: "io.containerd.grpc.v1.cri",
        ..Self::FIRST
    };
    const THIRD: Self = Self {
        runtime: "io.containerd.cri.v1.runtime",
        images: "io.containerd.cri.v1.images",
        pause_image: &["pinned_images", "sandbox"],
        has_list_alone: false,
    };
    const FOURTH: Self = Self {
        has_list_alone: true,
        ..Self::THIRD
    };

    /// A file that says nothing of its version and of plugins becomes one of version 2, which all
    /// that are in use read.
    fn of(root: &mut Table) -> Self {
        let said = Self::of_version(root);
        if said.is_none() && root.contains_key("plugins") {
            return Self::FIRST;
        }
        said.unwrap_or_else(|| {
            root.insert("version", value(2));
            Self::SECOND
        })
    }

    /// One that says nothing of its version is of the file's that imports it.
    fn of_imported(root: &Table, main: Self) -> Self {
        Self::of_version(root).unwrap_or(main)
    }

    fn of_version(root: &Table) -> Option<Self> {
        match root.get("version").and_then(Item::as_integer)? {
            4.. => Some(Self::FOURTH),
            3 => Some(Self::THIRD),
            2 => Some(Self::SECOND),
            _ => None,
        }
    }

    fn name(&self, part: Part) -> &'static str {
        match part {
            Part::Runtime => self.runtime,
            Part::Images => self.images,
        }
    }
}
