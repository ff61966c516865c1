//! Tokenizing word by word, each distinct word once.
//!
//! In the tokenizers this accepts, no step looks past a space: the ids of a text
//! are the ids of its words, one after the other. Words repeat, so their ids are
//! kept and most of a text costs a lookup instead of the tokenizer's normalising,
//! splitting and matching; that is where a static model spends most of its time.
//!
//! Which tokenizers qualify is read from `tokenizer.json` and must be certain:
//! anything unknown takes the ordinary way. `tests::words_agree_with_whole_texts`
//! holds the two ways to the same ids.

use std::collections::HashMap;

use serde_json::Value;

/// Parsed a second time to be judged, so only up to a usual size.
const FILE_CAP: usize = 8 << 20;

/// A longer word is rare, and would only fill the cache.
const WORD_CAP: usize = 48;

/// Words kept per cache, some megabytes; a full cache starts again.
const CACHE_CAP: usize = 100_000;

/// Patterns of `Replace` steps that were looked at and do not reach over a space.
/// This one cuts `camelCase` words.
const LOCAL_PATTERNS: [&str; 1] = ["(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])"];

/// Whether the ids of a text are those of its words, whatever the words.
pub(super) fn separable(tokenizer_json: &[u8]) -> bool {
    if tokenizer_json.len() > FILE_CAP {
        return false;
    }
    let Ok(file) = serde_json::from_slice::<Value>(tokenizer_json) else { return false };
    // WordPiece sees one pre-token at a time, and this pre-tokenizer cuts at spaces.
    kind(&file["model"]) == Some("WordPiece")
        && kind(&file["pre_tokenizer"]) == Some("BertPreTokenizer")
        && local_normalizer(&file["normalizer"])
        && file["added_tokens"].as_array().is_none_or(|all| all.iter().all(local_token))
        && file["truncation"]["direction"].as_str().is_none_or(|side| side == "Right")
}

fn kind(part: &Value) -> Option<&str> {
    part["type"].as_str()
}

fn local_normalizer(part: &Value) -> bool {
    match kind(part) {
        None => part.is_null(),
        Some("BertNormalizer" | "Lowercase") => true,
        Some("Sequence") => {
            part["normalizers"].as_array().is_some_and(|all| all.iter().all(local_normalizer))
        }
        Some("Replace") => {
            let pattern = part["pattern"]["Regex"].as_str();
            pattern.is_some_and(|p| LOCAL_PATTERNS.contains(&p)) && part["content"] == " "
        }
        Some(_) => false,
    }
}

/// A special token that is found inside a word or not at all.
fn local_token(token: &Value) -> bool {
    let no = |flag: &str| token[flag] == false;
    let content = token["content"].as_str().unwrap_or(" ");
    ["single_word", "lstrip", "rstrip", "normalized"].into_iter().all(no)
        && !content.is_empty()
        && !content.contains(char::is_whitespace)
}

/// The ids of words seen before.
#[derive(Default)]
pub(super) struct Cache {
    /// Where in `ids` a word's ids are.
    places: HashMap<Box<str>, (u32, u32)>,
    ids: Vec<u32>,
}

impl Cache {
    /// Appends the ids of `text` to `into`, at most `limit` of them. `encode` gives
    /// the ids of one word.
    pub(super) fn encode<E>(
        &mut self,
        text: &str,
        limit: usize,
        into: &mut Vec<u32>,
        encode: impl Fn(&str, &mut Vec<u32>) -> Result<(), E>,
    ) -> Result<(), E> {
        let end = into.len().saturating_add(limit);
        for word in text.split([' ', '\n', '\t', '\r']).filter(|word| !word.is_empty()) {
            if let Some(&(start, stop)) = self.places.get(word) {
                into.extend_from_slice(&self.ids[start as usize..stop as usize]);
            } else {
                let start = into.len();
                encode(word, into)?;
                self.keep(word, &into[start..]);
            }
            if into.len() >= end {
                into.truncate(end);
                break;
            }
        }
        Ok(())
    }

    fn keep(&mut self, word: &str, ids: &[u32]) {
        if word.len() > WORD_CAP {
            return;
        }
        if self.places.len() >= CACHE_CAP {
            *self = Self::default();
        }
        let start = self.ids.len() as u32;
        self.ids.extend_from_slice(ids);
        self.places.insert(word.into(), (start, self.ids.len() as u32));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::Tokenizer;

    /// The test model's tokenizer, with the given normalizer.
    fn tokenizer(normalizer: &Value) -> Vec<u8> {
        let bytes = include_bytes!("../../tests/fixtures/models/static/tokenizer.json");
        let mut file: Value = serde_json::from_slice(bytes).unwrap();
        file["normalizer"] = normalizer.clone();
        file.to_string().into_bytes()
    }

    fn bert(lowercase: bool, strip_accents: bool) -> Value {
        serde_json::json!({"type": "BertNormalizer", "clean_text": true, "lowercase": lowercase,
            "handle_chinese_chars": true, "strip_accents": strip_accents})
    }

    fn camel() -> Value {
        let cut = serde_json::json!({"type": "Replace", "pattern": {"Regex": LOCAL_PATTERNS[0]},
            "content": " "});
        serde_json::json!({"type": "Sequence", "normalizers": [cut, bert(true, true)]})
    }

    fn by_words(tokenizer: &Tokenizer, cache: &mut Cache, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        let encode = |word: &str, into: &mut Vec<u32>| {
            into.extend_from_slice(tokenizer.encode_fast(word, false)?.get_ids());
            Ok::<_, tokenizers::Error>(())
        };
        cache.encode(text, usize::MAX, &mut ids, encode).unwrap();
        ids
    }

    proptest! {
        #[test]
        fn words_agree_with_whole_texts(
            texts in prop::collection::vec(
                concat!(
                    "([a-zA-Z0-9.]{1,9}|\\PC{1,4}|[ \t\n\r]{1,3}|\u{301}|\u{a0}|\u{2028}|",
                    "\\[CLS\\]|\\[P|AD\\]|\u{c9}|\0|\u{3a3}){0,24}",
                ),
                1..6,
            ),
        ) {
            for normalizer in [Value::Null, bert(true, true), bert(false, false), camel()] {
                let file = tokenizer(&normalizer);
                prop_assert!(separable(&file));
                let tokenizer = Tokenizer::from_bytes(&file).unwrap();
                let mut cache = Cache::default();
                // Twice: the second time, words come from the cache.
                for text in texts.iter().chain(&texts) {
                    let whole = tokenizer.encode_fast(text.as_str(), false).unwrap();
                    prop_assert_eq!(by_words(&tokenizer, &mut cache, text), whole.get_ids());
                }
            }
        }
    }

    #[test]
    fn the_limit_cuts_inside_a_word() {
        let mut ids = vec![9];
        let encode = |word: &str, into: &mut Vec<u32>| {
            into.extend(word.bytes().map(u32::from));
            Ok::<_, ()>(())
        };
        Cache::default().encode("\u{1}\u{2} \u{3}\u{4} \u{5}", 3, &mut ids, encode).unwrap();
        assert_eq!(ids, [9, 1, 2, 3]);
    }

    #[test]
    fn what_is_not_known_to_be_separable_is_not() {
        let change = |pointer: &str, value: Value| {
            let mut file: Value = serde_json::from_slice(&tokenizer(&camel())).unwrap();
            *file.pointer_mut(pointer).unwrap() = value;
            separable(file.to_string().as_bytes())
        };
        assert!(change("/added_tokens/0/content", "[MASK]".into()));
        assert!(!change("/added_tokens/0/content", "two words".into()));
        assert!(!change("/added_tokens/0/lstrip", true.into()));
        assert!(!change("/model/type", "BPE".into()));
        assert!(!change("/pre_tokenizer/type", "Metaspace".into()));
        assert!(!change("/normalizer/normalizers/0/pattern/Regex", "\\s+".into()));
        assert!(!change("/normalizer/normalizers/1/type", "Prepend".into()));
        assert!(!change("/truncation", serde_json::json!({"direction": "Left"})));
        assert!(!separable(b"{"));
    }
}
