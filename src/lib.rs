//! matryo: an embedded vector database for Matryoshka embeddings.

pub(crate) mod encoding;
pub mod error;
pub(crate) mod kernel;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod testing;

pub use encoding::Precision;
pub use error::{Error, Result};
