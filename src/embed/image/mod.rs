//! Images to vectors (feature `image`).
//!
//! [`ImageEmbedder::open`] takes the directory of an image model as Hugging Face
//! tools export it: an ONNX graph that takes `pixel_values`, and
//! `preprocessor_config.json`. Pictures are prepared as Python's image processors
//! prepare them. A directory with a text tower beside it (CLIP, SigLIP and their
//! kind) is opened with [`Embedder::open`](super::Embedder::open), whose text and
//! image vectors share one space: then a text finds images.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

mod gif;
mod picture;
mod pixels;
mod processor;
mod towers;
mod vision;

pub use picture::{Image, ImageSource, MAX_EDGE, MAX_PIXEL_BYTES};

use super::describe::{Library, ran_on};
use super::files::{ModelDir, model};
use super::fingerprint::{Fingerprint, Hasher};
use super::graph::Graph;
use super::object::Object;
use super::pool::normalize;
use super::runtime::Loaded;
use super::session::Shared;
use super::{Pooling, Provider, builder, runtime, threads};
use crate::error::{Error, Result};
use pixels::Planes;
use processor::Processor;
use vision::{Vision, Wanted};

/// Images in a batch unless [`ImageEmbedderBuilder::batch_images`] says otherwise:
/// enough to use all threads, few enough for the caches and for memory (a picture
/// of 224 x 224 is 0.6 MB before the graph's own).
pub const BATCH_IMAGES: usize = 8;

/// Where exporters put the image side of a model with two towers.
const VISION_GRAPHS: [&str; 2] = ["onnx/vision_model.onnx", "vision_model.onnx"];

/// Edge of the picture that a graph of open size is tried with.
const PROBE_EDGE: u32 = 224;

/// A loaded image model: pictures in, vectors out.
///
/// It may be shared between threads; their batches take turns in the graph.
pub struct ImageEmbedder {
    vision: Vision,
    processor: Processor,
    /// The directory that was opened.
    dir: PathBuf,
    graph: PathBuf,
    dims: usize,
    granularities: Vec<usize>,
    fingerprint: Fingerprint,
    provider: Provider,
    loaded: &'static Loaded,
    threads: NonZeroUsize,
    batch: usize,
    /// Scale what is kept of a vector to unit length.
    unit: bool,
}

/// What was chosen when an image model was opened; displays as a few lines.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ImageDescription {
    /// The ONNX file.
    pub graph: PathBuf,
    /// The output taken.
    pub output: String,
    /// How it becomes one vector.
    pub pooling: String,
    /// How pictures are prepared.
    pub processing: String,
    /// Components of a vector.
    pub dims: usize,
    /// Images in a batch.
    pub batch_images: usize,
    /// Where the graph runs.
    pub provider: Provider,
    /// Threads used.
    pub threads: usize,
    /// The ONNX Runtime library.
    pub runtime: Library,
}

impl fmt::Display for ImageDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.graph_lines(f)?;
        writeln!(f, "provider      {}", ran_on(self.provider, self.threads))?;
        write!(f, "runtime       {}", self.runtime)
    }
}

impl ImageDescription {
    /// Without what a text tower beside it tells too.
    pub(super) fn graph_lines(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "image graph   {}", self.graph.display())?;
        writeln!(f, "output        {}", self.output)?;
        writeln!(f, "pooling       {}", self.pooling)?;
        writeln!(f, "pictures      {}", self.processing)?;
        writeln!(f, "dimensions    {}", self.dims)?;
        writeln!(f, "batches       up to {} images", self.batch_images)
    }
}

impl ImageEmbedder {
    /// Opens the directory of an image model with the default options.
    ///
    /// # Errors
    /// Those of [`ImageEmbedderBuilder::open`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::builder(dir).open()
    }

    /// Options for opening the directory of an image model.
    pub fn builder(dir: impl AsRef<Path>) -> ImageEmbedderBuilder {
        ImageEmbedderBuilder {
            dir: dir.as_ref().to_path_buf(),
            runtime: None,
            threads: None,
            graph: None,
            output: None,
            pooling: None,
            batch: None,
            provider: Provider::Cpu,
        }
    }

    /// Components of a vector.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// The prefix lengths the model was trained at (`matryoshka_dims` of its
    /// configuration), ascending and ending with [`ImageEmbedder::dims`].
    pub fn granularities(&self) -> &[usize] {
        &self.granularities
    }

    /// What the vectors depend on, for telling models apart. Its part `vision` is
    /// the graph with its weights, the output and how pictures are prepared; the
    /// other parts are zero, unlike those of an
    /// [`Embedder`](super::Embedder) that opened the same directory for text too.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// The directory that was opened, and the graph.
    pub(crate) fn files(&self) -> (&Path, &Path) {
        (&self.dir, &self.graph)
    }

    /// What was chosen: graph, output, pooling, preparation of pictures, and what runs it.
    pub fn describe(&self) -> ImageDescription {
        ImageDescription {
            graph: self.graph.clone(),
            output: self.vision.output.clone(),
            pooling: self.vision.pooling(),
            processing: self.processor.to_string(),
            dims: self.dims,
            batch_images: self.batch,
            provider: self.provider,
            threads: self.threads.get(),
            runtime: Library::of(self.loaded),
        }
    }

    /// Embeds one image: a path, the bytes of a file, or an [`Image`].
    ///
    /// # Errors
    /// Those of [`ImageEmbedder::embed_images`].
    pub fn embed_image<'a>(&self, image: impl Into<ImageSource<'a>>) -> Result<Vec<f32>> {
        Ok(self.embed_images([image])?.pop().unwrap_or_default())
    }

    /// Embeds images, in batches; files are read as their turn comes, so that the
    /// memory does not depend on how many there are.
    ///
    /// # Errors
    /// `Error::Io` or `Error::Invalid`, naming the image, for one that cannot be
    /// read or decoded (to go on without it, use [`Image::open`] first);
    /// `Error::Runtime` or `Error::Model` when the graph fails.
    pub fn embed_images<'a, S: Into<ImageSource<'a>>>(
        &self,
        images: impl IntoIterator<Item = S>,
    ) -> Result<Vec<Vec<f32>>> {
        let images: Vec<ImageSource<'a>> = images.into_iter().map(Into::into).collect();
        let mut vectors = Vec::with_capacity(images.len());
        for (at, batch) in images.chunks(self.batch).enumerate() {
            let planes = self.prepare(batch, at * self.batch)?;
            // Pictures that keep their proportions differ in size.
            for group in planes.chunk_by(|a, b| (a.width, a.height) == (b.width, b.height)) {
                vectors.append(&mut self.vision.run(group)?);
            }
        }
        if !vectors.iter().flatten().all(|v| v.is_finite()) {
            return Err(builder::not_numbers(&self.graph));
        }
        for vector in &mut vectors {
            vector.truncate(self.dims);
            if self.unit {
                normalize(vector);
            }
        }
        Ok(vectors)
    }

    /// Keeps the first components of each vector, of unit length if `unit`.
    fn keep(&mut self, dims: usize, unit: bool) {
        self.granularities.retain(|&n| n < dims);
        self.granularities.push(dims);
        self.dims = dims;
        self.unit = unit;
    }

    /// What the graph is fed for an image, for comparing with Python's
    /// `pixel_values`: the values by channel, row and column, and the numbers of
    /// rows and columns.
    ///
    /// # Errors
    /// Those of [`ImageEmbedder::embed_images`] for an image.
    pub fn pixel_values<'a>(
        &self,
        image: impl Into<ImageSource<'a>>,
    ) -> Result<(Vec<f32>, usize, usize)> {
        let planes = self.prepare(&[image.into()], 0)?.swap_remove(0);
        Ok((planes.values, planes.height, planes.width))
    }

    /// Decodes and prepares some images, on all threads.
    fn prepare(&self, images: &[ImageSource<'_>], before: usize) -> Result<Vec<Planes>> {
        let share = images.len().div_ceil(self.threads.get()).max(1);
        let one = |at: usize, source: &ImageSource<'_>| {
            let planes = match source {
                ImageSource::Path(path) => Image::open(path).and_then(|i| self.processor.apply(&i)),
                ImageSource::Bytes(bytes) => {
                    Image::decode(bytes).and_then(|i| self.processor.apply(&i))
                }
                ImageSource::Image(image) => self.processor.apply(image),
            };
            planes.map_err(|e| match (e, source) {
                (Error::Invalid { what, why }, ImageSource::Bytes(_) | ImageSource::Image(_)) => {
                    Error::invalid(what, format!("number {at}: {why}"))
                }
                (e, _) => e,
            })
        };
        if images.len() <= share {
            return images.iter().enumerate().map(|(at, i)| one(before + at, i)).collect();
        }
        let parts = images.chunks(share).enumerate().collect();
        let prepared = threads::each("image", parts, |(part, chunk): (usize, &[_])| {
            let first = before + part * share;
            chunk.iter().enumerate().map(|(at, i)| one(first + at, i)).collect::<Result<Vec<_>>>()
        })?;
        Ok(prepared.into_iter().flatten().collect())
    }
}

impl fmt::Debug for ImageEmbedder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageEmbedder")
            .field("graph", &self.graph)
            .field("dims", &self.dims)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

/// Options for opening an [`ImageEmbedder`]; made by [`ImageEmbedder::builder`].
#[derive(Debug, Clone)]
pub struct ImageEmbedderBuilder {
    dir: PathBuf,
    runtime: Option<PathBuf>,
    threads: Option<NonZeroUsize>,
    graph: Option<String>,
    output: Option<String>,
    pooling: Option<Pooling>,
    batch: Option<usize>,
    provider: Provider,
}

impl ImageEmbedderBuilder {
    /// The ONNX Runtime library to load, instead of looking for one.
    #[must_use]
    pub fn runtime(mut self, library: impl AsRef<Path>) -> Self {
        self.runtime = Some(library.as_ref().to_path_buf());
        self
    }

    /// Threads for preparing pictures and for the graph. By default as many as the
    /// machine offers this process; at most 1024, and no more than the system lets it start.
    #[must_use]
    pub fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Which ONNX file to run, such as `vision_model_quantized.onnx`; looked for in
    /// the directory and in its `onnx` folder. By default `vision_model.onnx`, else
    /// `model.onnx`.
    #[must_use]
    pub fn graph(mut self, name: impl Into<String>) -> Self {
        self.graph = Some(name.into());
        self
    }

    /// Which output of the graph is the vector. By default `image_embeds` or
    /// another of the names two-tower models use, else `pooler_output` (not of ViT
    /// and its kind), else `last_hidden_state`, else the only output.
    #[must_use]
    pub fn output(mut self, name: impl Into<String>) -> Self {
        self.output = Some(name.into());
        self
    }

    /// How to pool token vectors; asks for `last_hidden_state`. By default the first
    /// token's vector of the models that mean it so (ViT and its kind).
    #[must_use]
    pub fn pooling(mut self, pooling: Pooling) -> Self {
        self.pooling = Some(pooling);
        self
    }

    /// Images in a batch; by default [`BATCH_IMAGES`], or what the graph fixes.
    #[must_use]
    pub fn batch_images(mut self, images: usize) -> Self {
        self.batch = Some(images);
        self
    }

    /// Where the graph runs. There is no falling back: what is asked for is used,
    /// or opening fails.
    #[must_use]
    pub fn provider(mut self, provider: Provider) -> Self {
        self.provider = provider;
        self
    }

    /// Reads and checks the directory, loads ONNX Runtime and runs the graph once.
    ///
    /// # Errors
    /// `Error::Model` names the file of the directory that is missing or wrong and
    /// what to do; `Error::Runtime` says why ONNX Runtime cannot be used.
    pub fn open(self) -> Result<ImageEmbedder> {
        self.open_beside(None)
    }

    /// As [`Self::open`], where a graph may run already: its file and its session.
    fn open_beside(self, running: Option<(&Path, &Shared)>) -> Result<ImageEmbedder> {
        let dir = ModelDir::open(&self.dir)?;
        let processor = Processor::read(&dir)?.ok_or_else(|| {
            let why = "there is no preprocessor_config.json, so it is not known how pictures are \
                       prepared: save the model's image processor into this directory (in Python: \
                       AutoImageProcessor.from_pretrained(NAME).save_pretrained(DIR))";
            model(dir.root(), why)
        })?;
        let base = Object::read(&dir, "config.json")?;
        let graph = Graph::read(&dir, "", self.graph_name(&dir)?.as_deref())?;
        self.provider.check()?;
        let cuda = matches!(self.provider, Provider::Cuda { .. });
        let loaded = runtime::load(self.runtime.as_deref(), cuda)?;
        let threads = threads::affordable(self.threads.unwrap_or_else(builder::available));
        let model_type = base.text("model_type")?;
        let wanted = Wanted {
            output: self.output.as_deref(),
            pooling: self.pooling,
            model_type: model_type.as_deref(),
        };
        let shared = running.filter(|(path, _)| *path == graph.path).map(|(_, it)| it.clone());
        let vision = Vision::open(&graph, loaded, (self.provider, threads), &wanted, shared)?;
        let size = probe_size(&graph, &vision, &processor)?;
        let dims = vision.probe(&graph, size)?;
        let granularities = granularities(&base, dims)?;
        let mut hasher = Hasher::new("vision");
        hasher.bytes(&graph.hash);
        hasher.text(&format!("output {} {}", vision.output, vision.pooling()));
        hasher.text(&processor.to_string());
        // A vector of a dynamically quantised graph depends on its batch.
        let usual = if graph.dynamic_quantization { 1 } else { BATCH_IMAGES };
        let asked = if graph.dynamic_quantization { None } else { self.batch };
        Ok(ImageEmbedder {
            batch: vision.batch.or(asked).unwrap_or(usual).max(1),
            vision,
            processor,
            dir: self.dir,
            graph: graph.path,
            dims,
            granularities,
            fingerprint: Fingerprint::of_vision(hasher.finish()),
            provider: self.provider,
            loaded,
            threads,
            unit: false,
        })
    }

    fn graph_name(&self, dir: &ModelDir) -> Result<Option<String>> {
        if self.graph.is_some() {
            return Ok(self.graph.clone());
        }
        for name in VISION_GRAPHS {
            if dir.has(name)? {
                return Ok(Some(name.into()));
            }
        }
        Ok(None)
    }
}

/// Reads what is fuzzed of an image model's directory.
#[cfg(feature = "testing")]
pub(super) fn read_processor(dir: &ModelDir) -> Result<()> {
    Processor::read(dir).map(drop)
}

/// The size the graph is tried with; what the graph fixes must be what the
/// processor makes.
fn probe_size(graph: &Graph, vision: &Vision, processor: &Processor) -> Result<(u32, u32)> {
    let Some((width, height)) = processor.output_size() else {
        let open = |n: Option<usize>| n.and_then(|n| u32::try_from(n).ok()).unwrap_or(PROBE_EDGE);
        return Ok((open(vision.size.1), open(vision.size.0)));
    };
    let fits = |fixed: Option<usize>, made: u32| fixed.is_none_or(|n| n == made as usize);
    if fits(vision.size.0, height) && fits(vision.size.1, width) {
        return Ok((width, height));
    }
    let why = format!(
        "takes pictures of {:?} pixels (height, width), and the image processor makes {height} x \
         {width}: they belong to different models",
        vision.size
    );
    Err(model(&graph.path, why))
}

/// The prefix lengths of `config.json`, ending with the whole vector.
fn granularities(base: &Object, dims: usize) -> Result<Vec<usize>> {
    let mut all = base.sizes("matryoshka_dims")?.unwrap_or_default();
    match all.last() {
        Some(&most) if most > dims => {
            let why = format!("names matryoshka_dims up to {most}, and vectors have {dims}");
            return Err(base.wrong(&why));
        }
        Some(&most) if most == dims => {}
        _ => all.push(dims),
    }
    Ok(all)
}
