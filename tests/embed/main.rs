//! The embedder against Python's vectors, and against directories that are wrong.
//!
//! Reference vectors: `models/parity/make_fixtures.py` wrote those of the fixtures,
//! `models/text/reference.py` those of the models under `models/text`. Where ONNX
//! Runtime is missing and may not be fetched, the tests say so and pass.

#![cfg(feature = "embed")]

mod choices;
mod cuda;
mod families;
mod hostile;
mod hub;
mod library;
mod parity;
mod reembed;
mod refusals;
mod support;
