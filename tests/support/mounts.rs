//! File systems that are mounted for a test, where that is allowed.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A small file system in RAM, or why there is none.
pub(crate) struct Tmpfs(pub(crate) PathBuf);

impl Tmpfs {
    pub(crate) fn mount(path: &Path, size: &str) -> Result<Self, String> {
        std::fs::create_dir_all(path).expect("create");
        let options = format!("size={size}");
        mount(&["-t", "tmpfs", "-o", &options, "matryo-test"], path)?;
        Ok(Self(path.to_owned()))
    }

    /// From here on nobody can write there.
    pub(crate) fn make_read_only(&self) {
        mount(&["-o", "remount,ro"], &self.0).expect("it is ours");
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

fn mount(arguments: &[&str], path: &Path) -> Result<(), String> {
    let done = Command::new("mount").args(arguments).arg(path).output();
    let done = done.map_err(|e| e.to_string())?;
    let why = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    if done.status.success() { Ok(()) } else { Err(why) }
}

/// A folder seen through a process (`fuse.py`), in which files can be read and nothing can be
/// changed; or why there is none.
pub(crate) struct Fuse(Child, pub(crate) PathBuf);

impl Fuse {
    pub(crate) fn mount(folder: &Path, path: &Path) -> Result<Self, String> {
        std::fs::create_dir_all(path).expect("create");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuse.py");
        let mut server = Command::new("python3");
        server.arg(script).args([folder, path]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut server = server.spawn().map_err(|e| format!("no python3: {e}"))?;
        let mut said = String::new();
        let out = server.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut said).expect("reads");
        if said.trim() == "mounted" {
            return Ok(Self(server, path.to_owned()));
        }
        server.wait().expect("has ended");
        assert!(said.starts_with("skipped: "), "the server of files failed: {said:?}");
        Err(said.trim().into())
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.1).status();
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
