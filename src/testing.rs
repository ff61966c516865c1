//! What our own tests and benches may see of the inside. No stability is promised.

use std::sync::Arc;

use crate::vfs::Vfs;
use crate::{
    Collection, Copied, CopyOptions, Options, Progress, RepairOptions, Repaired, Result, Schema,
};

/// A collection's folder that lives in RAM and can be tampered with. Nothing runs
/// in the background, so what is written does not depend on threads.
#[derive(Clone, Default)]
pub struct Folder(crate::vfs::mem::Mem);

impl Folder {
    /// Creates a collection in it.
    ///
    /// # Errors
    /// As [`Collection::create_with`].
    pub fn create(&self, schema: Schema, options: Options) -> Result<Collection> {
        crate::collection::open::create(Arc::new(self.0.clone()), schema, options.background(false))
    }

    /// Opens the collection in it.
    ///
    /// # Errors
    /// As [`Collection::open_with`].
    pub fn open(&self, options: Options) -> Result<Collection> {
        crate::collection::open::open(Arc::new(self.0.clone()), options.background(false))
    }

    /// Backs a collection up into it.
    ///
    /// # Errors
    /// As [`Collection::backup_with`].
    pub fn back_up(
        &self,
        collection: &Collection,
        progress: &dyn Fn(Progress) -> bool,
    ) -> Result<Copied> {
        collection.back_up(&self.0, progress)
    }

    /// Repairs the collection in it.
    ///
    /// # Errors
    /// As [`Collection::repair_with`].
    pub fn repair(&self, options: &RepairOptions) -> Result<Repaired> {
        crate::collection::repair::repair(&self.0, options)
    }

    /// Shortens the collection in it.
    ///
    /// # Errors
    /// As [`Collection::drop_tier_with`].
    pub fn drop_tier(
        &self,
        options: &CopyOptions,
        progress: &dyn Fn(Progress) -> bool,
    ) -> Result<Copied> {
        self.open(Options::new())?.shorten(options, progress)
    }

    /// Names of its files, sorted.
    pub fn names(&self) -> Vec<String> {
        self.0.list().expect("a folder in RAM can be listed")
    }

    /// The bytes of a file.
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        self.0.bytes(name)
    }

    /// Puts bytes there as an outsider would.
    pub fn write(&self, name: &str, bytes: Vec<u8>) {
        self.0.set(name, bytes);
    }

    /// Removes a file as an outsider would.
    pub fn remove(&self, name: &str) {
        self.0.remove(name).expect("a file in RAM can be removed");
    }

    /// A copy that shares nothing with this folder: what another process would
    /// find if this one died now.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self(self.0.fork())
    }
}

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

/// The fixed structures of the file format, for the test of FORMAT.md.
pub mod format {
    /// A structure: its name, its length, and (name, offset, size) of its fields.
    pub type Layout = (&'static str, usize, &'static [(&'static str, usize, usize)]);

    macro_rules! layouts {
        ($($path:path as $name:ident),* $(,)?) => {
            &[$({ use $path as $name; (stringify!($name), $name::LEN, $name::FIELDS) }),*]
        };
    }

    /// Every structure that FORMAT.md has an offset table of.
    pub const LAYOUTS: &[Layout] = layouts![
        crate::codec::header::file_header as file_header,
        crate::manifest::manifest_body as manifest_body,
        crate::manifest::segment_entry as segment_entry,
        crate::manifest::log_entry as log_entry,
        crate::wal::format::wal_frame as wal_frame,
        crate::segment::format::region_entry as region_entry,
        crate::segment::format::segment_footer as segment_footer,
    ];
}
