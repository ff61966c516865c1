//! What a collection stores, fixed when it is created.

mod embedder;
mod field;
mod format;
mod metric;

use std::sync::Arc;

pub use embedder::{EmbedderId, MAX_EMBEDDER_PARTS};
pub use field::{Field, FieldKind, MAX_FIELD_NAME, MAX_FIELDS};
pub use metric::Metric;

use crate::encoding::{Bits, Precision, StageCode};
use crate::error::{Error, Result, VectorError};
use crate::kernel::row;
use crate::types::IdKind;

/// Most dimensions a vector can have.
pub const MAX_DIMS: usize = 65_535;
/// Most granularities a schema can name.
pub const MAX_GRANULARITIES: usize = 16;
/// Most stage codes a schema can have.
pub const MAX_STAGES: usize = 16;

/// What a collection stores: dimensions, metric, granularities, stored
/// precision, kind of ids, the stage codes, the payload fields that filters can ask
/// about, and, if it is recorded, what made the vectors.
///
/// ```
/// use matryo::{Metric, Precision, Schema};
/// let schema = Schema::builder(768)
///     .granularities([64, 256, 768])
///     .metric(Metric::Cosine)
///     .stored(Precision::F16)
///     .build()?;
/// assert_eq!(schema.granularities(), [64, 256, 768]);
/// # Ok::<(), matryo::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    dims: usize,
    metric: Metric,
    granularities: Vec<usize>,
    stored: Precision,
    ids: IdKind,
    stages: Stages,
    fields: Arc<[Field]>,
    embedder: Option<EmbedderId>,
}

/// The stage codes of a schema.
#[derive(Debug, Clone)]
struct Stages {
    codes: Vec<StageCode>,
    /// Whether somebody named them. Others were derived by this version, and the next may derive
    /// better ones: a program is not to be kept from its own collection by that.
    stated: bool,
}

impl PartialEq for Stages {
    fn eq(&self, other: &Self) -> bool {
        self.codes == other.codes
    }
}

impl Eq for Stages {}

/// Builds a [`Schema`]; made by [`Schema::builder`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct SchemaBuilder {
    schema: Schema,
    stages: Option<Vec<StageCode>>,
    fields: Vec<Field>,
}

impl Schema {
    /// A schema for vectors of `dims` dimensions: cosine, stored as `f32`, with
    /// `u64` ids, unless the builder is told otherwise.
    pub fn builder(dims: usize) -> SchemaBuilder {
        let schema = Self {
            dims,
            metric: Metric::Cosine,
            granularities: Vec::new(),
            stored: Precision::F32,
            ids: IdKind::U64,
            stages: Stages { codes: Vec::new(), stated: false },
            fields: Arc::default(),
            embedder: None,
        };
        SchemaBuilder { schema, stages: None, fields: Vec::new() }
    }

    /// Dimensions of a full vector.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// How vectors are compared.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// Prefix lengths the model was trained at, ascending; the last is
    /// [`Self::dims`].
    pub fn granularities(&self) -> &[usize] {
        &self.granularities
    }

    /// Precision of the full vectors.
    pub fn stored(&self) -> Precision {
        self.stored
    }

    /// Kind of the row ids.
    pub fn ids(&self) -> IdKind {
        self.ids
    }

    /// Stage codes, by ascending number of dimensions, then bits.
    pub fn stages(&self) -> &[StageCode] {
        &self.stages.codes
    }

    /// Whether a stage code is kept in RAM. The 4-bit code of all dimensions is for exact searches,
    /// which read it from front to back: it is paged from disk, unless it is the only one.
    pub(crate) fn pins(&self, stage: usize) -> bool {
        let code = self.stages.codes[stage];
        code.bits != Bits::Four || code.dims < self.dims || self.stages.codes.len() == 1
    }

    /// The stage code whose bounds prove an exact search over `dims` dimensions: the 4-bit code
    /// of just these. Dot products and distances need norms too, which are those of full vectors.
    pub(crate) fn proves(&self, dims: usize) -> Option<usize> {
        let known = dims == self.dims || self.metric == Metric::Cosine;
        let proves = |code: &StageCode| code.bits == Bits::Four && code.dims == dims && known;
        self.stages.codes.iter().position(proves)
    }

    /// Payload fields that filters can ask about, in the order they were declared.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// What made the vectors, if the collection records it.
    pub fn embedder(&self) -> Option<&EmbedderId> {
        self.embedder.as_ref()
    }

    /// Fails where vectors by `given` are not of the kind or length that is stored.
    pub(crate) fn check_embedder(&self, given: &EmbedderId) -> Result<()> {
        let unknown = || Error::NoEmbedder { given: given.to_string() };
        let stored = self.embedder().ok_or_else(unknown)?;
        stored.check(given)?;
        given.check_dims(self.dims)
    }

    /// The same, to be kept.
    pub(crate) fn shared_fields(&self) -> Arc<[Field]> {
        self.fields.clone()
    }

    /// Bytes of one full vector as stored.
    pub fn vector_bytes(&self) -> usize {
        self.dims * self.stored.bytes()
    }

    /// Fails, naming the first part that differs, where a schema that was given is not this one.
    /// Stage codes count where they were named; the order of fields does not.
    pub(crate) fn check_same(&self, given: &Self) -> Result<()> {
        let differs = |part, stored: String, given: String| {
            if stored == given {
                return Ok(());
            }
            Err(Error::OtherSchema { part, stored, given })
        };
        let list = |all: Vec<String>| format!("[{}]", all.join(", "));
        let stages = |s: &Self| list(s.stages().iter().map(ToString::to_string).collect());
        let fields = |s: &Self| {
            let mut fields: Vec<_> = s.fields.iter().map(ToString::to_string).collect();
            fields.sort_unstable();
            list(fields)
        };
        let granularities = |s: &Self| format!("{:?}", s.granularities);
        let embedder = |s: &Self| s.embedder.as_ref().map_or("none".into(), EmbedderId::to_string);
        differs("dimensions", self.dims.to_string(), given.dims.to_string())?;
        differs("metric", self.metric.to_string(), given.metric.to_string())?;
        differs("granularities", granularities(self), granularities(given))?;
        differs("stored precision", self.stored.to_string(), given.stored.to_string())?;
        differs("ids", self.ids.to_string(), given.ids.to_string())?;
        if given.stages.stated {
            differs("stage codes", stages(self), stages(given))?;
        }
        differs("fields", fields(self), fields(given))?;
        match (&self.embedder, &given.embedder) {
            (Some(stored), Some(other)) => stored.check(other),
            _ => differs("embedder", embedder(self), embedder(given)),
        }
    }

    /// Checks a query by its first `dims` dimensions: it has as many, or all.
    pub(crate) fn check_query(&self, query: &[f32], dims: usize) -> Result<()> {
        let got = query.len();
        if got == self.dims {
            self.check_vector(query, self.dims)?;
        } else if got < dims {
            let granularities = self.granularities.clone();
            return Err(VectorError::Dimension { expected: dims, got, granularities }.into());
        } else {
            self.check_vector(query, dims)?;
        }
        match self.check_vector(&query[..dims], dims) {
            Err(Error::Vector(VectorError::Zero)) if dims < got => {
                Err(VectorError::ZeroPrefix { dims }.into())
            }
            checked => checked,
        }
    }

    /// Checks a vector of `expected` dimensions that is to be stored or searched.
    pub(crate) fn check_vector(&self, vector: &[f32], expected: usize) -> Result<()> {
        if vector.len() != expected {
            let (got, granularities) = (vector.len(), Vec::new());
            return Err(VectorError::Dimension { expected, got, granularities }.into());
        }
        // One quick pass tells all: squares of finite f32 neither overflow nor
        // vanish in f64, so the sum is finite and above 0 iff the vector is.
        self.check_norm(vector, row::squares(vector).sqrt())
    }

    /// Norms are kept as `f32`: those of stored rows must fit, and under cosine,
    /// which divides by them, must not be so small that digits are lost.
    fn check_norm(&self, vector: &[f32], norm: f64) -> Result<()> {
        let cosine = self.metric == Metric::Cosine;
        let error = if !norm.is_finite() {
            let at = vector.iter().position(|v| !v.is_finite()).unwrap_or(0);
            VectorError::NotFinite { at, value: vector[at] }
        } else if cosine && norm == 0.0 {
            VectorError::Zero
        } else if norm > f64::from(f32::MAX) || (cosine && norm < f64::from(f32::MIN_POSITIVE)) {
            VectorError::Norm { norm }
        } else {
            return Ok(());
        };
        Err(error.into())
    }

    fn validate(&self) -> Result<()> {
        if !(1..=MAX_DIMS).contains(&self.dims) {
            let why = format!("expected 1 to {MAX_DIMS} dimensions, got {}", self.dims);
            return Err(Error::invalid("schema", why));
        }
        let g = &self.granularities;
        let ascending = g.windows(2).all(|w| w[0] < w[1]);
        if g.is_empty() || g.len() > MAX_GRANULARITIES || g[0] == 0 || !ascending {
            let why =
                format!("granularities are 1 to {MAX_GRANULARITIES} ascending numbers, got {g:?}");
            return Err(Error::invalid("schema", why));
        }
        if g[g.len() - 1] != self.dims {
            let why = format!("the last granularity must be all {} dimensions: {g:?}", self.dims);
            return Err(Error::invalid("schema", why));
        }
        field::validate(&self.fields)?;
        self.embedder.iter().try_for_each(EmbedderId::validate)?;
        self.validate_stages()
    }

    fn validate_stages(&self) -> Result<()> {
        let stages = self.stages();
        if stages.is_empty() || stages.len() > MAX_STAGES {
            let why = format!("expected 1 to {MAX_STAGES} stage codes, got {}", stages.len());
            return Err(Error::invalid("schema", why));
        }
        if let Some(bad) = stages.iter().find(|s| !(1..=self.dims).contains(&s.dims)) {
            let why = format!("stage code {bad} must cover 1 to {} dimensions", self.dims);
            return Err(Error::invalid("schema", why));
        }
        let rank = |code: &StageCode| (code.dims, code.bits.count());
        if !stages.windows(2).all(|w| rank(&w[0]) < rank(&w[1])) {
            let why = "stage codes must be ordered by ascending dimensions, then bits, each once";
            return Err(Error::invalid("schema", why));
        }
        Ok(())
    }
}

impl SchemaBuilder {
    /// How vectors are compared. Default: [`Metric::Cosine`].
    pub fn metric(mut self, metric: Metric) -> Self {
        self.schema.metric = metric;
        self
    }

    /// The model's nesting dimensions (its granularities), ascending. The full
    /// dimension may be left out. Default: the full dimension alone.
    pub fn granularities(mut self, dims: impl IntoIterator<Item = usize>) -> Self {
        self.schema.granularities = dims.into_iter().collect();
        self
    }

    /// Precision of the full vectors. Default: [`Precision::F32`].
    pub fn stored(mut self, precision: Precision) -> Self {
        self.schema.stored = precision;
        self
    }

    /// Kind of the row ids. Default: [`IdKind::U64`].
    pub fn ids(mut self, kind: IdKind) -> Self {
        self.schema.ids = kind;
        self
    }

    /// Stage codes, instead of those chosen from the granularities. What is chosen may change from
    /// version to version, so [`Collection::open_or_create`](crate::Collection::open_or_create)
    /// compares only those that were named here.
    pub fn stages(mut self, stages: impl IntoIterator<Item = StageCode>) -> Self {
        self.stages = Some(stages.into_iter().collect());
        self
    }

    /// Declares a payload field, so that filters can ask about it. Dots in `name`
    /// go into nested objects: `author.name` is the key `name` of the object
    /// `author`. Rows may lack the field, or have `null` there, which is the same (`EXISTS` does
    /// not find them); a value of another kind is refused, and so is a payload that has a key
    /// `author.name` or an `author` that is no object.
    ///
    /// ```
    /// use matryo::{FieldKind, Schema};
    /// let schema = Schema::builder(768)
    ///     .field("year", FieldKind::Integer)
    ///     .list_field("tags", FieldKind::Keyword)
    ///     .build()?;
    /// assert_eq!(schema.fields()[1].to_string(), "tags (list of keyword)");
    /// # Ok::<(), matryo::Error>(())
    /// ```
    pub fn field(mut self, name: impl Into<String>, kind: FieldKind) -> Self {
        self.fields.push(Field { name: name.into(), kind, list: false });
        self
    }

    /// Records what makes the vectors, so that nobody mixes models by mistake:
    /// [`Collection::check_embedder`](crate::Collection::check_embedder) compares
    /// another with it. Default: nothing is recorded.
    pub fn embedder(mut self, id: impl Into<EmbedderId>) -> Self {
        self.schema.embedder = Some(id.into());
        self
    }

    /// As [`Self::field`], for a field whose values are arrays. A row matches a
    /// comparison if any element does.
    pub fn list_field(mut self, name: impl Into<String>, kind: FieldKind) -> Self {
        self.fields.push(Field { name: name.into(), kind, list: true });
        self
    }

    /// Declares the fields of another schema.
    pub(crate) fn fields_of(mut self, schema: &Schema) -> Self {
        self.fields.extend_from_slice(&schema.fields);
        self
    }

    /// Checks and makes the schema.
    ///
    /// # Errors
    /// [`Error::Invalid`] for dimensions outside 1 to [`MAX_DIMS`], granularities
    /// that are not ascending up to the full dimension, impossible stages, fields
    /// that are declared twice, too many, or have no usable name, or an embedder
    /// of which the same is true.
    pub fn build(self) -> Result<Schema> {
        let mut schema = self.schema;
        schema.fields = self.fields.into();
        if schema.granularities.last() != Some(&schema.dims)
            && schema.granularities.last().is_none_or(|last| *last < schema.dims)
        {
            schema.granularities.push(schema.dims);
        }
        let stated = self.stages.is_some();
        let derived = || default_stages(schema.dims, &schema.granularities);
        schema.stages = Stages { codes: self.stages.unwrap_or_else(derived), stated };
        schema.validate()?;
        Ok(schema)
    }
}

/// Three codes by default, along the two axes of the funnel (docs/SEARCH.md,
/// "Dimensions and bits"): 8 bits of the first dimensions, for short prefixes,
/// 1 bit of about 512, which shortlists best per byte (`benches/codes.rs`), and 4 bits
/// of all dimensions, whose bounds prove exact searches.
fn default_stages(dims: usize, granularities: &[usize]) -> Vec<StageCode> {
    let short = granularities.iter().copied().rfind(|g| (16..=64).contains(g));
    let short = short.unwrap_or(dims.min(64));
    let long = granularities.iter().copied().find(|g| (384..=768).contains(g));
    let long = long.unwrap_or(dims.min(512));
    let mut stages = vec![StageCode { dims: short, bits: Bits::Eight }];
    if long > short {
        stages.push(StageCode { dims: long, bits: Bits::One });
    }
    if dims >= PROVEN {
        stages.push(StageCode { dims, bits: Bits::Four });
    }
    stages
}

/// Dimensions from which on the 4-bit code is made: below, all rows are compared nearly as fast.
const PROVEN: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn stages_of(dims: usize, granularities: &[usize]) -> Vec<(usize, Bits)> {
        let schema = Schema::builder(dims).granularities(granularities.iter().copied());
        schema.build().expect("valid").stages().iter().map(|s| (s.dims, s.bits)).collect()
    }

    #[test]
    fn stage_codes_follow_the_granularities() {
        use Bits::{Eight, Four, One};
        assert_eq!(stages_of(1024, &[32, 64, 256]), [(64, Eight), (512, One), (1024, Four)]);
        assert_eq!(stages_of(768, &[32, 256]), [(32, Eight), (768, One), (768, Four)]);
        let found = stages_of(2048, &[8, 16, 2048]);
        assert_eq!(found, [(16, Eight), (512, One), (2048, Four)]);
        assert_eq!(stages_of(256, &[8, 64]), [(64, Eight), (256, One), (256, Four)]);
        assert_eq!(stages_of(100, &[8, 64]), [(64, Eight), (100, One)]);
        assert_eq!(stages_of(48, &[]), [(48, Bits::Eight)]);
        assert_eq!(stages_of(1, &[]), [(1, Bits::Eight)]);
    }

    #[test]
    fn the_full_dimension_is_always_a_granularity() {
        let schema = Schema::builder(100).granularities([10, 50]).build().expect("valid");
        assert_eq!(schema.granularities(), [10, 50, 100]);
    }

    #[test]
    fn impossible_schemas_are_refused() {
        let refused = |b: SchemaBuilder| b.build().expect_err("must be refused").to_string();
        assert!(refused(Schema::builder(0)).contains("dimensions"));
        assert!(refused(Schema::builder(65_536)).contains("65535"));
        assert!(refused(Schema::builder(8).granularities([4, 4])).contains("ascending"));
        assert!(refused(Schema::builder(8).granularities([4, 16])).contains("last granularity"));
        assert!(refused(Schema::builder(8).granularities([0, 8])).contains("ascending"));
        assert!(refused(Schema::builder(64).granularities(1..=17)).contains("16"));
        let wide = StageCode { dims: 9, bits: Bits::One };
        assert!(refused(Schema::builder(8).stages([wide])).contains("stage code"));
        assert!(refused(Schema::builder(8).stages([])).contains("stage codes"));
    }

    #[test]
    fn impossible_fields_are_refused() {
        let build = |names: &[&str]| {
            let add = |b: SchemaBuilder, name: &&str| b.field(*name, FieldKind::Bool);
            names.iter().fold(Schema::builder(8), add).build()
        };
        let refused = |names: &[&str]| build(names).expect_err("must be refused").to_string();
        assert!(build(&["a", "a.b", "B b", "\u{1f980}"]).is_ok());
        assert!(refused(&["a", "b", "a"]).contains("\"a\" is declared twice"));
        assert!(refused(&[""]).contains("1 to 255 bytes, got 0"));
        assert!(refused(&[&"x".repeat(256)]).contains("got 256"));
        for dots in ["a..b", ".a", "a.", "."] {
            assert!(refused(&[dots]).contains("dots"), "{dots}");
        }
        let many: Vec<String> = (0..65).map(|n| format!("f{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(build(&many[..64]).is_ok());
        assert!(refused(&many).contains("at most 64 fields, got 65"));
    }
}
