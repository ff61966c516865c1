//! Columns of a segment that searches read whole: norms and stage codes.
//!
//! A column is mapped like the rest of the file, and compared with its checksums
//! before its first use. Where there is room in the budget it is copied into RAM;
//! that can happen at any time, for whoever reads it next.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::region::Region;
use crate::codec::f32s;
use crate::encoding::{StageCode, StageView};
use crate::error::Result;
use crate::rows::{Budget, CodeColumn, Lease};

/// A column of one or more regions, which are in RAM together as a `T` or not at all.
struct Resident<T> {
    regions: Vec<Region>,
    /// Whether all of them were compared where they lie.
    checked: AtomicBool,
    held: OnceLock<(T, Lease)>,
}

impl<T> Resident<T> {
    fn new(regions: Vec<Region>) -> Self {
        regions.iter().for_each(Region::in_order);
        Self { regions, checked: AtomicBool::new(false), held: OnceLock::new() }
    }

    fn held(&self) -> Option<&T> {
        self.held.get().map(|(column, _)| column)
    }

    fn bytes(&self) -> u64 {
        self.regions.iter().map(|region| region.len() as u64).sum()
    }

    /// `check` looks at what the checksums have vouched for.
    fn ready(&self, check: impl FnOnce() -> Result<()>) -> Result<()> {
        if !self.is_ready() {
            self.regions.iter().try_for_each(|region| region.get(0, region.len()).map(drop))?;
            check()?;
            self.checked.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Compares the column anew, unless it is in RAM.
    fn compare_again(&self) -> Result<()> {
        if self.held().is_some() {
            return Ok(());
        }
        self.regions.iter().try_for_each(|region| {
            region.distrust();
            region.get(0, region.len()).map(drop)
        })
    }

    fn is_ready(&self) -> bool {
        self.checked.load(Ordering::Relaxed) || self.held().is_some()
    }

    fn hold(
        &self,
        budget: &Arc<Budget>,
        make: impl FnOnce(Vec<Vec<u8>>) -> Result<T>,
    ) -> Result<()> {
        if self.held().is_some() {
            return Ok(());
        }
        let Some(lease) = budget.take(self.bytes()) else { return Ok(()) };
        let copies = self.regions.iter().map(Region::copy).collect::<Result<_>>()?;
        // Somebody else may have been quicker: then this copy and its lease go.
        let _ = self.held.set((make(copies)?, lease));
        Ok(())
    }
}

/// Norms of the full vectors.
pub(super) struct Norms(Resident<Vec<f32>>);

/// Codes and factors of a stage.
pub(super) struct Codes {
    code: StageCode,
    column: Resident<CodeColumn>,
}

/// What both are for their segment.
pub(super) trait ResidentColumn {
    /// Bytes on disk, and in RAM where it is held.
    fn bytes(&self) -> u64;
    fn is_held(&self) -> bool;
    fn ready(&self) -> Result<()>;
    fn compare_again(&self) -> Result<()>;
    fn hold(&self, budget: &Arc<Budget>) -> Result<()>;
}

impl Norms {
    /// `region` has 4 bytes for each row.
    pub(super) fn new(region: Region) -> Result<Self> {
        let norms = Self(Resident::new(vec![region]));
        hold_if_foreign(&norms, &norms.0.regions[0])?;
        Ok(norms)
    }

    pub(super) fn get(&self) -> &[f32] {
        debug_assert!(self.0.is_ready(), "norms are used before they were checked");
        self.0.held().map_or_else(|| floats(&self.0.regions[0]), Vec::as_slice)
    }
}

impl Codes {
    /// The regions have the lengths that go with the code and the rows.
    pub(super) fn new(code: StageCode, blocks: Region, factors: Region) -> Result<Self> {
        let codes = Self { code, column: Resident::new(vec![blocks, factors]) };
        hold_if_foreign(&codes, &codes.column.regions[1])?;
        Ok(codes)
    }

    pub(super) fn get(&self) -> StageView<'_> {
        debug_assert!(self.column.is_ready(), "codes are used before they were checked");
        match (self.column.held(), self.column.regions.as_slice()) {
            (Some(column), _) => column.view(),
            (None, [blocks, factors]) => StageView::new(self.code, blocks.raw(), floats(factors))
                .expect("lengths were checked"),
            (None, _) => unreachable!("made of two regions"),
        }
    }
}

impl ResidentColumn for Norms {
    fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    fn is_held(&self) -> bool {
        self.0.held().is_some()
    }

    fn ready(&self) -> Result<()> {
        self.0.ready(|| Ok(()))
    }

    fn compare_again(&self) -> Result<()> {
        self.0.compare_again()
    }

    fn hold(&self, budget: &Arc<Budget>) -> Result<()> {
        self.0.hold(budget, |copies| Ok(f32s(&copies[0])))
    }
}

impl ResidentColumn for Codes {
    fn bytes(&self) -> u64 {
        self.column.bytes()
    }

    fn is_held(&self) -> bool {
        self.column.held().is_some()
    }

    fn ready(&self) -> Result<()> {
        self.column.ready(|| self.check_centre(floats(&self.column.regions[1])))
    }

    fn compare_again(&self) -> Result<()> {
        self.column.compare_again()
    }

    fn hold(&self, budget: &Arc<Budget>) -> Result<()> {
        let make = |mut copies: Vec<Vec<u8>>| {
            let scalars = f32s(&copies[1]);
            self.check_centre(&scalars)?;
            let column = CodeColumn::new(self.code, copies.swap_remove(0), scalars);
            Ok(column.expect("lengths were checked"))
        };
        self.column.hold(budget, make)
    }
}

impl Codes {
    /// A centre that is no number makes no number of any estimate, and nothing would be found.
    fn check_centre(&self, scalars: &[f32]) -> Result<()> {
        let centre = &scalars[scalars.len() - self.code.centre_len()..];
        if centre.iter().all(|m| m.is_finite()) {
            return Ok(());
        }
        Err(self.column.regions[1].corrupt("its centre is no vector".to_owned()))
    }
}

/// Files are little-endian, and one that was read instead of mapped may begin anywhere in memory:
/// then numbers cannot be used where they are.
fn hold_if_foreign(column: &dyn ResidentColumn, numbers: &Region) -> Result<()> {
    let aligned = bytemuck::try_cast_slice::<u8, f32>(numbers.raw()).is_ok();
    let usable = cfg!(target_endian = "little") && aligned;
    if usable { Ok(()) } else { column.hold(&Budget::new(u64::MAX)) }
}

/// A region of numbers where it is: see [`hold_if_foreign`].
fn floats(region: &Region) -> &[f32] {
    bytemuck::cast_slice(region.raw())
}
