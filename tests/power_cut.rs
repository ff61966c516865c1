//! Power cuts on real file systems: ext4 and XFS on a loop device, shut down while
//! a process commits, mounted again and compared with what was acknowledged.
//!
//! The shutdown is the ioctl that the file systems' own tests use: mode 1 writes
//! their journal before, mode 2 nothing. Neither loses what is in the device's own
//! cache, because a loop device has none.
//!
//! `cargo test --test power_cut -- --ignored --nocapture`, as root; `MATRYO_CUTS`
//! says how many, of each file system and mode.

mod support;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use matryo::Collection;
use matryo::testing::{Bug, sow};
use support::Rng;
use support::full::{Disk, deletes_go_on, fill};
use support::steps::{after, check, commit_for_ever, done, options, schema, spawn, steps_of};

/// The child process.
#[test]
fn child() {
    let Some(path) = std::env::var_os("MATRYO_TEST_PATH").map(PathBuf::from) else { return };
    if std::env::var("MATRYO_TEST_CHILD").is_ok_and(|what| what == "without syncs") {
        sow(Some(Bug::LogNotSynced));
    }
    commit_for_ever(&path, options());
}

/// Runs a command; what it said if it failed.
fn run(command: &[&str]) -> Result<(), String> {
    let done = Command::new(command[0]).args(&command[1..]).output();
    let done = done.map_err(|e| format!("{}: {e}", command[0]))?;
    let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    if done.status.success() { Ok(()) } else { Err(format!("{}: {said}", command.join(" "))) }
}

/// A file system in a file.
struct Medium {
    image: String,
    mount: PathBuf,
}

impl Medium {
    fn make(dir: &Path, kind: &str) -> Result<Self, String> {
        let image = dir.join(format!("{kind}.img"));
        let file = std::fs::write(&image, "").map_err(|e| e.to_string());
        let image = image.to_str().ok_or("a name of ours")?.to_owned();
        file.and_then(|()| run(&["truncate", "--size=400M", &image]))?;
        match kind {
            "ext4" => run(&["mkfs.ext4", "-q", "-F", &image])?,
            _ => run(&["mkfs.xfs", "-q", "-f", &image])?,
        }
        let mount = dir.join(kind);
        std::fs::create_dir(&mount).map_err(|e| e.to_string())?;
        let medium = Self { image, mount };
        medium.mount()?;
        Ok(medium)
    }

    fn name(&self) -> &str {
        self.mount.to_str().expect("a name of ours")
    }

    fn mount(&self) -> Result<(), String> {
        run(&["mount", "-o", "loop", &self.image, self.name()])
    }

    fn unmount(&self) -> Result<(), String> {
        run(&["umount", self.name()])
    }

    /// A process that cuts the power when its input ends, and says when: from then
    /// on no write reaches the image.
    fn switch(&self, mode: u32) -> Child {
        let call = format!(
            "import fcntl, os, struct, sys, time\n\
             folder = os.open(sys.argv[1], os.O_RDONLY)\n\
             print('ready', flush=True)\n\
             sys.stdin.read()\n\
             print(time.time_ns(), flush=True)\n\
             fcntl.ioctl(folder, 0x8004587D, struct.pack('I', {mode}))"
        );
        let mut python = Command::new("python3");
        python.args(["-c", &call, self.name()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut switch = python.spawn().expect("python3 runs");
        let mut ready = [0; 6];
        switch.stdout.as_mut().expect("piped").read_exact(&mut ready).expect("says so");
        assert_eq!(&ready, b"ready\n");
        switch
    }
}

impl Drop for Medium {
    fn drop(&mut self) {
        let _ = self.unmount();
    }
}

/// What a cut left: the last step that the process said it had done, the last
/// that is there.
struct Left {
    said: u64,
    there: u64,
}

/// Cuts the power of a process that commits. What it says after that counts for
/// nothing: while a file system shuts down, a sync can succeed that keeps nothing.
///
/// # Errors
/// What was acknowledged before and is not there.
fn cut_once(
    medium: &Medium,
    mode: u32,
    rng: &mut Rng,
    before: u64,
    child: &str,
) -> Result<Left, String> {
    let path = medium.mount.join("a.matryo");
    let mut child = spawn(child, &path, "exec 2>/dev/null;");
    let mut out = child.stdout.take().expect("piped");
    let mut switch = medium.switch(mode);
    let mut said = String::new();
    let cut = std::thread::scope(|scope| {
        scope.spawn(|| out.read_to_string(&mut said).expect("UTF-8"));
        // Some are cut while they start.
        std::thread::sleep(Duration::from_micros(rng.next() % 900_000));
        drop(switch.stdin.take());
        let mut when = String::new();
        let out = switch.stdout.as_mut().expect("piped");
        out.read_to_string(&mut when).expect("UTF-8");
        assert!(switch.wait().expect("ends").success(), "the power can be cut");
        child.kill().expect("is killed");
        when.trim().parse::<u128>().expect("nanoseconds")
    });
    child.wait().expect("has ended");
    let last = |until: u128| done(&said).filter(|(_, when)| *when < until).map(|done| done.0).max();
    let (acknowledged, said) = (last(cut).unwrap_or(before), last(u128::MAX).unwrap_or(before));
    medium.unmount().expect("nobody has it open");
    medium.mount().expect("the file system recovers");
    let db = Collection::open_with(&path, options()).map_err(|e| format!("does not open: {e}"))?;
    let there = steps_of(&db);
    if !(acknowledged..=said + 1).contains(&there) {
        return Err(format!("{there} steps are there, {acknowledged} were acknowledged"));
    }
    check(&db, &after(there));
    Ok(Left { said, there })
}

/// Cuts until one of them takes what was acknowledged, or there were enough.
fn cuts(medium: &Medium, mode: u32, cuts: u64, child: &str) -> Result<(), String> {
    let path = medium.mount.join("a.matryo");
    let (mut rng, mut steps, mut all, mut late) = (Rng(u64::from(mode)), u64::MAX, 0, 0);
    let start = Instant::now();
    for _ in 0..cuts {
        // The larger it is the longer it takes to compare.
        if steps > 3000 {
            let _ = std::fs::remove_dir_all(&path);
            drop(Collection::create(&path, schema()).expect("create"));
            steps = 0;
        }
        let left = cut_once(medium, mode, &mut rng, steps, child)?;
        late += u64::from(left.there < left.said);
        all += left.there - steps;
        steps = left.there;
    }
    let (name, seconds) = (medium.name(), start.elapsed().as_secs_f64());
    println!("{name}, mode {mode}: {cuts} cuts, {all} steps, nothing lost, {seconds:.0} s");
    println!("    after {late} of them a step was gone that was done when the cut had begun");
    Ok(())
}

fn media(dir: &Path) -> Vec<Medium> {
    let make = |kind| {
        let made = Medium::make(dir, kind);
        made.inspect_err(|why| println!("{kind} skipped: {why}")).ok()
    };
    ["ext4", "xfs"].into_iter().filter_map(make).collect()
}

#[test]
#[ignore = "mounts loop devices: needs root, and minutes"]
fn power_cuts_of_a_real_file_system_take_nothing_that_was_acknowledged() {
    let number = std::env::var("MATRYO_CUTS").map_or(Ok(100), |n| n.parse());
    let number = number.expect("MATRYO_CUTS is a number");
    let dir = tempfile::tempdir().expect("temporary folder");
    for medium in media(dir.path()) {
        for mode in [1, 2] {
            let kept = cuts(&medium, mode, number, "commit for ever");
            assert_eq!(kept, Ok(()), "{}, mode {mode}", medium.name());
        }
    }
}

#[test]
#[ignore = "mounts loop devices: needs root"]
fn on_a_full_file_system_deletes_go_on() {
    let dir = tempfile::tempdir().expect("temporary folder");
    for medium in media(dir.path()) {
        let (path, rubbish) = (medium.mount.join("a.matryo"), medium.mount.join("rubbish"));
        deletes_go_on(&Disk {
            create: &|options| {
                Collection::create_with(&path, support::schema(), options).expect("create")
            },
            open: &|options| Collection::open_with(&path, options),
            fill: &|| fill(&rubbish),
            free: &|| std::fs::remove_file(&rubbish).expect("remove"),
            exact: false,
        });
        println!("{}: deletes went on", medium.name());
    }
}

#[test]
#[ignore = "mounts loop devices: needs root"]
fn power_cuts_notice_a_log_that_is_not_synced() {
    let dir = tempfile::tempdir().expect("temporary folder");
    for medium in media(dir.path()) {
        let lost = cuts(&medium, 2, 50, "without syncs");
        println!("{}: {lost:?}", medium.name());
        assert!(lost.is_err(), "{}", medium.name());
    }
}
