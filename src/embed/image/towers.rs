//! Models with two towers: the vision tower of an [`Embedder`].

use super::super::Embedder;
use super::super::backend::Backend;
use super::super::builder::{EmbedderBuilder, Opened};
use super::super::chain::Chain;
use super::super::config::Config;
use super::super::files::{ModelDir, model};
use super::vision::PIXELS;
use super::{ImageEmbedder, ImageSource, VISION_GRAPHS};
use crate::error::{Error, Result};

impl Embedder {
    /// The vision tower, if the directory has one: its vectors and those of texts
    /// share one space.
    pub fn images(&self) -> Option<&ImageEmbedder> {
        self.vision.as_ref().ok()
    }

    /// Embeds one image: a path, the bytes of a file, or an
    /// [`Image`](super::Image).
    ///
    /// # Errors
    /// Those of [`Embedder::embed_images`].
    pub fn embed_image<'a>(&self, image: impl Into<ImageSource<'a>>) -> Result<Vec<f32>> {
        self.vision()?.embed_image(image)
    }

    /// Embeds images with the vision tower of a model that has two.
    ///
    /// # Errors
    /// Those of [`ImageEmbedder::embed_images`], and `Error::Invalid` for a model
    /// that takes text alone.
    pub fn embed_images<'a, S: Into<ImageSource<'a>>>(
        &self,
        images: impl IntoIterator<Item = S>,
    ) -> Result<Vec<Vec<f32>>> {
        self.vision()?.embed_images(images)
    }

    fn vision(&self) -> Result<&ImageEmbedder> {
        self.vision.as_ref().map_err(|why| {
            Error::invalid("model", format!("{} takes text alone: {why}", self.weights.display()))
        })
    }
}

impl EmbedderBuilder {
    /// Which ONNX file is the vision tower, such as `vision_model_quantized.onnx`; looked
    /// for in the directory and in its `onnx` folder. By default `vision_model.onnx`, or the
    /// graph of the texts if that takes pictures too.
    #[must_use]
    pub fn vision_graph(mut self, name: impl Into<String>) -> Self {
        self.vision_graph = Some(name.into());
        self
    }

    /// Images in a batch, as
    /// [`ImageEmbedderBuilder::batch_images`](super::ImageEmbedderBuilder::batch_images).
    #[must_use]
    pub fn batch_images(mut self, images: usize) -> Self {
        self.batch_images = Some(images);
        self
    }

    /// The vision tower beside a text tower, or in the same graph. A graph with
    /// both is opened for text also where its directory does not tell how to prepare
    /// pictures; then the inner error says what is wrong with them.
    pub(in super::super) fn open_vision(
        &self,
        dir: &ModelDir,
        config: &Config,
        text: &Opened,
        chain: &Chain,
    ) -> Result<Result<ImageEmbedder, String>> {
        let mut beside = self.vision_graph.is_some();
        for name in VISION_GRAPHS {
            beside |= dir.has(name)?;
        }
        let running = match &text.backend {
            Backend::Graph(graph) => Some(&graph.model),
            Backend::Table(_) => None,
        };
        let running = running.filter(|model| model.inputs.names().any(|name| name == PIXELS));
        let joint = running.is_some();
        if !beside && !joint {
            return Ok(Err(no_tower(dir)));
        }
        let mut options = ImageEmbedder::builder(dir.root()).provider(self.provider);
        options.runtime.clone_from(&self.runtime);
        options.threads = self.threads;
        options.batch = self.batch_images;
        options.graph.clone_from(&self.vision_graph);
        if joint && options.graph.is_none() {
            options.graph.clone_from(&self.graph);
        }
        let shortened = self.wanted.dims.or(config.truncate).is_some();
        let running = running.map(|model| (text.weights.as_path(), &model.session));
        match options
            .open_beside(running)
            .and_then(|vision| match_to_text(vision, dir, chain, shortened))
        {
            Ok(vision) => Ok(Ok(vision)),
            Err(e @ Error::Model { .. }) if joint && !beside => Ok(Err(e.to_string())),
            Err(e) => Err(e),
        }
    }
}

/// Why there are no pictures, and what may be a tower all the same.
fn no_tower(dir: &ModelDir) -> String {
    let mut others = dir.graphs();
    others.retain(|name| name.contains("vision"));
    if others.is_empty() {
        return "it has no vision tower".into();
    }
    let usual = VISION_GRAPHS[0];
    format!("there is no {usual}; choose with vision_graph(NAME) one of {}", others.join(", "))
}

/// The vision tower with what the directory says of vectors, which holds for both
/// towers: how much of them is kept, and whether they have unit length.
fn match_to_text(
    mut vision: ImageEmbedder,
    dir: &ModelDir,
    chain: &Chain,
    shortened: bool,
) -> Result<ImageEmbedder> {
    let dims = vision.dims;
    if dims < chain.dims || (dims > chain.dims && !shortened) {
        let why = format!(
            "its texts have vectors of {} components and its images of {dims}: they share no \
             space, so export the graphs with their projections (text_embeds, image_embeds)",
            chain.dims
        );
        return Err(model(dir.root(), why));
    }
    vision.keep(chain.dims, chain.normalizes());
    Ok(vision)
}
