//! A `.npy` file as `matryo import` reads it.

use std::io::Write;

use tempfile::NamedTempFile;

use super::npy::{Dtype, Reader, Writer};

pub(super) fn vector_import(data: &[u8]) {
    let mut file = NamedTempFile::new().expect("temporary file");
    file.write_all(data).expect("written");
    file.flush().expect("written");
    let readers = [Reader::vectors, Reader::ids, Reader::id_rows];
    let accepted = readers.map(|open| open(file.path()).ok());
    assert!(accepted.iter().flatten().count() <= 1, "it is vectors, or ids, or rows of ids");
    let [vectors, ids, id_rows] = accepted;
    if let Some(reader) = vectors {
        read_vectors(reader, &file);
    }
    for mut reader in [ids, id_rows].into_iter().flatten() {
        let (mut out, mut left) = (Vec::new(), reader.rows());
        while left > 0 {
            let rows = left.min(7);
            reader.read_integers(rows, &mut out).expect("its length was checked");
            assert_eq!(out.len(), rows * reader.columns());
            left -= rows;
        }
    }
}

/// What is written of them is read again.
fn read_vectors(mut reader: Reader, file: &NamedTempFile) {
    let (rows, columns) = (reader.rows(), reader.columns());
    let (mut all, mut out) = (Vec::new(), Vec::new());
    while all.len() < rows * columns {
        let some = (rows - all.len() / columns).min(5);
        // Doubles may be too large for a float.
        if reader.read_floats(some, &mut out).is_err() {
            return;
        }
        assert_eq!(out.len(), some * columns);
        all.extend_from_slice(&out);
    }
    let path = file.path();
    let mut writer = Writer::create(path, Dtype::F32, rows, columns).expect("there is room");
    writer.write(all.iter().map(|v| v.to_le_bytes())).expect("there is room");
    writer.finish().expect("there is room");
    let mut again = Reader::vectors(path).expect("was just written");
    again.read_floats(rows, &mut out).expect("was just written");
    assert!(
        out.iter().zip(&all).all(|(a, b)| a.to_bits() == b.to_bits()) && out.len() == all.len()
    );
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let file = |descr: &str, shape: &str, data: usize| {
        let mut text =
            format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
        text += &" ".repeat((118usize).saturating_sub(text.len() + 1));
        text.push('\n');
        let head = [b"\x93NUMPY\x01\x00".as_slice(), &(text.len() as u16).to_le_bytes()].concat();
        let data: Vec<u8> = (0..data).map(|n| n as u8).collect();
        [head, text.into_bytes(), data].concat()
    };
    vec![
        file("<f4", "(3, 4)", 48),
        file("<f2", "(2, 8)", 32),
        file("<f8", "(2, 2)", 32),
        file("<i8", "(4,)", 32),
        file("<u4", "(2, 3)", 24),
        file("|O", "(1,)", 8),
        file("<f4", "(0, 4)", 0),
    ]
}
