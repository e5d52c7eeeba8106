//! What is stored, in memory, and who needs it; the metadata file follows each change.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oci_spec::image::ImageConfiguration;

use crate::Image;
use crate::error::Error;
use crate::metadata::{Changes, Contents, ImageRecord, LayerRecord, Metadata};

/// Fewer digits of an id than this may well be a name.
const PREFIX_LENGTH_MIN: usize = 4;

#[derive(Debug)]
pub(crate) struct Catalogue {
    /// Held for the whole of a change, so that file and memory change in the same order. Nobody
    /// who only reads takes it.
    metadata: Mutex<Metadata>,
    index: Mutex<Index>,
}

/// The state in memory. It is locked for moments only, never while something is waited for.
#[derive(Debug, Default)]
pub(crate) struct Index {
    images: HashMap<String, StoredImage>,
    names: HashMap<String, String>,
    layers: HashMap<String, LayerRecord>,
    /// How often each layer is held, by chain id.
    holds: HashMap<String, usize>,
}

#[derive(Debug)]
struct StoredImage {
    chain_ids: Vec<String>,
    names: BTreeSet<String>,
    config: Arc<ImageConfiguration>,
}

/// What a name or id stands for.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Found {
    Image(String),
    Nothing,
    /// The beginning of several ids.
    Ambiguous,
}

impl Catalogue {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let (metadata, contents) = Metadata::open(path)?;
        let index = Index::new(contents)?;
        Ok(Self {
            metadata: Mutex::new(metadata),
            index: Mutex::new(index),
        })
    }

    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the changes that `plan` derives from the present state to the disk, then makes them
    /// in memory. Blocking.
    pub(crate) fn change(&self, plan: impl FnOnce(&Index) -> Changes) -> Result<(), Error> {
        let mut metadata = self.metadata.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = plan(&self.index());
        if changes == Changes::default() {
            return Ok(());
        }
        let image = match &changes.put_image {
            Some((id, record)) => Some((id.clone(), StoredImage::new(id, record)?)),
            None => None,
        };
        metadata.apply(&changes)?;
        self.index().apply(changes, image);
        Ok(())
    }
}

impl StoredImage {
    fn new(id: &str, record: &ImageRecord) -> Result<Self, Error> {
        let config = serde_json::from_str(&record.config).map_err(|error| Error::Store {
            kind: crate::Kind::Store,
            path: id.into(),
            cause: format!("the stored configuration is malformed: {error}"),
        })?;
        Ok(Self {
            chain_ids: record.chain_ids.clone(),
            names: BTreeSet::new(),
            config: Arc::new(config),
        })
    }
}

impl Index {
    fn new(contents: Contents) -> Result<Self, Error> {
        let mut index = Self {
            layers: contents.layers.into_iter().collect(),
            ..Self::default()
        };
        for (id, record) in contents.images {
            let image = StoredImage::new(&id, &record)?;
            index.images.insert(id, image);
        }
        for (name, id) in &contents.names {
            index.put_name(name, id);
        }
        Ok(index)
    }

    fn apply(&mut self, changes: Changes, image: Option<(String, StoredImage)>) {
        for (chain_id, record) in changes.put_layers {
            self.layers.insert(chain_id, record);
        }
        for chain_id in changes.remove_layers {
            self.layers.remove(&chain_id);
        }
        for id in changes.remove_images {
            self.images.remove(&id);
        }
        for name in changes.remove_names {
            self.names.remove(&name);
        }
        if let Some((id, mut image)) = image {
            if let Some(earlier) = self.images.remove(&id) {
                image.names = earlier.names;
            }
            self.images.insert(id, image);
        }
        for (name, id) in &changes.put_names {
            self.put_name(name, id);
        }
    }

    fn put_name(&mut self, name: &str, id: &str) {
        let Some(image) = self.images.get_mut(id) else {
            return;
        };
        image.names.insert(name.to_owned());
        if let Some(earlier) = self.names.insert(name.to_owned(), id.to_owned())
            && earlier != id
            && let Some(image) = self.images.get_mut(&earlier)
        {
            image.names.remove(name);
        }
    }

    pub(crate) fn images(&self) -> Vec<Image> {
        self.images.keys().filter_map(|id| self.image(id)).collect()
    }

    pub(crate) fn image(&self, id: &str) -> Option<Image> {
        let image = self.images.get(id)?;
        let (repo_digests, repo_tags) = image
            .names
            .iter()
            .cloned()
            .partition(|name| name.contains('@'));
        let layers = image
            .chain_ids
            .iter()
            .filter_map(|chain_id| self.layers.get(chain_id));
        Some(Image {
            id: id.to_owned(),
            repo_tags,
            repo_digests,
            size: layers.map(|layer| layer.bytes).sum(),
            pinned: false,
            config: Arc::clone(&image.config),
        })
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<&String> {
        self.names.get(name)
    }

    /// The image whose id is `hex` or begins with it, or one of whose manifests has this digest: to
    /// runtimes that go by manifests that is an image's id. At least four digits are needed.
    pub(crate) fn by_id(&self, hex: &str) -> Found {
        let whole = format!("sha256:{hex}");
        if self.images.contains_key(&whole) {
            return Found::Image(whole);
        }
        if hex.len() < PREFIX_LENGTH_MIN {
            return Found::Nothing;
        }
        if let Some((_, id)) = self.names.iter().find(|(name, _)| {
            name.split_once('@')
                .is_some_and(|(_, digest)| digest == whole)
        }) {
            return Found::Image(id.clone());
        }
        let mut matching = self.images.keys().filter(|id| id.starts_with(&whole));
        match (matching.next(), matching.next()) {
            (None, _) => Found::Nothing,
            (Some(id), None) => Found::Image(id.clone()),
            (Some(_), Some(_)) => Found::Ambiguous,
        }
    }

    pub(crate) fn chain_ids(&self, image_id: &str) -> Option<&[String]> {
        self.images
            .get(image_id)
            .map(|image| image.chain_ids.as_slice())
    }

    pub(crate) fn layer(&self, chain_id: &str) -> Option<&LayerRecord> {
        self.layers.get(chain_id)
    }

    /// Enters a layer whose directory has just become complete. It is written to the metadata
    /// with the first image that has it.
    pub(crate) fn put_layer(&mut self, chain_id: String, record: LayerRecord) {
        self.layers.insert(chain_id, record);
    }

    pub(crate) fn hold(&mut self, chain_ids: &[String]) {
        for chain_id in chain_ids {
            *self.holds.entry(chain_id.clone()).or_default() += 1;
        }
    }

    /// The counterpart of [`Index::hold`]. True if a layer is now needed by nobody.
    pub(crate) fn release(&mut self, chain_ids: &[String]) -> bool {
        let mut freed = Vec::new();
        for chain_id in chain_ids {
            if let Some(count) = self.holds.get_mut(chain_id) {
                *count -= 1;
                if *count == 0 {
                    self.holds.remove(chain_id);
                    freed.push(chain_id);
                }
            }
        }
        if freed.is_empty() {
            return false;
        }
        let needed = self.needed_by_images();
        freed
            .into_iter()
            .any(|id| self.layers.contains_key(id) && !needed.contains(id.as_str()))
    }

    /// The layers that no image and no hold needs.
    pub(crate) fn unneeded(&self) -> Vec<String> {
        let needed = self.needed_by_images();
        self.layers
            .keys()
            .filter(|id| !needed.contains(id.as_str()) && !self.holds.contains_key(*id))
            .cloned()
            .collect()
    }

    /// Forgets a layer if it is still needed by nobody; true if so.
    pub(crate) fn forget_unneeded(&mut self, chain_id: &str) -> bool {
        !self.holds.contains_key(chain_id)
            && !self
                .images
                .values()
                .any(|image| image.chain_ids.iter().any(|id| id == chain_id))
            && self.layers.remove(chain_id).is_some()
    }

    fn needed_by_images(&self) -> BTreeSet<&str> {
        self.images
            .values()
            .flat_map(|image| &image.chain_ids)
            .map(String::as_str)
            .collect()
    }

    /// Bytes and inodes of all layers.
    pub(crate) fn usage(&self) -> (u64, u64) {
        self.layers.values().fold((0, 0), |(bytes, inodes), layer| {
            (bytes + layer.bytes, inodes + layer.inodes)
        })
    }

    /// The removal of an image with all its names.
    pub(crate) fn removal_of(&self, image_id: &str) -> Changes {
        self.images
            .get(image_id)
            .map_or_else(Changes::default, |image| Changes {
                remove_images: vec![image_id.to_owned()],
                remove_names: image.names.iter().cloned().collect(),
                ..Changes::default()
            })
    }

    /// The layers that may not have reached the disk.
    pub(crate) fn unsynced(&self) -> Vec<String> {
        let unsynced = self
            .layers
            .iter()
            .filter(|(_, layer)| layer.unsynced_since.is_some());
        unsynced.map(|(chain_id, _)| chain_id.clone()).collect()
    }

    /// The records of these layers once they are on the disk.
    pub(crate) fn settled(&self, chain_ids: &[String]) -> Changes {
        let settled = chain_ids.iter().filter_map(|chain_id| {
            let record = self.layers.get(chain_id)?.clone();
            Some((
                chain_id.clone(),
                LayerRecord {
                    unsynced_since: None,
                    ..record
                },
            ))
        });
        Changes {
            put_layers: settled.collect(),
            ..Changes::default()
        }
    }

    /// The layers that are not, or not completely, in their directories: those without one and
    /// those that another boot may have cut off.
    pub(crate) fn incomplete(&self, present: &BTreeSet<String>, boot: &str) -> BTreeSet<String> {
        self.layers
            .iter()
            .filter(|(chain_id, layer)| {
                !present.contains(*chain_id)
                    || layer
                        .unsynced_since
                        .as_deref()
                        .is_some_and(|since| since != boot)
            })
            .map(|(chain_id, _)| chain_id.clone())
            .collect()
    }

    /// The removal of these layers, of the images that need them and of those that need a layer
    /// of which there is no record.
    pub(crate) fn without_layers(&self, gone: &BTreeSet<String>) -> Changes {
        let mut changes = Changes {
            remove_layers: gone.iter().cloned().collect(),
            ..Changes::default()
        };
        for (id, image) in &self.images {
            let missing =
                |chain_id: &String| gone.contains(chain_id) || !self.layers.contains_key(chain_id);
            if image.chain_ids.iter().any(missing) {
                changes.remove_images.push(id.clone());
                changes.remove_names.extend(image.names.iter().cloned());
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(bytes: u64) -> LayerRecord {
        LayerRecord {
            bytes,
            inodes: 1,
            hides_lower: false,
            unsynced_since: None,
        }
    }

    fn image(chain_ids: &[&str]) -> ImageRecord {
        let config = r#"{"architecture":"amd64","os":"linux",
            "rootfs":{"type":"layers","diff_ids":[]}}"#;
        ImageRecord {
            chain_ids: chain_ids.iter().map(ToString::to_string).collect(),
            config: config.into(),
        }
    }

    fn put(catalogue: &Catalogue, id: &str, chain_ids: &[&str], names: &[&str]) {
        catalogue
            .change(|_| Changes {
                put_image: Some((id.into(), image(chain_ids))),
                put_layers: chain_ids
                    .iter()
                    .map(|c| (c.to_string(), layer(10)))
                    .collect(),
                put_names: names
                    .iter()
                    .map(|name| (name.to_string(), id.into()))
                    .collect(),
                ..Changes::default()
            })
            .unwrap();
    }

    #[test]
    fn names_move_and_layers_are_counted_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metadata.redb");
        let catalogue = Catalogue::open(&path).unwrap();
        put(
            &catalogue,
            "sha256:aaaa1",
            &["base", "one"],
            &["r/x:latest", "r/x@sha256:1"],
        );
        put(
            &catalogue,
            "sha256:aaaa2",
            &["base", "two"],
            &["r/x:latest", "r/x@sha256:2222"],
        );
        let check = |index: &Index| {
            let first = index.image("sha256:aaaa1").unwrap();
            assert!(first.repo_tags.is_empty());
            assert_eq!(first.repo_digests, ["r/x@sha256:1"]);
            assert_eq!(first.size, 20);
            assert_eq!(
                index.image("sha256:aaaa2").unwrap().repo_tags,
                ["r/x:latest"]
            );
            assert_eq!(index.usage(), (30, 3));
            assert_eq!(index.by_id("aaaa1"), Found::Image("sha256:aaaa1".into()));
            assert_eq!(index.by_id("2222"), Found::Image("sha256:aaaa2".into()));
            assert_eq!(index.by_id("222"), Found::Nothing);
            assert_eq!(index.by_id("aaaa"), Found::Ambiguous);
            assert_eq!(index.by_id("aaa"), Found::Nothing);
            assert_eq!(index.by_id("bbbb"), Found::Nothing);
        };
        check(&catalogue.index());
        drop(catalogue);
        let catalogue = Catalogue::open(&path).unwrap();
        check(&catalogue.index());
        let held = ["two".to_owned()];
        catalogue.index().hold(&held);
        catalogue.index().hold(&held);
        catalogue
            .change(|index| index.removal_of("sha256:aaaa2"))
            .unwrap();
        let mut index = catalogue.index();
        assert!(index.by_name("r/x:latest").is_none());
        assert!(index.unneeded().is_empty(), "held");
        assert!(!index.release(&held));
        assert!(!index.forget_unneeded("two"));
        assert!(index.release(&held));
        assert_eq!(index.unneeded(), ["two"]);
        assert!(!index.forget_unneeded("base"), "the other image has it");
        assert!(index.forget_unneeded("two"));
    }

    #[test]
    fn layers_of_another_boot_go_with_their_images() {
        let directory = tempfile::tempdir().unwrap();
        let catalogue = Catalogue::open(&directory.path().join("metadata.redb")).unwrap();
        put(&catalogue, "sha256:1", &["base", "cut"], &["a:1"]);
        put(&catalogue, "sha256:2", &["base"], &["a:2"]);
        let cut = LayerRecord {
            unsynced_since: Some("earlier".into()),
            ..layer(1)
        };
        catalogue.index().put_layer("cut".into(), cut);
        let present: BTreeSet<String> = ["base", "cut"].map(String::from).into();
        assert!(catalogue.index().incomplete(&present, "earlier").is_empty());
        let gone = catalogue.index().incomplete(&present, "now");
        assert_eq!(gone, BTreeSet::from(["cut".into()]));
        catalogue
            .change(|index| index.without_layers(&gone))
            .unwrap();
        let ids: Vec<_> = catalogue
            .index()
            .images()
            .into_iter()
            .map(|image| image.id)
            .collect();
        assert_eq!(ids, ["sha256:2"]);
    }
}
