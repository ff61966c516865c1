//! Opening a model where ONNX Runtime may not be installed yet.

use std::path::Path;

use matryo::Error;
use matryo::embed::{Embedder, runtime};

/// Opens a model. ONNX Runtime is fetched only where the model needs it and it is nowhere: static
/// models do without.
pub(crate) fn open(dir: &Path) -> matryo::Result<Embedder> {
    match Embedder::open(dir) {
        Err(Error::Runtime { .. }) => {
            Embedder::builder(dir).runtime(runtime::locate_or_install()?).open()
        }
        opened => opened,
    }
}
