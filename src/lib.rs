//! matryo: an embedded vector database for Matryoshka embeddings.

pub mod error;

pub use error::{Error, Result};
