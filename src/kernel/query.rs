//! Integer queries in the shape the scan kernels read them.

/// A query of small signed integers as bit planes, 64 dimensions to a word.
///
/// Plane `p` of word `w` is at `w * bits + p`: the kernel reads them in that
/// order. The numbers are two's complement, so the last plane weighs
/// `-(1 << (bits - 1))` and plane `p` before it `1 << p`.
#[derive(Debug, Clone)]
pub struct BitPlanes {
    planes: Vec<u64>,
    tables: Vec<[u8; 16]>,
    bits: u32,
    sum: i32,
}

impl BitPlanes {
    /// The most bits for which there are tables: the sum of two entries fits a byte.
    pub const TABLE_BITS: u32 = 5;

    /// What every table entry is too large by, so that none is negative.
    pub const TABLE_OFFSET: i32 = 64;

    /// Splits `values`, each of which must fit `bits` bits (2..=8), into planes.
    ///
    /// # Panics
    /// When `bits` is out of range or a value does not fit.
    pub fn new(values: &[i8], bits: u32) -> Self {
        assert!((2..=8).contains(&bits), "{bits} planes");
        let limit = 1i16 << (bits - 1);
        let mut planes = vec![0u64; values.len().div_ceil(64) * bits as usize];
        for (i, &value) in values.iter().enumerate() {
            assert!((-limit..limit).contains(&i16::from(value)), "{value} in {bits} bits");
            for p in 0..bits {
                let bit = u64::from((value >> p) & 1 != 0);
                planes[i / 64 * bits as usize + p as usize] |= bit << (i % 64);
            }
        }
        let tables = if bits <= Self::TABLE_BITS { tables(values) } else { Vec::new() };
        Self { planes, tables, bits, sum: values.iter().map(|&v| i32::from(v)).sum() }
    }

    /// For each four dimensions the sum of the components of every subset of
    /// them, plus [`Self::TABLE_OFFSET`]; 16 to a word. Empty above [`Self::TABLE_BITS`].
    pub fn tables(&self) -> &[[u8; 16]] {
        &self.tables
    }

    /// The planes, word by word.
    pub fn planes(&self) -> &[u64] {
        &self.planes
    }

    /// Planes per word.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// Words of a block the query reads.
    pub fn words(&self) -> usize {
        self.planes.len() / (self.bits as usize).max(1)
    }

    /// Sum of the components: what the dot with an all-zero code is minus of.
    pub fn sum(&self) -> i32 {
        self.sum
    }

    /// Weight of plane `p`.
    pub fn weight(&self, p: usize) -> i32 {
        let magnitude = 1 << p;
        if p + 1 == self.bits as usize { -magnitude } else { magnitude }
    }
}

fn tables(values: &[i8]) -> Vec<[u8; 16]> {
    let mut tables = vec![[0; 16]; values.len().div_ceil(64) * 16];
    for (g, table) in tables.iter_mut().enumerate() {
        let component = |j: usize| i32::from(values.get(g * 4 + j).copied().unwrap_or(0));
        let components = [component(0), component(1), component(2), component(3)];
        for (subset, entry) in table.iter_mut().enumerate() {
            let sum: i32 = (0..4).filter(|j| subset >> j & 1 == 1).map(|j| components[j]).sum();
            *entry = (sum + BitPlanes::TABLE_OFFSET) as u8;
        }
    }
    tables
}

/// A query of bytes, four dimensions to a group, zero beyond its last.
#[derive(Debug, Clone)]
pub struct ByteLanes {
    groups: Vec<[i8; 4]>,
    dims: usize,
    sum: i32,
}

impl ByteLanes {
    /// Groups `values`, none of which may be -128.
    ///
    /// # Panics
    /// When a value is -128: codes and queries are symmetric.
    pub fn new(values: &[i8]) -> Self {
        let mut groups = vec![[0; 4]; values.len().div_ceil(4)];
        for (i, &value) in values.iter().enumerate() {
            assert!(value != i8::MIN, "-128 in a query");
            groups[i / 4][i % 4] = value;
        }
        Self { groups, dims: values.len(), sum: values.iter().map(|&v| i32::from(v)).sum() }
    }

    /// All ones in the bytes of group `g` that are dimensions of the query.
    pub fn mask(&self, g: usize) -> u32 {
        match self.dims - g * 4 {
            1 => 0xff,
            2 => 0xffff,
            3 => 0x00ff_ffff,
            _ => u32::MAX,
        }
    }

    /// The groups, in order.
    pub fn as_slice(&self) -> &[[i8; 4]] {
        &self.groups
    }

    /// Group `i` as one number, zero beyond the last.
    pub(super) fn group(&self, i: usize) -> i32 {
        self.groups.get(i).map_or(0, |g| i32::from_le_bytes(g.map(i8::cast_unsigned)))
    }

    /// Groups of a block the query reads.
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Sum of the components, 128 times which the stored offset adds to a dot.
    pub fn sum(&self) -> i32 {
        self.sum
    }
}
