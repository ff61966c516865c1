//! matryo: an embedded vector database for Matryoshka embeddings.

#[cfg(feature = "embed")]
pub mod embed;
pub mod error;

pub use error::{Error, Result};
