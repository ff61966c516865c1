//! Files that are read as they were written, and files that are refused.

use super::*;

type Done = Outcome;

fn written(path: &Path, dtype: Dtype, shape: &[u64], data: &[u8]) -> io::Result<()> {
    let header = Header { dtype, shape: shape.to_vec() };
    std::fs::write(path, [header.encode(), data.to_vec()].concat())
}

fn refused(reader: Outcome<Reader>) -> String {
    reader.err().expect("must be refused").to_string()
}

#[test]
fn what_a_writer_wrote_a_reader_reads() -> Done {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a.npy");
    let values = [1.0f32, -2.5, 0.0, 7.25, f32::NAN, f32::INFINITY];
    let mut writer = Writer::create(&path, Dtype::F32, 3, 2)?;
    writer.write(values[..4].iter().map(|v| v.to_le_bytes()))?;
    assert!(!path.exists(), "no name before it is whole");
    writer.write(values[4..].iter().map(|v| v.to_le_bytes()))?;
    writer.finish()?;
    let mut reader = Reader::vectors(&path)?;
    assert_eq!((reader.rows(), reader.columns()), (3, 2));
    let mut row = Vec::new();
    for expected in values.chunks(2) {
        reader.read_floats(1, &mut row)?;
        assert!(row.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
    Ok(())
}

#[test]
fn all_integers_are_read() -> Done {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a.npy");
    let mut out = Vec::new();
    let cases: [(Dtype, Vec<u8>, [i128; 2]); 4] = [
        (Dtype::I32, [1, i32::MIN].map(i32::to_le_bytes).concat(), [1, i32::MIN.into()]),
        (Dtype::U32, [1, u32::MAX].map(u32::to_le_bytes).concat(), [1, u32::MAX.into()]),
        (Dtype::I64, [1, i64::MIN].map(i64::to_le_bytes).concat(), [1, i64::MIN.into()]),
        (Dtype::U64, [1, u64::MAX].map(u64::to_le_bytes).concat(), [1, u64::MAX.into()]),
    ];
    for (dtype, bytes, expected) in cases {
        written(&path, dtype, &[2], &bytes)?;
        Reader::ids(&path)?.read_integers(2, &mut out)?;
        assert_eq!(out, expected);
        assert!(refused(Reader::vectors(&path)).contains("expected vectors"));
        assert!(refused(Reader::id_rows(&path)).contains("[queries, neighbours]"));
    }
    Ok(())
}

#[test]
fn doubles_and_halves_become_floats() -> Done {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a.npy");
    let mut out = Vec::new();
    written(&path, Dtype::F16, &[1, 2], &[0x00, 0x3c, 0x00, 0xc1])?;
    Reader::vectors(&path)?.read_floats(1, &mut out)?;
    assert_eq!(out, [1.0, -2.5]);
    written(&path, Dtype::F64, &[2, 1], &[0.1f64, 1e39].map(f64::to_le_bytes).concat())?;
    let mut reader = Reader::vectors(&path)?;
    reader.read_floats(1, &mut out)?;
    assert_eq!(out, [0.1]);
    let error = reader.read_floats(1, &mut out).expect_err("too large").to_string();
    assert!(error.contains("row 1, component 0: 1e39 is too large"), "{error}");
    Ok(())
}

#[test]
fn all_versions_of_the_format_are_read() -> Done {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a.npy");
    let text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1), }\n";
    let length = text.len() as u32;
    for version in [1, 2, 3, 4] {
        let prelude = [MAGIC.as_slice(), &[version, 0]].concat();
        let length = length.to_le_bytes();
        let length = if version == 1 { &length[..2] } else { &length };
        std::fs::write(&path, [&prelude, length, text, &1f32.to_le_bytes()].concat())?;
        assert_eq!(Reader::vectors(&path).is_ok(), version < 4);
    }
    assert!(refused(Reader::vectors(&path)).contains("got 4.0"));
    let bytes = [MAGIC.as_slice(), &[2, 0], &u32::MAX.to_le_bytes()].concat();
    std::fs::write(&path, bytes)?;
    assert!(refused(Reader::vectors(&path)).contains("header of at most 65536 bytes"));
    Ok(())
}

#[test]
fn every_other_length_is_refused() -> Done {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a.npy");
    written(&path, Dtype::F32, &[2, 3], &[0; 24])?;
    let whole = std::fs::read(&path)?;
    for length in 0..whole.len() {
        std::fs::write(&path, &whole[..length])?;
        let error = refused(Reader::vectors(&path));
        assert!(error.contains("truncated") || error.contains("expected a .npy"), "{error}");
    }
    std::fs::write(&path, [&whole[..], &[0]].concat())?;
    assert!(refused(Reader::vectors(&path)).contains("too long: expected 152 bytes"));
    written(&path, Dtype::F32, &[u64::MAX, u64::MAX], &[])?;
    assert!(refused(Reader::vectors(&path)).contains("more than fits"));
    written(&path, Dtype::F32, &[3, 0], &[])?;
    assert!(refused(Reader::vectors(&path)).contains("shape [3, 0]"));
    Ok(())
}

#[test]
fn an_output_that_fails_leaves_what_was_there() -> Done {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a.npy");
    std::fs::write(&path, "old")?;
    drop(Writer::create(&path, Dtype::I64, 1, 1)?);
    assert_eq!(std::fs::read(&path)?, b"old");
    assert_eq!(std::fs::read_dir(dir.path())?.count(), 1, "nothing is left behind");
    assert!(Writer::create(dir.path(), Dtype::I64, 1, 1).is_err(), "a folder is in the way");
    Ok(())
}
