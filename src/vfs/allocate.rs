//! Blocks of the medium for a file whose bytes mean nothing.
#![expect(clippy::disallowed_types, reason = "part of the module the ban points to")]

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};

use rustix::io::Errno;

/// Gives a file its blocks, without writing where the system can do without.
pub(super) fn allocate(file: &File, len: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    loop {
        match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len) {
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => break,
            done => return Ok(done?),
        }
    }
    fill(file, len)
}

/// Writes zeros: a file that was made longer only has no blocks.
fn fill(mut file: &File, len: u64) -> io::Result<()> {
    let zeros = [0; 1 << 12];
    let mut left = len;
    file.seek(SeekFrom::Start(0))?;
    while left > 0 {
        let now = left.min(zeros.len() as u64);
        file.write_all(&zeros[..now as usize])?;
        left -= now;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// What is done where the system allocates nothing.
    #[test]
    fn a_file_that_is_filled_has_its_blocks() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("R");
        for len in [0, 1, 4096, 10_000] {
            let file = File::create(&path).expect("create");
            file.set_len(len).expect("longer");
            fill(&file, len).expect("there is room");
            assert!(fs::read(&path).expect("read") == vec![0; len as usize]);
            assert!(file.metadata().expect("inspect").blocks() * 512 >= len);
        }
    }
}
