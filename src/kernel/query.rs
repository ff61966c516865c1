//! Integer queries in the shape the scan kernels read them.

/// A query of small signed integers as bit planes, 64 dimensions to a word.
///
/// Plane `p` of word `w` is at `w * bits + p`: the kernel reads them in that
/// order. The numbers are two's complement, so the last plane weighs
/// `-(1 << (bits - 1))` and plane `p` before it `1 << p`.
#[derive(Debug, Clone, Default)]
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

    /// Splits `values`, each of which must fit `bits` bits (2..=8), into planes, in the buffers of
    /// the query before.
    ///
    /// # Panics
    /// When `bits` is out of range or a value does not fit.
    pub fn set(&mut self, values: &[i8], bits: u32) {
        assert!((2..=8).contains(&bits), "{bits} planes");
        let limit = 1i16 << (bits - 1);
        let fits = |&value: &i8| (-limit..limit).contains(&i16::from(value));
        assert!(values.iter().all(fits), "a value of {values:?} does not fit {bits} bits");
        self.planes.clear();
        for values in values.chunks(64) {
            for p in 0..bits {
                let bit = |(i, &value): (usize, &i8)| u64::from(value as u8 >> p & 1) << i;
                self.planes.push(values.iter().enumerate().map(bit).sum());
            }
        }
        self.tables.clear();
        if bits <= Self::TABLE_BITS {
            set_tables(values, &mut self.tables);
        }
        self.bits = bits;
        self.sum = values.iter().map(|&v| i32::from(v)).sum();
    }

    /// For each four dimensions the sum of the components of every subset of them, plus
    /// [`Self::TABLE_OFFSET`]; 16 to a word: first those of the lower halves of its bytes, then
    /// those of the upper. Empty above [`Self::TABLE_BITS`].
    #[cfg(any(target_arch = "x86_64", test, feature = "testing"))]
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

fn set_tables(values: &[i8], tables: &mut Vec<[u8; 16]>) {
    for word in values.chunks(64) {
        for upper in [0, 4] {
            for byte in 0..8 {
                let component = |j: usize| word.get(byte * 8 + upper + j).map_or(0, |v| *v as u8);
                let mut table = [BitPlanes::TABLE_OFFSET as u8; 16];
                // Each subset is a smaller one and its largest member.
                for j in 0..4 {
                    let (known, next) = table.split_at_mut(1 << j);
                    for (sum, smaller) in next.iter_mut().zip(known) {
                        *sum = smaller.wrapping_add(component(j));
                    }
                }
                tables.push(table);
            }
        }
    }
}

/// A query of bytes, four dimensions to a group, zero beyond its last.
#[derive(Debug, Clone, Default)]
pub struct ByteLanes {
    groups: Vec<[i8; 4]>,
    dims: usize,
    sum: i32,
}

impl ByteLanes {
    /// Groups `values`, none of which may be -128, in the buffers of the query before.
    ///
    /// # Panics
    /// When a value is -128: codes and queries are symmetric.
    pub fn set(&mut self, values: &[i8]) {
        assert!(values.iter().all(|value| *value != i8::MIN), "-128 in a query");
        let (fours, rest) = values.as_chunks::<4>();
        self.groups.clear();
        self.groups.extend_from_slice(fours);
        if !rest.is_empty() {
            let mut last = [0; 4];
            last[..rest.len()].copy_from_slice(rest);
            self.groups.push(last);
        }
        self.dims = values.len();
        self.sum = values.iter().map(|&v| i32::from(v)).sum();
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

#[cfg(any(test, feature = "testing"))]
impl BitPlanes {
    /// A query of its own; see [`Self::set`].
    ///
    /// # Panics
    /// As [`Self::set`].
    pub fn new(values: &[i8], bits: u32) -> Self {
        let mut planes = Self::default();
        planes.set(values, bits);
        planes
    }
}

#[cfg(any(test, feature = "testing"))]
impl ByteLanes {
    /// A query of its own; see [`Self::set`].
    ///
    /// # Panics
    /// As [`Self::set`].
    pub fn new(values: &[i8]) -> Self {
        let mut lanes = Self::default();
        lanes.set(values);
        lanes
    }
}
