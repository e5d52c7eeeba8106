use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::model::{ContainerEdits, Specification};
use crate::{Error, QualifiedName, Result};

/// The devices of a list of directories.
///
/// Of two directories the later one has the say: its devices take the place of those with the same
/// name. Within a directory nothing says which of two devices with one name is meant, so that it
/// is not to be had.
#[derive(Debug, Default)]
pub struct Registry {
    directories: Vec<PathBuf>,
    files: Vec<File>,
    devices: HashMap<QualifiedName, Vec<Place>>,
    damaged: Vec<Damaged>,
}

/// A specification file that cannot be used, or a directory that cannot be read.
#[derive(Debug)]
pub struct Damaged {
    /// Where it is.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    edits: ContainerEdits,
}

#[derive(Debug)]
struct Place {
    /// The index of its file.
    file: usize,
    edits: ContainerEdits,
}

/// A device, with what its file says for each of its devices.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    pub(crate) file: &'a Path,
    pub(crate) of_file: &'a ContainerEdits,
    pub(crate) of_device: &'a ContainerEdits,
}

impl Registry {
    /// Reads the files `*.json` and `*.yaml` of the directories, which need not be there. Blocking.
    pub fn load(directories: &[PathBuf]) -> Self {
        let mut registry = Self {
            directories: directories.to_vec(),
            ..Self::default()
        };
        for directory in directories {
            registry.load_directory(directory);
        }
        registry
    }

    /// What was there and could not be used; its devices are missing.
    pub fn damaged(&self) -> &[Damaged] {
        &self.damaged
    }

    fn load_directory(&mut self, directory: &Path) {
        let mut paths = match specification_files(directory) {
            Ok(paths) => paths,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                self.damaged.push(Damaged {
                    path: directory.to_owned(),
                    problem: error.to_string(),
                });
                return;
            }
        };
        paths.sort();
        let mut devices: HashMap<_, Vec<Place>> = HashMap::new();
        for path in paths {
            let specification = match read(&path) {
                Ok(specification) => specification,
                Err(problem) => {
                    self.damaged.push(Damaged { path, problem });
                    continue;
                }
            };
            for device in specification.devices {
                let name = QualifiedName::new(&specification.kind, &device.name);
                devices.entry(name).or_default().push(Place {
                    file: self.files.len(),
                    edits: device.container_edits,
                });
            }
            self.files.push(File {
                path,
                edits: specification.container_edits,
            });
        }
        self.devices.extend(devices);
    }

    pub(crate) fn find(&self, name: &QualifiedName) -> Result<Found<'_>> {
        let problem = match self.devices.get(name).map(Vec::as_slice) {
            Some([place]) => {
                let file = &self.files[place.file];
                return Ok(Found {
                    file: &file.path,
                    of_file: &file.edits,
                    of_device: &place.edits,
                });
            }
            Some(several) => {
                let files = several.iter().map(|place| &self.files[place.file].path);
                let files: Vec<_> = files.map(|path| path.display().to_string()).collect();
                format!(
                    "{} in the same directory all have it, so that none of them counts",
                    files.join(" and ")
                )
            }
            None => self.why_not_there(),
        };
        Err(Error::Unresolvable {
            name: name.to_string(),
            problem,
        })
    }

    fn why_not_there(&self) -> String {
        let directories = self.directories.iter();
        let directories: Vec<_> = directories.map(|it| it.display().to_string()).collect();
        if directories.is_empty() {
            return "no directory for specification files is configured".to_owned();
        }
        let mut problem = format!(
            "no specification file (*.json, *.yaml) in {} has it",
            directories.join(", ")
        );
        for Damaged {
            path,
            problem: reason,
        } in &self.damaged
        {
            problem.extend([
                "; ",
                &path.display().to_string(),
                " cannot be used: ",
                reason,
            ]);
        }
        problem
    }
}

fn specification_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let known = path
            .extension()
            .is_some_and(|it| it == "json" || it == "yaml");
        if known && !path.is_dir() {
            files.push(path);
        }
    }
    Ok(files)
}

fn read(path: &Path) -> std::result::Result<Specification, String> {
    // Whatever else has such a name, a pipe for example, might never end.
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a file".to_owned());
    }
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    Specification::read(&text, path.extension().is_some_and(|it| it == "yaml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specification(devices: &[(&str, &str)]) -> String {
        let devices: Vec<_> = devices
            .iter()
            .map(|(name, env)| {
                format!(r#"{{"name": "{name}", "containerEdits": {{"env": ["{env}"]}}}}"#)
            })
            .collect();
        let devices = devices.join(", ");
        format!(r#"{{"cdiVersion": "0.6.0", "kind": "v.com/gpu", "devices": [{devices}]}}"#)
    }

    struct Directories(tempfile::TempDir);

    impl Directories {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            for name in ["etc", "run"] {
                fs::create_dir(directory.path().join(name)).unwrap();
            }
            Self(directory)
        }

        fn write(&self, path: &str, text: &str) {
            fs::write(self.0.path().join(path), text).unwrap();
        }

        fn load(&self) -> Registry {
            Registry::load(&["etc", "run", "none"].map(|name| self.0.path().join(name)))
        }
    }

    fn env(registry: &Registry, device: &str) -> String {
        let found = registry.find(&QualifiedName::new("v.com/gpu", device));
        found.unwrap().of_device.env[0].clone()
    }

    fn problem(registry: &Registry, device: &str) -> String {
        let found = registry.find(&QualifiedName::new("v.com/gpu", device));
        found.unwrap_err().to_string()
    }

    #[test]
    fn the_later_directory_has_the_say() {
        let directories = Directories::new();
        directories.write(
            "etc/a.json",
            &specification(&[("0", "A=etc"), ("1", "A=etc")]),
        );
        directories.write("run/b.json", &specification(&[("0", "A=run")]));
        let registry = directories.load();
        assert_eq!(env(&registry, "0"), "A=run");
        assert_eq!(env(&registry, "1"), "A=etc");
        assert!(registry.damaged().is_empty());
    }

    #[test]
    fn two_of_one_name_in_a_directory_are_none() {
        let directories = Directories::new();
        directories.write("etc/a.json", &specification(&[("0", "A=a"), ("1", "A=a")]));
        directories.write("etc/b.json", &specification(&[("0", "A=b"), ("2", "A=b")]));
        let registry = directories.load();
        let said = problem(&registry, "0");
        for word in ["v.com/gpu=0", "etc/a.json and ", "etc/b.json"] {
            assert!(said.contains(word), "{said}");
        }
        assert_eq!(env(&registry, "1"), "A=a");
        assert_eq!(env(&registry, "2"), "A=b");
        // Unless a later directory decides.
        directories.write("run/c.json", &specification(&[("0", "A=c")]));
        assert_eq!(env(&directories.load(), "0"), "A=c");
    }

    #[test]
    fn a_damaged_file_takes_only_its_own_devices_along() {
        let directories = Directories::new();
        directories.write("etc/a.json", &specification(&[("0", "A=a")]));
        directories.write("etc/b.json", "{");
        directories.write("etc/c.yaml", "cdiVersion: 9.9.9\nkind: v/c\ndevices: []\n");
        directories.write("etc/d.txt", "{");
        fs::create_dir(directories.0.path().join("etc/e.json")).unwrap();
        let pipe = directories.0.path().join("run/f.json");
        let mode = rustix::fs::Mode::RUSR;
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
        let registry = directories.load();
        assert_eq!(env(&registry, "0"), "A=a");
        let damaged = registry.damaged().iter();
        let damaged: Vec<_> = damaged.map(|it| it.path.file_name().unwrap()).collect();
        assert_eq!(damaged, ["b.json", "c.yaml", "f.json"]);
        let said = problem(&registry, "1");
        for word in [
            "etc, ",
            "run, ",
            "none has it",
            "b.json",
            "9.9.9",
            "not a file",
        ] {
            assert!(said.contains(word), "{said}");
        }
        assert!(problem(&Registry::load(&[]), "1").contains("no directory"));
    }
}
