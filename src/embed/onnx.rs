//! A look at an ONNX file before ONNX Runtime sees it.
//!
//! An ONNX graph may keep its weights in other files and names them by path;
//! loaders that trusted those paths have been made to read any file on the
//! machine. So the graph is walked here first, reading only what matters: the
//! external locations of every tensor, and whether activations are quantised
//! while running. Everything else in the protobuf is skipped unread.
//!
//! The walker allocates nothing but its answer, checks every length against the
//! bytes that are there, and bounds the nesting of subgraphs.

use std::collections::BTreeMap;

/// Subgraphs (the branches of an `If`) nest; no real model comes near this.
const MAX_DEPTH: usize = 64;

/// What the walk found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// External files, with the least size each must have.
    pub(super) external: BTreeMap<String, u64>,
    /// The graph computes a quantisation scale from each whole batch, so that a
    /// text's vector depends on what else is in its batch.
    pub(super) dynamic_quantization: bool,
}

/// Walks a serialised `ModelProto`.
pub(super) fn inspect(bytes: &[u8]) -> Result<Facts, &'static str> {
    let mut facts = Facts::default();
    let mut has_graph = false;
    for field in Fields(bytes) {
        let (number, value) = field?;
        match (number, value) {
            (7, Value::Bytes(graph)) => {
                has_graph = true;
                facts.graph(graph, 0)?;
            }
            // Training graphs and functions can hold tensors too.
            (20, Value::Bytes(training)) => facts.children(training, &[1, 2], Facts::graph, 0)?,
            (25, Value::Bytes(function)) => facts.children(function, &[7], Facts::node, 0)?,
            _ => {}
        }
    }
    if has_graph { Ok(facts) } else { Err("there is no graph in it") }
}

impl Facts {
    fn graph(&mut self, bytes: &[u8], depth: usize) -> Result<(), &'static str> {
        if depth > MAX_DEPTH {
            return Err("its subgraphs nest too deep");
        }
        for field in Fields(bytes) {
            match field? {
                (1, Value::Bytes(node)) => self.node(node, depth)?,
                (5, Value::Bytes(tensor)) => self.tensor(tensor, depth)?,
                (15, Value::Bytes(sparse)) => {
                    self.children(sparse, &[1, 2], Self::tensor, depth)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn node(&mut self, bytes: &[u8], depth: usize) -> Result<(), &'static str> {
        for field in Fields(bytes) {
            match field? {
                (4, Value::Bytes(op)) if op.starts_with(b"DynamicQuantize") => {
                    self.dynamic_quantization = true;
                }
                (5, Value::Bytes(attribute)) => self.attribute(attribute, depth)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn attribute(&mut self, bytes: &[u8], depth: usize) -> Result<(), &'static str> {
        for field in Fields(bytes) {
            match field? {
                (5 | 10, Value::Bytes(tensor)) => self.tensor(tensor, depth)?,
                (6 | 11, Value::Bytes(graph)) => self.graph(graph, depth + 1)?,
                (22 | 23, Value::Bytes(sparse)) => {
                    self.children(sparse, &[1, 2], Self::tensor, depth)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn tensor(&mut self, bytes: &[u8], _depth: usize) -> Result<(), &'static str> {
        let (mut location, mut offset, mut length) = (None, 0_u64, 0_u64);
        for field in Fields(bytes) {
            let (13, Value::Bytes(entry)) = field? else { continue };
            let (key, value) = string_pair(entry)?;
            match key {
                b"location" => location = Some(value),
                b"offset" => offset = number(value)?,
                b"length" => length = number(value)?,
                _ => {}
            }
        }
        let Some(location) = location else { return Ok(()) };
        let location = std::str::from_utf8(location)
            .map_err(|_| "the location of an external tensor is not UTF-8")?;
        let end = offset.checked_add(length).ok_or("an external tensor ends beyond any file")?;
        let needed = self.external.entry(location.to_string()).or_default();
        *needed = end.max(*needed);
        Ok(())
    }

    fn children(
        &mut self,
        bytes: &[u8],
        wanted: &[u64],
        visit: fn(&mut Self, &[u8], usize) -> Result<(), &'static str>,
        depth: usize,
    ) -> Result<(), &'static str> {
        for field in Fields(bytes) {
            if let (number, Value::Bytes(child)) = field?
                && wanted.contains(&number)
            {
                visit(self, child, depth)?;
            }
        }
        Ok(())
    }
}

fn string_pair(entry: &[u8]) -> Result<(&[u8], &[u8]), &'static str> {
    let (mut key, mut value): (&[u8], &[u8]) = (&[], &[]);
    for field in Fields(entry) {
        match field? {
            (1, Value::Bytes(b)) => key = b,
            (2, Value::Bytes(b)) => value = b,
            _ => {}
        }
    }
    Ok((key, value))
}

fn number(text: &[u8]) -> Result<u64, &'static str> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|t| t.parse().ok())
        .ok_or("the offset or length of an external tensor is not a number")
}

/// A protobuf value; numbers are of no interest here.
enum Value<'a> {
    Bytes(&'a [u8]),
    Other,
}

/// The fields of one protobuf message, in order; ends after the first error.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or("it is not an ONNX file, or is cut short"))
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let tag = self.varint()?;
        let number = tag >> 3;
        if number == 0 {
            return None;
        }
        let value = match tag & 7 {
            0 => self.varint().map(|_| Value::Other)?,
            1 => self.take(8).map(|_| Value::Other)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Other)?,
            _ => return None,
        };
        Some((number, value))
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let &[byte] = self.take(1)? else { return None };
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(body.len()).unwrap()];
        out.extend_from_slice(body);
        out
    }

    fn entry(key: &str, value: &str) -> Vec<u8> {
        let pair = [message(1, key.as_bytes()), message(2, value.as_bytes())].concat();
        message(13, &pair)
    }

    fn external(location: &str, offset: &str, length: &str) -> Vec<u8> {
        [entry("location", location), entry("offset", offset), entry("length", length)].concat()
    }

    #[test]
    fn finds_locations_in_initializers_and_in_subgraphs() {
        let inner = message(5, &external("b.bin", "0", "1"));
        let node = message(1, &message(5, &message(6, &inner)));
        let graph = [message(5, &external("a.bin", "8", "4")), node].concat();
        let facts = inspect(&message(7, &graph)).unwrap();
        let found: Vec<_> = facts.external.into_iter().collect();
        assert_eq!(found, [("a.bin".to_string(), 12), ("b.bin".to_string(), 1)]);
    }

    #[test]
    fn sees_dynamic_quantization() {
        let node = message(1, &message(4, b"DynamicQuantizeLinear"));
        assert!(inspect(&message(7, &node)).unwrap().dynamic_quantization);
    }

    #[test]
    fn every_cut_is_an_error_or_an_answer_and_never_a_panic() {
        let bytes = message(7, &message(5, &external("a.bin", "8", "4")));
        for cut in 0..bytes.len() {
            assert!(inspect(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..bytes.len() {
            for byte in 0..=255 {
                let mut changed = bytes.clone();
                changed[at] = byte;
                let _ = inspect(&changed);
            }
        }
    }

    #[test]
    fn refuses_what_is_not_a_graph_or_overflows() {
        assert!(inspect(b"version https://git-lfs.github.com/spec/v1").is_err());
        assert!(inspect(b"").is_err());
        let huge = external("a.bin", &u64::MAX.to_string(), "1");
        assert!(inspect(&message(7, &message(5, &huge))).is_err());
    }
}
