"""Tiny models of each family that matryo must load, in their published layout, and the vectors Python gets from them.

Usage: pip install -r requirements.txt, then run this file anywhere. It rewrites tests/fixtures/families:

  texts.json                 the texts of texts.py
  FAMILY/...                 a model directory, with an ONNX graph and without torch's weights
  FAMILY/expected.json       cases: how the embedder is opened and asked, and Python's vectors

Weights are random, so the vectors mean nothing; they only have to be the same. What computes them is written beside
each family: sentence-transformers itself on the directory (`st`), or, where its authors' own code is needed that a
directory cannot carry, torch and the pooling of sentence-transformers.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers as tf
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling, StaticEmbedding

import export
import static
from texts import TEXTS, byte_level, unigram, wordpiece

ROOT = Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "families"
WIDTH, LAYERS = 16, 2
SHAPE = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 2 * WIDTH,
         "max_position_embeddings": 96, "initializer_range": 0.3, "attn_implementation": "eager"}
OLD = "sentence_transformers.models."


def fast(tokenizer, limit: int = 64, **options):
    """A tokenizer as transformers saves it."""
    return tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=limit, **options)


def transformer(model, tokenizer) -> Transformer:
    with tempfile.TemporaryDirectory() as folder:
        model.eval().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return Transformer(folder, model_kwargs={"attn_implementation": "eager"})


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def save(name: str, model: SentenceTransformer) -> Path:
    """The directory as this version of sentence-transformers writes it, less what matryo does not read."""
    folder = ROOT / name
    model.save(str(folder), create_model_card=False)
    if not isinstance(model[0], StaticEmbedding):
        (folder / "model.safetensors").unlink()
    return folder


def old_layout(folder: Path, classes: list[str], paths: list[str]) -> None:
    """`modules.json` as versions before 5.4 wrote it."""
    chain = [{"idx": n, "name": str(n), "path": path, "type": OLD + kind}
             for n, (kind, path) in enumerate(zip(classes, paths))]
    write_json(folder / "modules.json", chain)


def numbers(vectors) -> list:
    vectors = torch.as_tensor(np.asarray(vectors)).float()
    assert torch.isfinite(vectors).all() and len(vectors) == len(TEXTS)
    return [[float(f"{x:.7g}") for x in row] for row in vectors.tolist()]


def encode(model: SentenceTransformer, ask: str, **options) -> list:
    """What `encode_document`, `encode_query` or `encode` gives, in batches; some are checked against one at a time."""
    how = {"documents": model.encode_document, "queries": model.encode_query}.get(ask, model.encode)
    if ask.startswith("named:"):
        options["prompt_name"] = ask.removeprefix("named:")
    if ask == "none":
        options["prompt"] = ""
    together = how(TEXTS, batch_size=8, show_progress_bar=False, **options)
    single = np.concatenate([how([text], show_progress_bar=False, **options) for text in TEXTS[:12]])
    assert np.abs(together[:12] - single).max() < 2e-5 * max(1, np.abs(single).max()), ask
    return numbers(together)


def cases(folder: Path, made: list[dict]) -> None:
    folder.joinpath("expected.json").write_text(json.dumps({"cases": made}, separators=(",", ":")) + "\n")


def st(model: SentenceTransformer, *asks: str, **open_with) -> list[dict]:
    return [{"ask": ask, "open": open_with, "vectors": encode(model, ask)} for ask in asks]


def bert(seed: int = 0):
    torch.manual_seed(seed)
    tokenizer = wordpiece()
    names = {key: f"[{key.split('_')[0].upper()}]" for key in ("pad_token", "unk_token", "cls_token", "sep_token")}
    config = tf.BertConfig(vocab_size=tokenizer.get_vocab_size(), **SHAPE)
    return tf.BertModel(config, add_pooling_layer=False), fast(tokenizer, **names)


def mxbai() -> None:
    """CLS, no Normalize, prompt for queries only; old layout, old pooling form. By `st`."""
    model = SentenceTransformer(modules=[transformer(*bert(1)), Pooling(WIDTH, "cls")],
                                prompts={"query": "Represent this sentence for searching: ", "passage": ""})
    folder = save("mxbai", model)
    export.encoder(model[0].auto_model, folder / "onnx/model.onnx", types=True, external=True)
    made = st(model, "documents", "queries", "none")
    old_layout(folder, ["Transformer", "Pooling"], ["", "1_Pooling"])
    modes = ["cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"]
    switches = {f"pooling_mode_{mode}": mode == "cls_token" for mode in modes}
    write_json(folder / "1_Pooling/config.json", {"word_embedding_dimension": WIDTH, **switches})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 64, "do_lower_case": False})
    cases(folder, made)


def arctic() -> None:
    """CLS and Normalize, layout of today, as saved. By `st`; and every pooling mode with it."""
    model = SentenceTransformer(modules=[transformer(*bert(2)), Pooling(WIDTH, "cls"), Normalize()],
                                prompts={"query": "query: "})
    folder = save("arctic", model)
    export.encoder(model[0].auto_model, folder / "onnx/model.onnx", types=True)
    made = st(model, "documents", "queries")
    modes = [[mode] for mode in Pooling.POOLING_MODES] + [["cls", "mean"], ["lasttoken", "max", "weightedmean"]]
    for mode in modes:
        for include in (True, False):
            model[1] = Pooling(WIDTH, mode, include_prompt=include)
            config = {"embedding_dimension": WIDTH, "pooling_mode": mode if len(mode) > 1 else mode[0],
                      "include_prompt": include}
            [case] = st(model, "queries")
            made.append(case | {"files": {"1_Pooling/config.json": config}})
    cases(folder, made)


def lower() -> None:
    """`do_lower_case` with a tokenizer that keeps case, and the tokenizer in the module's own folder. By `st`."""
    torch.manual_seed(3)
    made = wordpiece()
    made.normalizer = tf.models.bert.tokenization_bert.normalizers.BertNormalizer(lowercase=False)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    model, tokenizer = tf.BertModel(tf.BertConfig(vocab_size=made.get_vocab_size(), **SHAPE), False), fast(made, **names)
    with tempfile.TemporaryDirectory() as temporary:
        model.eval().save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        first = Transformer(temporary, do_lower_case=True, max_seq_length=16)
        before = Path(temporary, "tokenizer.json").read_bytes()
    whole = SentenceTransformer(modules=[first, Pooling(WIDTH, "mean")])
    folder = ROOT / "lower"
    write_json(folder / "1_Pooling/config.json", {"word_embedding_dimension": WIDTH, "pooling_mode_mean_tokens": True})
    write_json(folder / "0_Transformer/config.json", {"hidden_size": WIDTH, "pad_token_id": 0})
    write_json(folder / "0_Transformer/sentence_bert_config.json", {"max_seq_length": 16, "do_lower_case": True})
    (folder / "0_Transformer/tokenizer.json").write_bytes(before)
    old_layout(folder, ["Transformer", "Pooling"], ["0_Transformer", "1_Pooling"])
    export.encoder(whole[0].auto_model, folder / "0_Transformer/onnx/model.onnx", types=True)
    cases(folder, st(whole, "documents"))


def nomic() -> None:
    """Mean; layer norm over the full vector, slice, normalise, as its card says; and the same as a module. By `st`."""
    torch.manual_seed(4)
    tokenizer = wordpiece()
    rope = {"rope_theta": 1000.0, "rope_type": "default"}
    config = tf.NomicBertConfig(vocab_size=tokenizer.get_vocab_size(), rope_parameters=rope, **SHAPE)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    first = transformer(tf.NomicBertModel(config, add_pooling_layer=False), fast(tokenizer, **names))
    prompts = {"search_query": "search_query: ", "search_document": "search_document: "}
    model = SentenceTransformer(modules=[first, Pooling(WIDTH, "mean")], prompts=prompts)
    folder = save("nomic", model)
    config = json.loads((folder / "config.json").read_text()) | {"matryoshka_dimensions": [4, 8, WIDTH]}
    write_json(folder / "config.json", config)
    export.encoder(first.auto_model, folder / "onnx/model.onnx", types=True)
    made = st(model, "named:search_document", "named:search_query")
    made += [made[0] | {"ask": "documents"}, made[1] | {"ask": "queries"}]
    for dims in (WIDTH, 8):
        raw = torch.tensor(made[0]["vectors"])
        cut = torch.nn.functional.layer_norm(raw, normalized_shape=(WIDTH,))[:, :dims]
        made.append({"ask": "documents", "open": {"layer_norm": True, "dims": dims}, "vectors": numbers(cut)})
    norm = LayerNorm(WIDTH)
    torch.nn.init.normal_(norm.norm.weight)
    torch.nn.init.normal_(norm.norm.bias)
    chain = SentenceTransformer(modules=[first, Pooling(WIDTH, "mean"), norm, Normalize()], truncate_dim=8)
    chain.save(str(ROOT / "nomic_norm"), create_model_card=False)
    cut = st(chain, "documents")
    for extra in ("model.safetensors", "tokenizer.json"):
        (ROOT / "nomic_norm" / extra).unlink()
    shutil.copy(folder / "tokenizer.json", ROOT / "nomic_norm")
    # The graph is the same file; the test puts it there.
    cases(folder, made)
    cases(ROOT / "nomic_norm", cut)


def gemma() -> None:
    """EmbeddingGemma: attention both ways, mean, two Dense without bias, Normalize. Two graphs: one that stops at
    the tokens, one with all in it. By `st`."""
    torch.manual_seed(5)
    tokenizer = unigram()
    shape = SHAPE | {"num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 12,
                     "layer_types": ["sliding_attention", "full_attention"]}
    config = tf.Gemma3TextConfig(vocab_size=tokenizer.get_vocab_size(), use_bidirectional_attention=True,
                                 pad_token_id=1, bos_token_id=0, eos_token_id=2, **shape)
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    first = transformer(tf.Gemma3TextModel(config), fast(tokenizer, **names))
    after = [Pooling(WIDTH, "mean"), Dense(WIDTH, 24, bias=False, activation_function=torch.nn.Identity()),
             Dense(24, WIDTH, bias=False, activation_function=torch.nn.Identity()), Normalize()]
    prompts = {"query": "task: search result | query: ", "document": "title: none | text: "}
    model = SentenceTransformer(modules=[first, *after], prompts=prompts)
    folder = save("gemma", model)
    both = export.BothWays(first.auto_model)
    export.encoder(both, folder / "onnx/model.onnx")
    export.whole(both, after, folder / "onnx/model_whole.onnx")
    made = st(model, "documents", "queries")
    cases(folder, made + [case | {"open": {"graph": "model_whole.onnx"}} for case in made])


def dense() -> None:
    """Every activation, with bias, and both kinds of residual; on the graph of `arctic`. By `st`."""
    first = transformer(*bert(2))
    made = []
    folder = ROOT / "dense"
    # Training a tokenizer does not give the same one twice.
    first.tokenizer.save_pretrained(str(folder))
    torch.manual_seed(6)
    kinds = [torch.nn.Tanh, torch.nn.ReLU, torch.nn.GELU, torch.nn.SiLU, torch.nn.Sigmoid, torch.nn.Identity]
    for at, kind in enumerate(kinds):
        out = 6 if at % 2 else WIDTH
        layer = Dense(WIDTH, out, activation_function=kind(), use_residual=at > 2)
        model = SentenceTransformer(modules=[first, Pooling(WIDTH, "mean"), layer])
        name = f"2_{kind.__name__}"
        (folder / name).mkdir(parents=True)
        layer.save(str(folder / name))
        chain = json.dumps([{"type": OLD + kind, "path": path} for kind, path in
                            [("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", name)]])
        [case] = st(model, "documents")
        files = {"modules.json": json.loads(chain), "1_Pooling/config.json": {"pooling_mode_mean_tokens": True}}
        made.append(case | {"files": files})
    cases(folder, made)


def qwen3(name: str, cached: bool, side: str, prompts: dict, seed: int) -> None:
    """Last token; Qwen3-Embedding with an empty cache and padding on the left, jina v5 without. By `st`."""
    torch.manual_seed(seed)
    tokenizer = byte_level()
    shape = SHAPE | {"num_key_value_heads": 1, "head_dim": 12}
    config = tf.Qwen3Config(vocab_size=tokenizer.get_vocab_size(), pad_token_id=0, eos_token_id=0, **shape)
    special = {"pad_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "padding_side": side}
    first = transformer(tf.Qwen3Model(config), fast(tokenizer, **special))
    model = SentenceTransformer(modules=[first, Pooling(WIDTH, "lasttoken"), Normalize()], prompts=prompts)
    folder = save(name, model)
    path = folder / "onnx/model.onnx"
    export.decoder(first.auto_model, path) if cached else export.encoder(first.auto_model, path, use_cache=False)
    cases(folder, st(model, "documents", "queries"))


def eurobert() -> None:
    """jina v5 nano: EuroBERT, attention both ways, last token. By `st`."""
    torch.manual_seed(9)
    tokenizer = byte_level()
    config = tf.EuroBertConfig(vocab_size=tokenizer.get_vocab_size(), num_key_value_heads=2, pad_token_id=0,
                               bos_token_id=0, eos_token_id=0, **SHAPE)
    special = {"pad_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    first = transformer(tf.EuroBertModel(config), fast(tokenizer, **special))
    prompts = {"query": "Query: ", "document": "Document: "}
    model = SentenceTransformer(modules=[first, Pooling(WIDTH, "lasttoken"), Normalize()], prompts=prompts)
    folder = save("jina_v5_nano", model)
    export.encoder(first.auto_model, folder / "onnx/model.onnx")
    cases(folder, st(model, "documents", "queries"))


def main() -> None:
    import jina

    families = {
        "mxbai": mxbai, "arctic": arctic, "lower": lower, "nomic": nomic, "gemma": gemma, "dense": dense,
        "qwen3": lambda: qwen3("qwen3", True, "left", {"query": "Instruct: find it\nQuery:", "document": ""}, 7),
        "jina_v5": lambda: qwen3("jina_v5", False, "right", {"query": "Query: ", "document": "Document: "}, 8),
        "jina_v5_nano": eurobert, "jina_v3": jina.v3, "jina_clip": jina.clip, "static": static.table,
        "model2vec": static.shared,
    }
    asked = sys.argv[1:] or list(families)
    torch.set_num_threads(1)
    ROOT.mkdir(parents=True, exist_ok=True)
    write_json(ROOT / "texts.json", TEXTS)
    for name in asked:
        for folder in ROOT.glob(name if name != "nomic" else "nomic*"):
            shutil.rmtree(folder)
        families[name]()
        print("made", name, flush=True)


if __name__ == "__main__":
    main()
