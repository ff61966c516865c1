//! What [`crate::kernel::coding`] defines, compiled with the vectors of AVX2 and AVX-512.

use super::*;
use crate::kernel::coding::define;

macro_rules! compiled {
    ($($name:ident($($arg:ident: $type:ty),*) -> $out:ty;)*) => {
        $(
            impl Avx2 {
                pub(in crate::kernel) fn $name(self, $($arg: $type),*) -> $out {
                    #[target_feature(enable = "avx2")]
                    fn with_features($($arg: $type),*) -> $out {
                        define::$name($($arg),*)
                    }
                    // SAFETY: 1, by the token.
                    unsafe { with_features($($arg),*) }
                }
            }

            impl Avx512 {
                pub(in crate::kernel) fn $name(self, $($arg: $type),*) -> $out {
                    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                    fn with_features($($arg: $type),*) -> $out {
                        define::$name($($arg),*)
                    }
                    // SAFETY: 1, by the token.
                    unsafe { with_features($($arg),*) }
                }
            }
        )*
    };
}

compiled! {
    squares(vector: &[f32]) -> f64;
    normalise(vector: &[f32], norm: f64, unit: &mut [f32]) -> f32;
    round(unit: &[f32], per_step: f32, codes: &mut [i8]) -> (f64, f64);
    distance(vector: &[f32], norm: f64, scale: f32, codes: &[i8]) -> f64;
    estimate(dots: &[i32], factors: &[f32], scale: f32, base: f32, out: &mut [f32]) -> ();
    signed_dot(vector: &[f32], codes: &[i8]) -> f64;
}
