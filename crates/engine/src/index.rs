//! Pods or containers, found by id, by the beginning of an id, and unique by name.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::hash::Hash;
use std::sync::{Arc, PoisonError, RwLock};

use crate::{Error, Result};

/// What an engine knows of one kind: entries by id, and the names that they hold.
///
/// A name is reserved before the work of making an entry begins, so that two requests with one
/// name never both do it; the [`Reservation`] gives the name back unless it is turned into an
/// entry. No lock is held while anybody works.
#[derive(Debug)]
pub struct Index<N, T> {
    /// "pod" or "container", for messages.
    what: &'static str,
    tables: RwLock<Tables<N, T>>,
}

#[derive(Debug)]
struct Tables<N, T> {
    entries: BTreeMap<String, (N, Arc<T>)>,
    /// The id that holds a name, also while its entry is being made.
    names: HashMap<N, String>,
}

/// A name that is taken for an entry that is being made.
#[derive(Debug)]
#[must_use = "dropping it gives the name back"]
pub struct Reservation<N: Clone + Eq + Hash, T> {
    index: Arc<Index<N, T>>,
    name: N,
    id: String,
}

impl<N: Clone + Eq + Hash + Display, T> Index<N, T> {
    /// An empty index of things called `what` ("pod", "container").
    pub fn new(what: &'static str) -> Self {
        let tables = Tables {
            entries: BTreeMap::new(),
            names: HashMap::new(),
        };
        Self {
            what,
            tables: RwLock::new(tables),
        }
    }

    /// Takes a name for an entry that is about to be made under `id`.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::AlreadyExists`] with the id that holds the name.
    pub fn reserve(self: &Arc<Self>, name: N, id: &str) -> Result<Reservation<N, T>> {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(holder) = tables.names.get(&name) {
            let state = if tables.entries.contains_key(holder) {
                ""
            } else {
                ", being made"
            };
            return Err(Error::already_exists(format!(
                "{} {name} exists already as {holder}{state}; remove it first or use the next \
                 attempt number",
                self.what
            )));
        }
        tables.names.insert(name.clone(), id.to_owned());
        Ok(Reservation {
            index: Arc::clone(self),
            name,
            id: id.to_owned(),
        })
    }

    /// Makes an entry, or replaces what is known of it: for those whose ids and names somebody else
    /// gives.
    pub fn put(&self, name: N, id: &str, entry: Arc<T>) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let before = tables
            .entries
            .insert(id.to_owned(), (name.clone(), entry))
            .map(|(name, _)| name)
            .filter(|before| *before != name);
        if let Some(before) = before {
            tables.names.remove(&before);
        }
        tables.names.insert(name, id.to_owned());
    }

    /// The entry with this id, or with the only id that begins so.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::NotFound`] when there is none, [`crate::Kind::InvalidArgument`] when the
    /// id is empty or several ids begin so.
    pub fn get(&self, id: &str) -> Result<Arc<T>> {
        self.find(id)?
            .ok_or_else(|| Error::not_found(format!("there is no {} {id} on this node", self.what)))
    }

    /// Like [`Index::get`], with none where there is no such entry.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::InvalidArgument`] when the id is empty or several ids begin so.
    pub fn find(&self, id: &str) -> Result<Option<Arc<T>>> {
        if id.is_empty() {
            return Err(Error::invalid(format!("the {} id is empty", self.what)));
        }
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, entry)) = tables.entries.get(id) {
            return Ok(Some(Arc::clone(entry)));
        }
        let mut candidates = tables
            .entries
            .range(id.to_owned()..)
            .take_while(|(candidate, _)| candidate.starts_with(id));
        match (candidates.next(), candidates.next()) {
            (Some((_, (_, entry))), None) => Ok(Some(Arc::clone(entry))),
            (None, _) => Ok(None),
            (Some((one, _)), Some((other, _))) => Err(Error::invalid(format!(
                "{} id {id} is ambiguous: {one} and {other} begin so; give more digits",
                self.what
            ))),
        }
    }

    /// The entry that has a name.
    pub fn named(&self, name: &N) -> Option<Arc<T>> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let id = tables.names.get(name)?;
        tables.entries.get(id).map(|(_, entry)| Arc::clone(entry))
    }

    /// Every entry, ordered by id.
    pub fn all(&self) -> Vec<Arc<T>> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        tables
            .entries
            .values()
            .map(|(_, entry)| Arc::clone(entry))
            .collect()
    }

    /// Forgets an entry and frees its name; an id that is not there is left alone.
    pub fn remove(&self, id: &str) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        if let Some((name, _)) = tables.entries.remove(id)
            && tables.names.get(&name).is_some_and(|holder| holder == id)
        {
            tables.names.remove(&name);
        }
    }
}

impl<N: Clone + Eq + Hash, T> Reservation<N, T> {
    /// Makes the name's entry visible.
    pub fn fill(self, entry: Arc<T>) {
        let mut tables = self
            .index
            .tables
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        tables
            .entries
            .insert(self.id.clone(), (self.name.clone(), entry));
    }
}

impl<N: Clone + Eq + Hash, T> Drop for Reservation<N, T> {
    fn drop(&mut self) {
        let mut tables = self
            .index
            .tables
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if !tables.entries.contains_key(&self.id) {
            tables.names.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Kind;

    fn index(ids: &[&str]) -> Arc<Index<String, String>> {
        let index = Arc::new(Index::new("pod"));
        for id in ids {
            index
                .reserve(format!("name of {id}"), id)
                .unwrap()
                .fill(Arc::new((*id).to_owned()));
        }
        index
    }

    #[test]
    fn a_name_is_held_once_and_given_back() {
        let index = index(&[]);
        let first = index.reserve("web".to_owned(), "a1").unwrap();
        let refused = index.reserve("web".to_owned(), "a2").unwrap_err();
        assert_eq!(refused.kind(), Kind::AlreadyExists);
        assert!(refused.to_string().contains("a1"), "{refused}");
        drop(first);

        index
            .reserve("web".to_owned(), "a2")
            .unwrap()
            .fill(Arc::new("entry".to_owned()));
        assert!(index.reserve("web".to_owned(), "a3").is_err());
        index.remove("a2");
        assert!(index.reserve("web".to_owned(), "a3").is_ok());
    }

    #[test]
    fn an_entry_is_replaced_and_its_old_name_is_free() {
        let index = index(&["a1"]);
        index.put("other".to_owned(), "a1", Arc::new("new".to_owned()));
        assert_eq!(*index.get("a1").unwrap(), "new");
        assert_eq!(index.all().len(), 1);
        assert!(index.reserve("name of a1".to_owned(), "a2").is_ok());
        assert!(index.reserve("other".to_owned(), "a2").is_err());
        index.remove("a1");
        assert!(index.reserve("other".to_owned(), "a2").is_ok());
    }

    #[test]
    fn a_name_that_has_gone_over_to_another_stays_with_it() {
        let index = index(&["a1"]);
        let name = "name of a1".to_owned();
        index.put(name.clone(), "a2", Arc::new("second".to_owned()));
        index.remove("a1");
        assert_eq!(index.named(&name).as_deref(), Some(&"second".to_owned()));
        index.remove("a2");
        assert_eq!(index.named(&name), None);
    }

    #[test]
    fn ids_may_be_abbreviated_while_they_are_unambiguous() {
        let index = index(&["abc1", "abc2", "ab", "def"]);
        assert_eq!(*index.get("de").unwrap(), "def");
        assert_eq!(
            *index.get("ab").unwrap(),
            "ab",
            "a whole id wins over longer ones"
        );
        assert_eq!(index.get("abc").unwrap_err().kind(), Kind::InvalidArgument);
        assert_eq!(index.get("x").unwrap_err().kind(), Kind::NotFound);
        assert_eq!(index.get("").unwrap_err().kind(), Kind::InvalidArgument);
    }

    proptest! {
        #[test]
        fn a_prefix_finds_what_a_scan_finds(
            ids in proptest::collection::btree_set("[abc]{1,4}", 0..12),
            prefix in "[abc]{1,4}",
        ) {
            let index = index(&ids.iter().map(String::as_str).collect::<Vec<_>>());
            let scan: Vec<_> = ids.iter().filter(|id| id.starts_with(&prefix)).collect();
            match index.find(&prefix) {
                Ok(Some(found)) => {
                    prop_assert!(*found == prefix || scan == [&*found]);
                }
                Ok(None) => prop_assert!(scan.is_empty()),
                Err(_) => prop_assert!(scan.len() > 1 && !ids.contains(&prefix)),
            }
        }
    }
}
