//! The header of a `.npy` file: bytes to [`Header`] and back, without I/O.
//!
//! ```text
//!   \x93NUMPY  major minor  length: u16 (version 1) or u32 (2 and 3)
//!   {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }  spaces  \n
//! ```
//!
//! The text is a Python literal. What is accepted is the literal `NumPy`
//! itself writes, with any spacing and order of keys; everything else is refused with
//! the reason, because a header read wrongly gives vectors that look right.

use std::fmt;

/// What every `.npy` file begins with.
pub(crate) const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Longest header text that is read. `NumPy` writes about 120 bytes for an array
/// without fields; a length beyond this is damage, or meant to exhaust memory.
pub(crate) const MAX_TEXT: usize = 64 << 10;
/// Most axes of a `NumPy` array.
const MAX_AXES: usize = 64;
/// Where data begins in a file we write: one alignment unit of the format.
const ALIGN: usize = 64;

/// The little-endian element types that are vectors or ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dtype {
    F16,
    F32,
    F64,
    I32,
    I64,
    U32,
    U64,
}

impl Dtype {
    const ALL: [Self; 7] =
        [Self::F16, Self::F32, Self::F64, Self::I32, Self::I64, Self::U32, Self::U64];

    /// As `descr` writes it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::F16 => "<f2",
            Self::F32 => "<f4",
            Self::F64 => "<f8",
            Self::I32 => "<i4",
            Self::I64 => "<i8",
            Self::U32 => "<u4",
            Self::U64 => "<u8",
        }
    }

    /// Bytes of one element.
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
        }
    }

    pub(crate) const fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::F32 | Self::F64)
    }

    /// The type a `descr` names, or why it cannot be read.
    fn parse(descr: &str) -> Result<Self, String> {
        if let Some(known) = Self::ALL.into_iter().find(|d| d.name() == descr) {
            return Ok(known);
        }
        let what = match descr.get(..1) {
            _ if descr.contains('O') => "Python objects (pickle), which could run code",
            Some(">") => "big-endian numbers: convert with `a.astype(a.dtype.newbyteorder('<'))`",
            _ => "something else",
        };
        let known = Self::ALL.map(Self::name).join(" ");
        Err(format!("expected a dtype of {known}, got '{descr}', {what}"))
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What stands in the header of an array in C order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<u64>,
}

impl Header {
    /// Bytes of the array; `None` if they do not fit in a number.
    pub(crate) fn data_bytes(&self) -> Option<u64> {
        self.shape.iter().try_fold(self.dtype.bytes() as u64, |bytes, n| bytes.checked_mul(*n))
    }

    /// Reads the header's text, the part after its length.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(text).map_err(|_| "the header is not text".to_owned())?;
        let mut literal = Literal { rest: text };
        let (mut dtype, mut shape, mut order) = (None, None, None);
        literal.expect("{")?;
        while !literal.eat("}") {
            let key = literal.string()?;
            literal.expect(":")?;
            let repeated = match key {
                "descr" => dtype.replace(literal.descr()?).is_some(),
                "fortran_order" => order.replace(literal.boolean()?).is_some(),
                "shape" => shape.replace(literal.shape()?).is_some(),
                other => return Err(format!("the header has an unknown key '{other}'")),
            };
            if repeated {
                return Err(format!("the header has the key '{key}' twice"));
            }
            if !literal.eat(",") {
                literal.expect("}")?;
                break;
            }
        }
        literal.end()?;
        let lacks = |key: &str| format!("the header lacks the key '{key}'");
        if order.ok_or_else(|| lacks("fortran_order"))? {
            let cure = "save it with `numpy.ascontiguousarray(a)`";
            return Err(format!("expected an array in C order, got Fortran order: {cure}"));
        }
        let dtype = dtype.ok_or_else(|| lacks("descr"))?;
        Ok(Self { dtype, shape: shape.ok_or_else(|| lacks("shape"))? })
    }

    /// The whole header of a version 1 file, padded so that the data is aligned.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let axes: Vec<_> = self.shape.iter().map(ToString::to_string).collect();
        // Python writes a tuple of one as (5,).
        let shape = axes.join(", ") + if axes.len() == 1 { "," } else { "" };
        let text =
            format!("{{'descr': '{}', 'fortran_order': False, 'shape': ({shape}), }}", self.dtype);
        let start = MAGIC.len() + 4;
        let padded = (start + text.len() + 1).next_multiple_of(ALIGN) - start;
        let length = u16::try_from(padded).expect("a few axes make a short header");
        let mut bytes = [MAGIC.as_slice(), &[1, 0], &length.to_le_bytes()].concat();
        bytes.extend_from_slice(format!("{text:<width$}\n", width = padded - 1).as_bytes());
        bytes
    }
}

/// What is left of a Python literal.
struct Literal<'a> {
    rest: &'a str,
}

impl<'a> Literal<'a> {
    /// Takes `token` and the spaces before it, if it is next.
    fn eat(&mut self, token: &str) -> bool {
        match self.rest.trim_start().strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.eat(token) { Ok(()) } else { Err(self.unexpected(&format!("'{token}'"))) }
    }

    fn unexpected(&self, expected: &str) -> String {
        let got: String = self.rest.trim_start().chars().take(20).collect();
        format!("the header should go on with {expected}, got {got:?}")
    }

    /// A string in either quote. Escapes never occur in a key or an accepted
    /// `descr`, so a backslash is taken as it is and refused by whoever compares.
    fn string(&mut self) -> Result<&'a str, String> {
        for quote in ["'", "\""] {
            if self.eat(quote) {
                let (inside, rest) = self
                    .rest
                    .split_once(quote)
                    .ok_or_else(|| self.unexpected("a closing quote"))?;
                self.rest = rest;
                return Ok(inside);
            }
        }
        Err(self.unexpected("a string"))
    }

    fn descr(&mut self) -> Result<Dtype, String> {
        if self.rest.trim_start().starts_with(['[', '(', '{']) {
            let what = "a structured dtype: save one field of it, as plain numbers";
            return Err(format!("expected an array of numbers, got {what}"));
        }
        Dtype::parse(self.string()?)
    }

    fn boolean(&mut self) -> Result<bool, String> {
        match (self.eat("True"), self.eat("False")) {
            (true, false) => Ok(true),
            (false, true) => Ok(false),
            _ => Err(self.unexpected("True or False")),
        }
    }

    fn shape(&mut self) -> Result<Vec<u64>, String> {
        let mut shape = Vec::new();
        self.expect("(")?;
        while !self.eat(")") {
            if shape.len() == MAX_AXES {
                return Err(format!("the header's shape has more than {MAX_AXES} axes"));
            }
            shape.push(self.number()?);
            if !self.eat(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(shape)
    }

    fn number(&mut self) -> Result<u64, String> {
        let rest = self.rest.trim_start();
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (digits, rest) = rest.split_at(end);
        let number = digits.parse().map_err(|_| self.unexpected("a number of 64 bits"))?;
        self.rest = rest;
        Ok(number)
    }

    fn end(&self) -> Result<(), String> {
        if self.rest.trim().is_empty() { Ok(()) } else { Err(self.unexpected("its end")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Header, String> {
        Header::parse(text.as_bytes())
    }

    fn refused(text: &str) -> String {
        parse(text).expect_err("must be refused")
    }

    #[test]
    fn headers_of_numpy_are_read() {
        let header = Header { dtype: Dtype::F16, shape: vec![20_000, 1024] };
        let text = "{'descr': '<f2', 'fortran_order': False, 'shape': (20000, 1024), }     \n";
        assert_eq!(parse(text), Ok(header.clone()));
        let text = "{\"shape\":(20000,1024),\"fortran_order\":False,\"descr\":\"<f2\"}";
        assert_eq!(parse(text), Ok(header));
        for (text, shape) in
            [("()", vec![]), ("(7,)", vec![7]), ("(7)", vec![7]), ("(0, 3)", vec![0, 3])]
        {
            let header = parse(&format!("{{'descr':'<i8','fortran_order':False,'shape':{text}}}"));
            assert_eq!(header, Ok(Header { dtype: Dtype::I64, shape }));
        }
    }

    #[test]
    fn headers_are_written_as_they_are_read() {
        for dtype in Dtype::ALL {
            for shape in [vec![], vec![5], vec![3, 4], vec![u64::MAX; 4]] {
                let header = Header { dtype, shape };
                let bytes = header.encode();
                assert_eq!(bytes.len() % ALIGN, 0);
                assert_eq!(Header::parse(&bytes[10..]), Ok(header));
            }
        }
    }

    #[test]
    fn arrays_that_are_not_plain_numbers_say_what_they_are() {
        let of = |descr: &str, order: &str| {
            refused(&format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': (2, 2), }}"))
        };
        assert!(of("'|O'", "False").contains("pickle"));
        assert!(of("'>f4'", "False").contains("big-endian"));
        assert!(of("'<c8'", "False").contains("got '<c8'"));
        assert!(of("'\u{e9}'", "False").contains("got '\u{e9}'"));
        assert!(of("[('a', '<f4')]", "False").contains("structured"));
        assert!(of("'<f4'", "True").contains("Fortran order"));
    }

    #[test]
    fn broken_headers_are_refused() {
        let whole = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }";
        for end in 0..whole.len() {
            refused(&whole[..end]);
        }
        assert!(refused(&format!("{whole} x")).contains("its end"));
        assert!(refused(&whole.replace("(2, 2)", "(2, -2)")).contains("a number"));
        assert!(refused(&whole.replace("(2, 2)", "(99999999999999999999,)")).contains("64 bits"));
        assert!(refused(&whole.replace("descr", "shape")).contains("'('"));
        assert!(refused(&whole.replace(", }", ", 'x': 1}")).contains("unknown key 'x'"));
        let twice = whole.replace("'fortran_order'", "'descr': '<f4', 'fortran_order'");
        assert!(refused(&twice).contains("twice"));
        let axes = format!("({})", "1,".repeat(MAX_AXES + 1));
        assert!(refused(&whole.replace("(2, 2)", &axes)).contains("axes"));
        assert!(Header::parse(b"\xff").is_err());
    }
}
