//! The arithmetic of a search: integer dots of a query with blocks of coded
//! rows, exact scores of full rows, and the collection of the best of them.
//!
//! Rows of a stage are held in **blocks** of [`BLOCK`] rows, dimension-major:
//! one load reads the same dimensions of many rows, so a scan needs no
//! horizontal add and reads nothing but the bytes it uses:
//!
//! ```text
//!   1 bit           lane 0  lane 1  ...  lane 63
//!     word 0      | u64     u64          u64     |   512 bytes, dimensions 0..64
//!     word 1      | u64     u64          u64     |   512 bytes, dimensions 64..128
//!   8 bits
//!     group 0     | 4 x u8  4 x u8       4 x u8  |   256 bytes, dimensions 0..4
//!     group 1     | 4 x u8  4 x u8       4 x u8  |   256 bytes, dimensions 4..8
//!   4 bits
//!     group 0     | 4 x u8  4 x u8       4 x u8  |   256 bytes, dimensions 0..4 in the lower
//!     group 1     | 4 x u8  4 x u8       4 x u8  |   halves of the bytes, 4..8 in the upper
//! ```
//!
//! The words (or groups) that hold the first `k` dimensions come first, so a
//! shorter prefix reads a shorter run of each block.
//!
//! [`scalar`] defines every answer. The other implementations return the same
//! bits: stage dots are integers, and exact scores add in a fixed order (see
//! [`row`]). `kernel/tests.rs` holds them to it. Nothing here does I/O or knows
//! what a segment is.
//!
//! Only `x86` and `neon` contain `unsafe`. An [`Isa`] other than `Scalar` can
//! only be had by asking the CPU, so the dispatch below needs none.

#![cfg_attr(not(feature = "testing"), allow(unreachable_pub, reason = "`testing` re-exports them"))]

pub(crate) mod coding;
pub(crate) mod gather;
#[cfg(target_arch = "aarch64")]
mod neon;
mod query;
pub mod row;
pub(crate) mod scalar;
#[cfg(test)]
mod tests;
pub(crate) mod topk;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::fmt;
use std::sync::OnceLock;

pub use query::{BitPlanes, ByteLanes};

/// Rows in a block.
pub const BLOCK: usize = 64;

/// Bytes of one word of a 1-bit block: 64 dimensions of every row.
pub(crate) const WORD_BYTES: usize = BLOCK * 8;

/// Bytes of one group of an 8-bit block, 4 dimensions of every row, or of a 4-bit block, 8 of
/// every row.
pub(crate) const GROUP_BYTES: usize = BLOCK * 4;

/// How a full vector's components are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Precision {
    /// IEEE 754 single precision: 4 bytes, stored as given.
    F32,
    /// IEEE 754 half precision: 2 bytes, 11 significant bits, up to 65504.
    F16,
    /// bfloat16: 2 bytes, 8 significant bits, the range of `F32`.
    BF16,
}

impl Precision {
    /// Bytes per component.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }
}

/// An instruction set this CPU has: proof that it was asked.
///
/// The variants other than `Scalar` hold a token that only detection makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust: the definition of every answer.
    Scalar,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2(x86::Avx2),
    /// AVX-512 with VNNI, BITALG and VBMI (Ice Lake, Zen 4 and later).
    #[cfg(target_arch = "x86_64")]
    Avx512(x86::Avx512),
    /// NEON, which every `aarch64` has.
    #[cfg(target_arch = "aarch64")]
    Neon(neon::Neon),
}

impl Isa {
    /// Names of all instruction sets the kernels are written for on this architecture.
    #[cfg(target_arch = "x86_64")]
    pub const NAMES: &[&str] = &["scalar", "avx2", "avx512"];
    /// Names of all instruction sets the kernels are written for on this architecture.
    #[cfg(target_arch = "aarch64")]
    pub const NAMES: &[&str] = &["scalar", "neon"];
    /// Names of all instruction sets the kernels are written for on this architecture.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub const NAMES: &[&str] = &["scalar"];

    /// The best instruction set of this CPU; asked once.
    ///
    /// In tests, `MATRYO_TEST_ARCH` names the one to use instead.
    pub fn detect() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| {
            forced().unwrap_or_else(|| Self::available().pop().unwrap_or(Self::Scalar))
        })
    }

    /// Every instruction set this CPU has, slowest first.
    pub fn available() -> Vec<Self> {
        Self::NAMES.iter().filter_map(|name| Self::named(name)).collect()
    }

    /// The instruction set of that name, if this CPU has it.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "scalar" => Some(Self::Scalar),
            #[cfg(target_arch = "x86_64")]
            "avx2" => x86::Avx2::detect().map(Self::Avx2),
            #[cfg(target_arch = "x86_64")]
            "avx512" => x86::Avx512::detect().map(Self::Avx512),
            #[cfg(target_arch = "aarch64")]
            "neon" => Some(Self::Neon(neon::Neon::new())),
            _ => None,
        }
    }

    /// Its name, as [`Isa::named`] takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "avx512",
            #[cfg(target_arch = "aarch64")]
            Self::Neon(_) => "neon",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What `MATRYO_TEST_ARCH` asks for; only test builds look.
fn forced() -> Option<Isa> {
    if cfg!(any(test, feature = "testing")) {
        std::env::var("MATRYO_TEST_ARCH").ok().and_then(|name| Isa::named(&name))
    } else {
        None
    }
}

/// Signed dots of the query with every row of 1-bit `blocks`: the sum over the
/// query's dimensions of `+q` where the row's bit is 1 and `-q` where it is 0.
///
/// `block_words` is the number of words a block holds; the query says how many
/// of them are read. `out` gets [`BLOCK`] dots per block.
///
/// # Panics
/// When the lengths do not fit each other.
pub fn bit_dots(isa: Isa, blocks: &[u8], block_words: usize, query: &BitPlanes, out: &mut [i32]) {
    check(blocks, block_words * WORD_BYTES, query.words() * WORD_BYTES, out);
    match isa {
        Isa::Scalar => scalar::bit_dots(blocks, block_words, query, out),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(cpu) => cpu.bit_dots(blocks, block_words, query, out),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(cpu) => cpu.bit_dots(blocks, block_words, query, out),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon(cpu) => cpu.bit_dots(blocks, block_words, query, out),
    }
}

/// Dots of the query with every row of 8-bit `blocks`, whose bytes are signed
/// codes plus 128.
///
/// `block_groups` is the number of groups a block holds; the query says how
/// many of them are read. `out` gets [`BLOCK`] dots per block.
///
/// # Panics
/// When the lengths do not fit each other.
pub fn byte_dots(isa: Isa, blocks: &[u8], block_groups: usize, query: &ByteLanes, out: &mut [i32]) {
    check(blocks, block_groups * GROUP_BYTES, query.groups() * GROUP_BYTES, out);
    match isa {
        Isa::Scalar => scalar::byte_dots(blocks, block_groups, query, out),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(cpu) => cpu.byte_dots(blocks, block_groups, query, out),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(cpu) => cpu.byte_dots(blocks, block_groups, query, out),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon(cpu) => cpu.byte_dots(blocks, block_groups, query, out),
    }
}

/// Squared norms, over the query's dimensions, of every row of 8-bit `blocks`.
///
/// Stored bytes must not be 0: codes are -127..=127, kept as 1..=255.
///
/// # Panics
/// As [`byte_dots`].
pub fn byte_squares(
    isa: Isa,
    blocks: &[u8],
    block_groups: usize,
    query: &ByteLanes,
    out: &mut [i32],
) {
    check(blocks, block_groups * GROUP_BYTES, query.groups() * GROUP_BYTES, out);
    match isa {
        Isa::Scalar => scalar::byte_squares(blocks, block_groups, query, out),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(cpu) => cpu.byte_squares(blocks, block_groups, query, out),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(cpu) => cpu.byte_squares(blocks, block_groups, query, out),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon(cpu) => cpu.byte_squares(blocks, block_groups, query, out),
    }
}

/// Dots of the query with every row of 4-bit `blocks`: half bytes `u` of 0..=15 that stand for
/// the odd numbers `2 u - 15`.
///
/// The query's groups come in pairs: one for the lower halves of the bytes of a group, one
/// for the upper; the second of the last pair may be missing.
///
/// # Panics
/// When the lengths do not fit each other.
pub fn nibble_dots(
    isa: Isa,
    blocks: &[u8],
    block_groups: usize,
    query: &ByteLanes,
    out: &mut [i32],
) {
    let used = query.groups().div_ceil(2);
    check(blocks, block_groups * GROUP_BYTES, used * GROUP_BYTES, out);
    match isa {
        Isa::Scalar => scalar::nibble_dots(blocks, block_groups, query, out),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(cpu) => cpu.nibble_dots(blocks, block_groups, query, out),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(cpu) => cpu.nibble_dots(blocks, block_groups, query, out),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon(cpu) => cpu.nibble_dots(blocks, block_groups, query, out),
    }
}

/// Queries that one pass over blocks takes.
pub const QUERIES_PER_PASS: usize = 4;

/// As [`nibble_dots`] for several queries: codes are loaded and taken apart once for all. `out` gets
/// the dots of one query after the other.
///
/// # Panics
/// As [`nibble_dots`].
pub fn nibble_dots_of_four(
    isa: Isa,
    blocks: &[u8],
    block_groups: usize,
    queries: [&ByteLanes; QUERIES_PER_PASS],
    out: &mut [i32],
) {
    let each = out.len() / QUERIES_PER_PASS;
    #[cfg(target_arch = "x86_64")]
    if let Isa::Avx512(cpu) = isa
        && queries.iter().all(|q| q.groups() == queries[0].groups())
    {
        let used = queries[0].groups().div_ceil(2) * GROUP_BYTES;
        check(blocks, block_groups * GROUP_BYTES, used, &out[..each]);
        assert_eq!(out.len(), each * QUERIES_PER_PASS, "as many dots for each query");
        return cpu.nibble_dots_of_four(blocks, block_groups, queries, out);
    }
    for (query, out) in queries.into_iter().zip(out.chunks_mut(each.max(1))) {
        nibble_dots(isa, blocks, block_groups, query, out);
    }
}

fn check(blocks: &[u8], block_bytes: usize, used_bytes: usize, out: &[i32]) {
    assert!(used_bytes <= block_bytes, "the query is longer than the code");
    let count = blocks.len().checked_div(block_bytes).unwrap_or(0);
    assert_eq!(blocks.len(), count * block_bytes, "not a whole number of blocks");
    assert_eq!(out.len(), count * BLOCK, "one dot per lane");
}
