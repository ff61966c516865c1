use std::sync::Arc;

use super::*;
use crate::calibration::{CHECKED_RECALLS, Check, ERROR_QUANTILES, Noise, names};
use crate::vfs::mem::Mem;

fn sample() -> Manifest {
    let schema = Schema::builder(96).granularities([32]).build().expect("valid");
    let mut m = Manifest::new([9; 16], schema);
    m.next_file = FileNumber(12);
    m.lsn = Lsn(77);
    let clean = SegmentEntry {
        number: FileNumber(3),
        len: 8192,
        rows: 10,
        table_crc: 5,
        tombstones: None,
        kept: Arc::default(),
    };
    let dead = TombstonesEntry { number: FileNumber(7), dead: 2, crc: 6 };
    let log = LogEntry { number: FileNumber(2), len: 900, crc: 1, sealed: true };
    let other = LogEntry { number: FileNumber(1), len: 64, ..log };
    let logged = SegmentEntry { kept: [log, other].into(), ..clean.clone() };
    m.segments =
        vec![logged, SegmentEntry { number: FileNumber(4), tombstones: Some(dead), ..clean }];
    m.logs = vec![
        LogEntry { number: FileNumber(8), len: 640, crc: 8, sealed: true },
        LogEntry { number: FileNumber(11), len: 64, crc: 9, sealed: false },
    ];
    m.graphs =
        vec![GraphEntry { number: FileNumber(9), len: 70, segment: FileNumber(4), table_crc: 3 }];
    let noise = Noise {
        stage: 0,
        dims: 32,
        scale: 1.1,
        quantiles: [-0.5; ERROR_QUANTILES.len()],
        checks: [Check::default(); CHECKED_RECALLS.len()],
    };
    let codes = names(&m.schema);
    let (noises, given) = (vec![noise], true);
    let (rows, written, queries) = (20, 3, 7);
    m.calibration = Some(Calibration { rows, written, queries, given, noises, walks: None, codes });
    m
}

#[test]
fn manifests_round_trip() {
    let vfs = Mem::default();
    let m = sample();
    let installed = m.install(&vfs).expect("install");
    assert_eq!(installed, Manifest { generation: m.generation + 1, ..m });
    let m = installed;
    assert_eq!(Manifest::load(&vfs).expect("load"), Some(m));
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let good = sample().encode();
    for bit in 0..good.len() * 8 {
        let vfs = Mem::default();
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        vfs.set(NAME, bad);
        assert!(Manifest::load(&vfs).is_err(), "bit {bit}");
    }
    for len in 0..good.len() {
        let vfs = Mem::default();
        vfs.set(NAME, good[..len].to_vec());
        assert!(Manifest::load(&vfs).is_err(), "cut at {len}");
    }
}

fn kept(m: &mut Manifest, change: fn(&mut LogEntry)) {
    change(&mut Arc::make_mut(&mut m.segments[0].kept)[1]);
}

fn keeps(m: &mut Manifest, logs: u32) {
    m.next_file = FileNumber(1000);
    let one = m.segments[0].kept[0];
    let log = |n| LogEntry { number: FileNumber(100 + u64::from(n)), ..one };
    m.segments[0].kept = (0..logs).map(log).collect();
}

#[test]
fn a_body_that_contradicts_itself_is_refused_even_with_right_checksums() {
    let wrong = |change: fn(&mut Manifest)| {
        let mut m = sample();
        change(&mut m);
        let vfs = Mem::default();
        vfs.set(NAME, m.encode());
        Manifest::load(&vfs).is_err()
    };
    assert!(wrong(|m| m.next_file = FileNumber(11)), "number not below the next one");
    assert!(wrong(|m| m.logs.reverse()), "unsealed log before the last");
    assert!(wrong(|m| m.segments[1].number = FileNumber(3)), "number used twice");
    assert!(wrong(|m| m.segments[0].number = FileNumber(0)), "number of the manifest");
    assert!(wrong(|m| m.segments[1].rows = 2), "all rows dead");
    assert!(wrong(|m| m.segments[0].rows = 0), "no rows");
    assert!(wrong(|m| m.segments[0].rows = u32::MAX), "more rows than there are positions");
    assert!(wrong(|m| m.lsn = Lsn(u64::MAX)), "no next commit");
    assert!(wrong(|m| m.graphs[0].segment = FileNumber(8)), "graph of no segment");
    assert!(wrong(|m| m.graphs[0].number = FileNumber(8)), "number of a log");
    assert!(
        wrong(|m| m.graphs.push(GraphEntry { number: FileNumber(10), ..m.graphs[0] })),
        "two graphs"
    );
    assert!(wrong(|m| m.next_file = FileNumber(u64::MAX)), "no next file number");
    assert!(wrong(|m| m.generation = u64::MAX), "no next generation");
    assert!(wrong(|m| m.logs[1].len = 63), "shorter than a header");
    assert!(wrong(|m| kept(m, |log| log.len = 63)), "kept log shorter than a header");
    assert!(wrong(|m| kept(m, |log| log.len = MAX_LOG + 1)), "longer than any");
    assert!(wrong(|m| kept(m, |log| log.sealed = false)), "a kept log that may grow");
    assert!(wrong(|m| kept(m, |log| log.number = FileNumber(0))), "the number of no log");
    assert!(wrong(|m| kept(m, |log| log.number = FileNumber(8))), "a kept log to be replayed");
    assert!(wrong(|m| kept(m, |log| log.number = FileNumber(2))), "a log kept twice");
    assert!(wrong(|m| m.segments[1].kept = m.segments[0].kept.clone()), "and by another");
    assert!(!wrong(|m| keeps(m, MAX_KEPT)), "as many logs as may be");
    assert!(wrong(|m| keeps(m, MAX_KEPT + 1)), "one more");
}

#[test]
fn an_entry_that_contradicts_itself_is_refused_even_with_right_checksums() {
    use super::entries::{graph_entry, log_entry, segment_entry};
    let m = sample();
    let first = FileHeader::LEN + manifest_body::LEN + m.schema.encode().len();
    let second = first + segment_entry::LEN + 2 * log_entry::LEN;
    let log = second + segment_entry::LEN;
    let graph = log + 2 * log_entry::LEN;
    let is_read = |at: usize, value: u8| {
        let mut bytes = m.encode();
        bytes[at] = value;
        let header = FileHeader::new(FileKind::Manifest, FileNumber(0), m.owner());
        let header = header.over(&bytes[FileHeader::LEN..]).encode();
        bytes[..FileHeader::LEN].copy_from_slice(&header);
        let vfs = Mem::default();
        vfs.set(NAME, bytes);
        Manifest::load(&vfs).is_ok()
    };
    assert!(is_read(first + segment_entry::TABLE_CRC.start, 9), "any checksum");
    assert!(is_read(second + segment_entry::DEAD.start, 9), "all but one row dead");
    assert!(!is_read(second + segment_entry::DEAD.start, 10), "all of them");
    assert!(!is_read(second + segment_entry::DEAD.start, 0), "none, in a file of them");
    assert!(!is_read(second + segment_entry::TOMBSTONES.start, 0), "dead rows in no file");
    assert!(!is_read(first + segment_entry::DEAD.start, 1), "the same");
    assert!(!is_read(first + segment_entry::TOMBSTONES_CRC.start, 1), "checksum of no file");
    assert!(!is_read(first + segment_entry::RESERVED.start, 1), "reserved");
    assert!(!is_read(log + log_entry::SEALED.start, 2), "neither sealed nor not");
    assert!(!is_read(log + log_entry::SEALED.start, 0), "unsealed before the last");
    assert!(!is_read(graph + graph_entry::RESERVED.start, 1), "reserved");
}

#[test]
fn a_manifest_longer_than_any_is_not_written() {
    let vfs = Mem::default();
    let installed = sample().install(&vfs).expect("install");
    let mut m = installed.clone();
    let more = MAX_LEN / entries::segment_entry::LEN as u64;
    let one = SegmentEntry { kept: Arc::default(), ..m.segments[0].clone() };
    let numbers = (100..100 + more).map(FileNumber);
    m.segments.extend(numbers.map(|number| SegmentEntry { number, ..one.clone() }));
    let refused = m.install(&vfs);
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    assert_eq!(Manifest::load(&vfs).expect("load"), Some(installed));
    assert_eq!(vfs.list().expect("list"), [NAME]);
}

#[test]
fn one_that_could_not_be_read_again_is_not_written() {
    let vfs = Mem::default();
    let m = sample().install(&vfs).expect("install");
    let wrong = [
        Manifest { next_file: FileNumber(MAX_COUNTER + 1), ..m.clone() },
        Manifest { next_file: FileNumber(11), ..m.clone() },
        Manifest { generation: u64::MAX, ..m.clone() },
        Manifest { lsn: Lsn(MAX_COUNTER + 1), ..m.clone() },
    ];
    for wrong in wrong {
        let refused = wrong.install(&vfs);
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
        assert_eq!(Manifest::load(&vfs).expect("load").as_ref(), Some(&m));
    }
    assert_eq!(vfs.list().expect("list"), [NAME]);
}

#[test]
fn names_spend_the_numbers_that_somebody_can_have_counted_to() {
    let mut m = sample();
    let mut spend = |kind: FileKind, number: u64| {
        m.spend(&["notes".to_owned(), kind.name(FileNumber(number))]);
        m.next_file.0
    };
    assert_eq!(spend(FileKind::Wal, 3), 12);
    assert_eq!(spend(FileKind::Tombstones, 20), 21);
    assert_eq!(spend(FileKind::Segment, MAX_COUNTER), 21);
    assert_eq!(spend(FileKind::Graph, UNCOUNTED), 21);
    assert_eq!(spend(FileKind::Graph, UNCOUNTED - 1), UNCOUNTED);
}

#[test]
fn a_folder_without_a_manifest_is_told_by_what_is_in_it() {
    let vfs = Mem::default();
    let says = |what: &str| {
        let error = load_installed(&vfs).expect_err("no manifest");
        assert!(error.to_string().contains(what), "{error}");
        matches!(error, Error::Corrupt(_))
    };
    assert!(!says("the folder is empty"));
    vfs.set("notes.txt", Vec::new());
    assert!(!says("it has no MANIFEST, but 1 other files or folders"));
    vfs.set(&FileKind::Segment.name(FileNumber(3)), Vec::new());
    assert!(says("is missing, but other files are there"));
}

#[test]
fn a_graph_goes_with_its_segment() {
    let (vfs, mut m) = (Mem::default(), sample());
    assert_eq!(m.graph_of(FileNumber(4)), Some(m.graphs[0]));
    assert_eq!(m.graph_of(FileNumber(3)), None);
    m.segments.remove(1);
    let m = m.install(&vfs).expect("install");
    assert!(m.graphs.is_empty());
    assert_eq!(Manifest::load(&vfs).expect("load"), Some(m));
}
