"""The texts of every parity test, and tiny tokenizers that cover them.

Texts: mixed lengths, empty, blanks only, longer than any model takes, emoji with joiners, right-to-left scripts, text
that is not normalised, control characters. Tokenizers are trained on a few sentences, so most words fall apart.
"""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = [
    "",
    "a",
    "   ",
    "The river runs down to the sea.",
    "Which prefix of a vector is enough to find its neighbours again?",
    "Matryoshka dolls nest: each holds a smaller one, and the smallest still has a face.",
    "  leading and trailing blanks  ",
    "UPPER lower MiXeD camelCase snake_case kebab-case",
    "tab\tand\nnewline and\r\nreturn",
    "caf\u00e9 nai\u0308ve \ufb01ne \u212b \u1e9e",
    "\U0001f600",
    "waves \U0001f30a compass \U0001f9ed family \U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 flag \U0001f1f3\U0001f1f1",
    "\u0627\u0644\u0646\u0647\u0631 \u064a\u062c\u0631\u064a \u0625\u0644\u0649 \u0627\u0644\u0628\u062d\u0631",
    "\u05d4\u05e0\u05d4\u05e8 \u05d6\u05d5\u05e8\u05dd \u05d0\u05dc \u05d4\u05d9\u05dd",
    "mixed \u05e9\u05dc\u05d5\u05dd and \u0633\u0644\u0627\u0645 with 12345 and 3.14",
    "\u6cb3\u6d41 \u6d41\u5411 \u5927\u6d77\u3002",
    "\u0928\u0926\u0940 \u0938\u092e\u0941\u0926\u094d\u0930 \u0e41\u0e21\u0e48\u0e19\u0e49\u0e33",
    "zero\u0000width\u200bjoin\u00a0er \u2028 line",
    "[CLS] special [SEP] looking <s> text </s> <|endoftext|> <pad>",
    "the river " * 400,
    "\U0001f30a" * 300,
]

SENTENCES = [text for text in TEXTS[:18] if len(text) < 400] * 4


def wordpiece(vocabulary: int = 320) -> Tokenizer:
    """As BERT's, lower case: [CLS] text [SEP]."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(SENTENCES, trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=special))
    ids = [("[CLS]", made.token_to_id("[CLS]")), ("[SEP]", made.token_to_id("[SEP]"))]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]",
                                                        special_tokens=ids)
    return made


def unigram(vocabulary: int = 320) -> Tokenizer:
    """As XLM-RoBERTa's: <s> text </s>, blanks as part of words."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" {2,}", " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=vocabulary, special_tokens=special, unk_token="<unk>")
    made.train_from_iterator(SENTENCES, trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> $B </s>",
                                                        special_tokens=[("<s>", 0), ("</s>", 2)])
    return made


def byte_level(vocabulary: int = 320, end: bool = True) -> Tokenizer:
    """As Qwen's: bytes, and <|endoftext|> after the text."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=["<|endoftext|>"],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(SENTENCES, trainer)
    if end:
        made.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="$A <|endoftext|>", pair="$A $B <|endoftext|>",
                                          special_tokens=[("<|endoftext|>", 0)]),
        ])
    return made
