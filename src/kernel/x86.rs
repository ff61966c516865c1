//! AVX2 and AVX-512.
use super::{BitPlanes, ByteLanes, Precision, scalar};

macro_rules! stub {
    ($name:ident) => {
        /// Proof that this CPU has the instruction set.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name(());
        impl $name {
            pub(super) fn detect() -> Option<Self> {
                Some(Self(()))
            }
            pub(super) fn bit_dots(self, b: &[u8], w: usize, q: &BitPlanes, out: &mut [i32]) {
                scalar::bit_dots(b, w, q, out)
            }
            pub(super) fn byte_dots(self, b: &[u8], w: usize, q: &ByteLanes, out: &mut [i32]) {
                scalar::byte_dots(b, w, q, out)
            }
            pub(super) fn dot(self, p: Precision, q: &[f32], row: &[u8]) -> f64 {
                scalar::dot(p, q, row)
            }
            pub(super) fn norm_squared(self, p: Precision, row: &[u8]) -> f64 {
                scalar::norm_squared(p, row)
            }
            pub(super) fn l2_squared(self, p: Precision, q: &[f32], row: &[u8]) -> f64 {
                scalar::l2_squared(p, q, row)
            }
        }
    };
}
stub!(Avx2);
stub!(Avx512);
