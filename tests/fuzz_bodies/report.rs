//! What the reader of `.npy` files needs of `report.rs` of the command line
//! program, which is not here.

#![allow(clippy::needless_pass_by_value, reason = "it has the face of the other")]

use std::error::Error;

pub(crate) type Failure = Box<dyn Error + Send + Sync>;
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

pub(crate) fn context(what: String, cause: impl Into<Failure>) -> Failure {
    format!("{what}: {}", cause.into()).into()
}
