//! Which model made the vectors of a collection.

use std::fmt;

use crate::error::{Error, Result};

/// Most parts an [`EmbedderId`] can have.
pub const MAX_EMBEDDER_PARTS: usize = 16;
/// Most bytes of its name, and of the name of a part: one byte says how many.
const MAX_NAME: usize = 255;

/// Identifies what made the vectors of a collection: a name for people, a hash over
/// everything that shapes a vector, and hashes of its parts (the graph, the
/// tokenizer, ...), so that a mismatch can say where it lies. What is hashed is up
/// to whoever embeds; with the feature `embed` one is made `From` an `Embedder`.
///
/// How long the vectors are should not be hashed: the prefix of a vector is searched by the
/// prefix of a query, whoever cut them. [`Self::dims`] says it beside.
///
/// ```
/// use matryo::{Collection, EmbedderId, Schema};
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("a");
/// let model = |prompts| EmbedderId::new("mini", [1; 32]).part("graph", [2; 32]).part("prompts", prompts);
/// let schema = Schema::builder(64).embedder(model([3; 32])).build()?;
/// let collection = Collection::create(&path, schema)?;
/// collection.check_embedder(model([3; 32]))?;
/// let other = EmbedderId::new("mini", [9; 32]).part("graph", [2; 32]).part("prompts", [4; 32]);
/// let refused = collection.check_embedder(other).unwrap_err().to_string();
/// assert!(refused.contains("they differ in prompts"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct EmbedderId {
    pub(super) name: String,
    pub(super) hash: [u8; 32],
    pub(super) parts: Vec<(String, [u8; 32])>,
    /// Of the vectors it is about to make; not recorded, and not compared with another.
    pub(super) dims: Option<usize>,
}

impl PartialEq for EmbedderId {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.hash, &self.parts) == (&other.name, &other.hash, &other.parts)
    }
}

impl Eq for EmbedderId {}

impl EmbedderId {
    /// An embedder without parts.
    pub fn new(name: impl Into<String>, hash: [u8; 32]) -> Self {
        Self { name: name.into(), hash, parts: Vec::new(), dims: None }
    }

    /// Adds a part.
    #[must_use]
    pub fn part(mut self, name: impl Into<String>, hash: [u8; 32]) -> Self {
        self.parts.push((name.into(), hash));
        self
    }

    /// Says how many dimensions the vectors have that it is about to make, so that
    /// [`Collection::check_embedder`](crate::Collection::check_embedder) can compare them
    /// with the collection's. It is not recorded: a schema knows its own.
    #[must_use]
    pub fn dims(mut self, dims: usize) -> Self {
        self.dims = Some(dims);
        self
    }

    /// What people call it; two of different names may be the same.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The hash over all that shapes a vector: what tells two apart.
    pub fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// Names and hashes of its parts, in the order they were added.
    pub fn parts(&self) -> impl Iterator<Item = (&str, &[u8; 32])> {
        self.parts.iter().map(|(name, hash)| (name.as_str(), hash))
    }

    /// Names of the parts that differ, or that only one of the two has.
    pub fn differing_parts<'a>(&'a self, other: &'a Self) -> Vec<&'a str> {
        let lacks = |parts: &[(String, [u8; 32])], part| !parts.contains(part);
        let mine = self.parts.iter().filter(|part| lacks(&other.parts, part));
        let has = |name: &String| self.parts.iter().any(|(mine, _)| mine == name);
        let theirs = other.parts.iter().filter(|(name, _)| !has(name));
        mine.chain(theirs).map(|(name, _)| name.as_str()).collect()
    }

    /// Fails where `other` embeds differently.
    pub(crate) fn check(&self, other: &Self) -> Result<()> {
        if self.hash == other.hash {
            return Ok(());
        }
        let parts = self.differing_parts(other).into_iter().map(str::to_owned).collect();
        Err(Error::OtherEmbedder { stored: self.to_string(), given: other.to_string(), parts })
    }

    /// Fails where its vectors, made by the same embedder, have another length than those
    /// stored.
    pub(super) fn check_dims(&self, stored: usize) -> Result<()> {
        let why = match self.dims {
            Some(given) if given > stored => format!(
                "it is the right one, but gives vectors of {given} dimensions, and the collection \
                 keeps the first {stored} of them: open it with `.dims({stored})`"
            ),
            Some(given) if given < stored => format!(
                "it is the right one, but gives the first {given} dimensions of each vector, and \
                 the collection has {stored}: open it with `.dims({stored})`"
            ),
            _ => return Ok(()),
        };
        Err(Error::invalid("embedder", why))
    }

    pub(super) fn validate(&self) -> Result<()> {
        if self.name.len() > MAX_NAME {
            let why = format!("its name has at most {MAX_NAME} bytes, got {}", self.name.len());
            return Err(Error::invalid("embedder", why));
        }
        if self.parts.len() > MAX_EMBEDDER_PARTS {
            let why = format!("at most {MAX_EMBEDDER_PARTS} parts, got {}", self.parts.len());
            return Err(Error::invalid("embedder", why));
        }
        for (at, (name, _)) in self.parts.iter().enumerate() {
            if !(1..=MAX_NAME).contains(&name.len()) {
                let why = format!("part {name:?} has a name of 1 to {MAX_NAME} bytes");
                return Err(Error::invalid("embedder", why));
            }
            if self.parts[..at].iter().any(|(before, _)| before == name) {
                return Err(Error::invalid("embedder", format!("part {name:?} is there twice")));
            }
        }
        Ok(())
    }
}

impl fmt::Display for EmbedderId {
    /// The name, and enough of the hash to tell two apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} (", self.name)?;
        self.hash[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("..)")
    }
}

impl From<&EmbedderId> for EmbedderId {
    fn from(id: &EmbedderId) -> Self {
        id.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(hash: u8, parts: &[(&str, u8)]) -> EmbedderId {
        let add = |id: EmbedderId, part: &(&str, u8)| id.part(part.0, [part.1; 32]);
        parts.iter().fold(EmbedderId::new("m", [hash; 32]), add)
    }

    #[test]
    fn parts_are_compared_by_name() {
        let a = sample(1, &[("graph", 1), ("prompts", 2), ("dense", 5)]);
        let b = sample(2, &[("prompts", 3), ("graph", 1), ("tokenizer", 4)]);
        assert_eq!(a.differing_parts(&b), ["prompts", "dense", "tokenizer"]);
        assert!(a.differing_parts(&a).is_empty() && a.check(&a).is_ok());
        let renamed = EmbedderId { name: "other".into(), ..a.clone() };
        assert!(a.check(&renamed).is_ok(), "a name is for people");
        let said = a.check(&b).expect_err("another").to_string();
        assert!(said.contains("\"m\" (010101010101..)"), "{said}");
        let vague = sample(3, &[]).check(&sample(4, &[])).expect_err("another").to_string();
        assert!(!vague.contains("differ in"), "{vague}");
    }

    #[test]
    fn the_length_of_vectors_is_no_part_of_what_made_them() {
        let a = sample(1, &[("graph", 1)]);
        assert!(a == a.clone().dims(64) && a.check(&a.clone().dims(64)).is_ok());
        assert!(a.check_dims(8).is_ok() && a.clone().dims(8).check_dims(8).is_ok());
        let said = a.clone().dims(64).check_dims(8).expect_err("too long").to_string();
        assert!(said.contains("64") && said.contains("`.dims(8)`"), "{said}");
        assert!(a.dims(4).check_dims(8).is_err());
    }

    #[test]
    fn impossible_embedders_are_refused() {
        let refused = |id: EmbedderId| id.validate().expect_err("must be refused").to_string();
        assert!(refused(sample(1, &[("a", 1), ("a", 1)])).contains("twice"));
        assert!(refused(sample(1, &[("", 1)])).contains("1 to 255"));
        assert!(refused(EmbedderId::new("x".repeat(256), [0; 32])).contains("got 256"));
        let many: Vec<String> = (0..17).map(|n| n.to_string()).collect();
        let many: Vec<_> = many.iter().map(|name| (name.as_str(), 1)).collect();
        assert!(sample(1, &many[..16]).validate().is_ok());
        assert!(refused(sample(1, &many)).contains("got 17"));
    }
}
