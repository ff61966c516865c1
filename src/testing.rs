//! What our own tests and benches may see of the inside. No stability is promised.

/// Scan and row kernels, and the collector of the best rows.
pub mod kernel {
    pub use crate::kernel::row;
    pub use crate::kernel::topk::{Scored, TopK};
    pub use crate::kernel::{BLOCK, BitPlanes, ByteLanes, Isa, bit_dots, byte_dots, byte_squares};
}

/// Stage codes and stored precisions.
pub mod encoding {
    pub use crate::encoding::{
        Bits, Precision, Scan, ScanScratch, Scoring, StageBuilder, StageCode, StageQuery, StageView,
    };
}
