//! Texts to token ids.
//!
//! The tokenizer comes from the model directory and runs code paths chosen by
//! its file, some of which have panicked on odd input before; so loading and
//! encoding are fenced with `catch_unwind` and a panic becomes an error.
//!
//! Token ids are kept flat, without the strings and offsets a tokenizer also
//! makes.

use std::borrow::Cow;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::OnceLock;

use parking_lot::Mutex;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::normalizers::utils::{Lowercase, Sequence};
use tokenizers::{
    PaddingDirection, Tokenizer as HfTokenizer, TruncationDirection, TruncationParams,
};

use super::config::{Config, Side};
use super::files::{ModelDir, damaged, model};
use super::fingerprint::{Hash, Hasher};
use super::modules::{Backbone, inside};
use super::threads;
use super::words::{self, Cache};
use crate::error::{Error, Result};

pub(super) const FILE: &str = "tokenizer.json";

/// Largest `tokenizer.json` read; the largest in use have about 40 MB.
const FILE_CAP: u64 = 64 << 20;

/// Fewer texts than this are not worth a thread.
const TEXTS_PER_THREAD: usize = 64;

/// What a text is embedded for. Models may cut texts of one kind shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// To be found.
    Document,
    /// To search with.
    Query,
    /// What the caller chose a prompt for.
    Other,
}

/// A tokenizer for each kind of text.
pub(super) struct Tokenizers {
    usual: Tokenizer,
    /// Where the model cuts them elsewhere.
    documents: Option<Tokenizer>,
    queries: Option<Tokenizer>,
}

impl Tokenizers {
    /// Loads `tokenizer.json`; also returns its hash, for the fingerprint. `max_tokens` is
    /// the limit for all kinds, if one was asked for.
    pub(super) fn load(
        dir: &ModelDir,
        config: &Config,
        max_tokens: Option<usize>,
    ) -> Result<(Self, Hash)> {
        let (usual, hash) = Tokenizer::load(dir, config, max_tokens)?;
        let path = dir.root().join(FILE);
        let own = |limit: Option<usize>| {
            let limit = limit.filter(|_| max_tokens.is_none());
            limit.map(|limit| usual.with_limit(&path, limit)).transpose()
        };
        let (documents, queries) = (own(config.document_tokens)?, own(config.query_tokens)?);
        Ok((Self { usual, documents, queries }, hash))
    }

    pub(super) fn of(&self, kind: Kind) -> &Tokenizer {
        let own = match kind {
            Kind::Document => self.documents.as_ref(),
            Kind::Query => self.queries.as_ref(),
            Kind::Other => None,
        };
        own.unwrap_or(&self.usual)
    }

    /// The limits of documents, queries and other texts, if they were set apart.
    pub(super) fn apart(&self) -> Option<[Option<usize>; 3]> {
        let kinds = [Kind::Document, Kind::Query, Kind::Other];
        let set = self.documents.is_some() || self.queries.is_some();
        set.then(|| kinds.map(|kind| self.of(kind).max_tokens))
    }

    /// Where the longest text is cut.
    pub(super) fn longest(&self) -> Option<usize> {
        let own = [&self.documents, &self.queries].into_iter().flatten();
        own.map(|t| t.max_tokens).fold(self.usual.max_tokens, |most, n| Some(most?.max(n?)))
    }
}

/// A loaded tokenizer with the model's limits applied.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Tokenizer {
    inner: HfTokenizer,
    pub(super) special_tokens: bool,
    /// Texts are put into lower case first, though the file does not say so.
    pub(super) lower_case: bool,
    /// What fills the short rows of a batch; masked, so that it changes nothing.
    pub(super) pad_id: u32,
    /// Padding comes before the text: some graphs take the last place of a row for
    /// the end of the text.
    pub(super) pad_left: bool,
    /// Where a text is cut, special tokens included.
    pub(super) max_tokens: Option<usize>,
    /// A long text loses its start.
    pub(super) cut_left: bool,
    /// The same without that limit, for counting: made when it is asked for.
    uncut: OnceLock<Box<HfTokenizer>>,
    /// Set when texts may be tokenized word by word.
    by_words: Option<ByWords>,
}

/// What surrounds the words' ids, and caches for as many threads as ever ran.
struct ByWords {
    before: Vec<u32>,
    after: Vec<u32>,
    caches: Mutex<Vec<Cache>>,
}

/// Token ids of some texts, back to back.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    ids: Vec<u32>,
    ends: Vec<usize>,
}

impl Tokens {
    pub(super) fn texts(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn ids(&self, text: usize) -> &[u32] {
        let start = if text == 0 { 0 } else { self.ends[text - 1] };
        &self.ids[start..self.ends[text]]
    }

    pub(super) fn push(&mut self, ids: &[u32]) {
        self.ids.extend_from_slice(ids);
        self.ends.push(self.ids.len());
    }

    fn append(&mut self, other: &Self) {
        let base = self.ids.len();
        self.ids.extend_from_slice(&other.ids);
        self.ends.extend(other.ends.iter().map(|end| base + end));
    }
}

impl Tokenizer {
    /// Loads `tokenizer.json`; also returns its hash, for the fingerprint.
    pub(super) fn load(
        dir: &ModelDir,
        config: &Config,
        max_tokens: Option<usize>,
    ) -> Result<(Self, Hash)> {
        let beside = inside(&config.modules.folder, FILE);
        let name = if dir.has(&beside)? { beside.as_str() } else { FILE };
        let path = dir.root().join(name);
        let bytes = dir.read(name, FILE_CAP)?.ok_or_else(|| {
            let why = "there is no such file: save the model's fast tokenizer into this directory \
                       (in Python: AutoTokenizer.from_pretrained(NAME).save_pretrained(DIR))";
            model(&path, why)
        })?;
        let loaded = guarded(|| HfTokenizer::from_bytes(&bytes));
        let mut inner = loaded.map_err(|why| {
            model(&path, format!("cannot be loaded ({why}): {}", damaged(&bytes)))
        })?;
        if config.lower_case {
            lower_case(&mut inner).map_err(|e| model(&path, e.to_string()))?;
        }
        let pad_id = pad_id(&inner, config);
        let own = inner.get_padding().map(|p| matches!(p.direction, PaddingDirection::Left));
        let declared = config.padding.map(|side| side == Side::Left);
        let mut tokenizer = Self {
            pad_left: declared.or(own).unwrap_or(false),
            inner,
            special_tokens: config.special_tokens,
            lower_case: config.lower_case,
            pad_id,
            max_tokens: None,
            cut_left: false,
            uncut: OnceLock::new(),
            by_words: None,
        };
        tokenizer.limit(&path, config, max_tokens)?;
        // Word by word, a text is read from its start and cut at its end.
        if !tokenizer.cut_left && words::separable(&bytes) {
            tokenizer.by_words = tokenizer.surroundings();
        }
        let mut hasher = Hasher::new("tokenizer");
        hasher.bytes(&bytes);
        Ok((tokenizer, hasher.finish()))
    }

    /// Applies the token limit; padding is ours, so the tokenizer's is turned off.
    fn limit(&mut self, path: &Path, config: &Config, asked: Option<usize>) -> Result<()> {
        let own = self.inner.get_truncation().cloned();
        let limit = asked.or(config.max_tokens).or(own.as_ref().map(|t| t.max_length));
        if limit.is_none() && config.modules.backbone != Backbone::Static {
            let why = "and the configuration beside it name no limit of tokens per text: add \
                       {\"max_seq_length\": N} as sentence_bert_config.json, or call max_tokens(N)";
            return Err(model(path, why));
        }
        self.cut_left = direction(config, own.as_ref()) == TruncationDirection::Left;
        self.inner.with_padding(None);
        self.cut_at(path, limit)
    }

    fn cut_at(&mut self, path: &Path, limit: Option<usize>) -> Result<()> {
        let least = self.added_tokens().saturating_add(1);
        if let Some(n) = limit.filter(|&n| n < least) {
            let why = format!("adds {} tokens to each text, and the limit is {n}", least - 1);
            return Err(model(path, why));
        }
        let end =
            if self.cut_left { TruncationDirection::Left } else { TruncationDirection::Right };
        let params = limit.map(|max_length| TruncationParams {
            max_length,
            direction: end,
            ..TruncationParams::default()
        });
        let set = guarded(|| self.inner.with_truncation(params).map(|_| ()));
        set.map_err(|why| model(path, format!("cannot be limited to {limit:?} tokens: {why}")))?;
        self.max_tokens = limit;
        Ok(())
    }

    /// The same tokenizer with another limit.
    fn with_limit(&self, path: &Path, limit: usize) -> Result<Self> {
        let words = |by: &ByWords| {
            let (before, after) = (by.before.clone(), by.after.clone());
            ByWords { before, after, caches: Mutex::default() }
        };
        let mut other = Self {
            inner: self.inner.clone(),
            uncut: OnceLock::new(),
            by_words: self.by_words.as_ref().map(words),
            ..*self
        };
        other.cut_at(path, Some(limit))?;
        Ok(other)
    }

    fn added_tokens(&self) -> usize {
        use tokenizers::PostProcessor;
        let added = self.inner.get_post_processor().map_or(0, |p| p.added_tokens(false));
        if self.special_tokens { added } else { 0 }
    }

    /// The special tokens put around every text, found by looking at a short one.
    fn surroundings(&self) -> Option<ByWords> {
        let encode = |special| guarded(|| self.inner.encode_fast("a", special)).ok();
        let (bare, full) = (encode(false)?, encode(self.special_tokens)?);
        let (bare, full) = (bare.get_ids(), full.get_ids());
        let added = full.len().checked_sub(bare.len()).filter(|_| !bare.is_empty())?;
        if added != self.added_tokens() {
            return None;
        }
        let mut starts = (0..=added).filter(|&at| full[at..].starts_with(bare));
        let at = starts.next()?;
        // Found twice, it cannot be told which is the text.
        if starts.next().is_some() {
            return None;
        }
        let (before, after) = (full[..at].to_vec(), full[at + bare.len()..].to_vec());
        Some(ByWords { before, after, caches: Mutex::default() })
    }

    /// How many leading tokens of a text come from `prompt`.
    pub(super) fn prompt_tokens(&self, prompt: &str) -> Result<usize> {
        let tokens = self.encode_some("", &[prompt])?;
        let ids = tokens.ids(0);
        // An end-of-text token follows the text, not the prompt.
        let specials = self.inner.get_added_tokens_decoder();
        let ends = ids.last().is_some_and(|id| specials.get(id).is_some_and(|t| t.special));
        Ok(ids.len() - usize::from(ends))
    }

    /// Tokens of `prompt` + `text` before they are cut, special ones included.
    pub(super) fn count(&self, prompt: &str, text: &str) -> Result<usize> {
        let whole = format!("{prompt}{text}");
        let counted = guarded(|| {
            let tokenizer = match self.max_tokens {
                None => &self.inner,
                Some(_) => self.uncut.get_or_init(|| self.without_limit()),
            };
            tokenizer.encode_fast(whole.as_str(), self.special_tokens)
        });
        Ok(counted.map_err(|why| refused(text, &why))?.len())
    }

    fn without_limit(&self) -> Box<HfTokenizer> {
        let mut uncut = Box::new(self.inner.clone());
        uncut.with_truncation(None).expect("only a limit can be wrong");
        uncut
    }

    fn encode_whole(&self, text: &str, into: &mut Tokens) -> Result<()> {
        let encoding = guarded(|| self.inner.encode_fast(text, self.special_tokens));
        into.push(encoding.map_err(|why| refused(text, &why))?.get_ids());
        Ok(())
    }

    fn encode_words(
        &self,
        words: &ByWords,
        cache: &mut Cache,
        text: &str,
        into: &mut Tokens,
    ) -> Result<()> {
        let encode = |word: &str, ids: &mut Vec<u32>| {
            let encoding = guarded(|| self.inner.encode_fast(word, false));
            ids.extend_from_slice(encoding.map_err(|why| refused(word, &why))?.get_ids());
            Ok::<(), Error>(())
        };
        let added = words.before.len() + words.after.len();
        let limit = self.max_tokens.map_or(usize::MAX, |n| n - added);
        into.ids.extend_from_slice(&words.before);
        cache.encode(text, limit, &mut into.ids, encode)?;
        into.push(&words.after);
        Ok(())
    }

    fn encode_some<S: AsRef<str>>(&self, prompt: &str, texts: &[S]) -> Result<Tokens> {
        let mut tokens = Tokens::default();
        let words = self.by_words.as_ref();
        let mut cache = words.and_then(|w| w.caches.lock().pop()).unwrap_or_default();
        for text in texts {
            let mut text = Cow::Borrowed(text.as_ref());
            if !prompt.is_empty() {
                text = Cow::Owned(format!("{prompt}{text}"));
            }
            match words {
                Some(words) => self.encode_words(words, &mut cache, &text, &mut tokens)?,
                None => self.encode_whole(&text, &mut tokens)?,
            }
        }
        if let Some(words) = words {
            words.caches.lock().push(cache);
        }
        Ok(tokens)
    }

    /// Encodes `prompt` + each text, on up to `threads` threads.
    pub(super) fn encode<S: AsRef<str> + Sync>(
        &self,
        prompt: &str,
        texts: &[S],
        threads: NonZeroUsize,
    ) -> Result<Tokens> {
        let run = |texts: &[S]| self.encode_some(prompt, texts);
        let wanted = texts.len().div_ceil(TEXTS_PER_THREAD).min(threads.get());
        if wanted <= 1 {
            return run(texts);
        }
        let share = texts.len().div_ceil(wanted);
        let mut all = Tokens::default();
        for part in threads::each("text", texts.chunks(share).collect(), run)? {
            all.append(&part);
        }
        Ok(all)
    }
}

fn refused(text: &str, why: &str) -> Error {
    let start: String = text.chars().take(40).collect();
    Error::invalid("text", format!("the tokenizer refuses {start:?}: {why}"))
}

/// Puts lower case before everything else the tokenizer does, but not before it
/// finds its special tokens: Python does it so.
fn lower_case(inner: &mut HfTokenizer) -> tokenizers::Result<()> {
    let mut steps = vec![NormalizerWrapper::from(Lowercase)];
    steps.extend(inner.get_normalizer().cloned());
    inner.with_normalizer(Some(NormalizerWrapper::from(Sequence::new(steps))))?;
    Ok(())
}

/// The end at which a long text is cut.
fn direction(config: &Config, own: Option<&TruncationParams>) -> TruncationDirection {
    match config.truncation {
        Some(Side::Left) => TruncationDirection::Left,
        Some(Side::Right) => TruncationDirection::Right,
        None => own.map(|t| t.direction).unwrap_or_default(),
    }
}

fn pad_id(inner: &HfTokenizer, config: &Config) -> u32 {
    let own = inner.get_padding().map(|p| p.pad_id);
    let named = || config.pad_token.as_deref().and_then(|t| inner.token_to_id(t));
    own.or(config.pad_id).or_else(named).unwrap_or(0)
}

/// Runs tokenizer code: its errors and its panics come back as text.
fn guarded<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(e.to_string()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!("it panicked: {}", text.unwrap_or("no message")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_ids_come_back_by_text() {
        let (mut all, mut more) = (Tokens::default(), Tokens::default());
        all.push(&[7, 7]);
        all.push(&[]);
        more.push(&[7, 7, 7]);
        all.append(&more);
        assert_eq!([0, 1, 2].map(|t| all.ids(t).len()), [2, 0, 3]);
    }

    #[test]
    fn a_panic_becomes_text() {
        let caught = guarded::<()>(|| panic!("at {}", 7));
        assert_eq!(caught.unwrap_err(), "it panicked: at 7");
    }
}
