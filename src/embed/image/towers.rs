//! Models with two towers: the vision tower of an [`Embedder`].

use super::super::Embedder;
use super::super::builder::EmbedderBuilder;
use super::super::files::{ModelDir, model};
use super::super::session::Model;
use super::vision::PIXELS;
use super::{ImageEmbedder, ImageSource, VISION_GRAPHS};
use crate::error::{Error, Result};

impl Embedder {
    /// The vision tower, if the directory has one: its vectors and those of texts
    /// share one space.
    pub fn images(&self) -> Option<&ImageEmbedder> {
        self.vision.as_ref()
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
        self.vision.as_ref().ok_or_else(|| {
            let why = format!("{} takes text alone", self.graph.display());
            Error::invalid("model", why)
        })
    }
}

impl EmbedderBuilder {
    /// The vision tower beside a text tower, or in the same graph.
    pub(in super::super) fn open_vision(
        &self,
        dir: &ModelDir,
        text: &Model,
        dims: usize,
    ) -> Result<Option<ImageEmbedder>> {
        let mut beside = false;
        for name in VISION_GRAPHS {
            beside |= dir.has(name)?;
        }
        let joint = text.inputs().any(|name| name == PIXELS);
        if !beside && !joint {
            return Ok(None);
        }
        let mut options = ImageEmbedder::builder(dir.root()).provider(self.provider);
        options.runtime.clone_from(&self.runtime);
        options.threads = self.threads;
        if joint {
            options.graph.clone_from(&self.graph);
        }
        let vision = options.open()?;
        if vision.dims() != dims {
            let why = format!(
                "its texts have vectors of {dims} components and its images of {}: they share no \
                 space, so export the graphs with their projections (text_embeds, image_embeds)",
                vision.dims()
            );
            return Err(model(dir.root(), why));
        }
        Ok(Some(vision))
    }
}
