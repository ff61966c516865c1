"""Models of Jina whose own code is not in a directory: adapters chosen by number, and text beside pictures.

The vectors are torch's, pooled by sentence-transformers, one text at a time.
"""

from __future__ import annotations

import torch
import transformers as tf
from sentence_transformers.sentence_transformer.modules import Pooling

import export
import make_families as families
from texts import TEXTS, unigram

TASKS = ["retrieval.query", "retrieval.passage", "separation", "classification", "text-matching"]
INSTRUCTIONS = {"retrieval.query": "Represent the query for retrieving evidence documents: ",
                "retrieval.passage": "Represent the document for retrieval: "}
NAMES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


class Adapted(torch.nn.Module):
    """A linear layer with a low-rank addition for each task."""

    def __init__(self, base: torch.nn.Linear, owner: list, rank: int = 2):
        super().__init__()
        self.base, self.owner = base, owner
        self.down = torch.nn.Parameter(torch.randn(len(TASKS), base.in_features, rank) * 0.3)
        self.up = torch.nn.Parameter(torch.randn(len(TASKS), rank, base.out_features) * 0.3)

    def forward(self, x):
        [task] = self.owner
        return self.base(x) + x @ self.down[task] @ self.up[task]


class WithTasks(torch.nn.Module):
    """Ids, mask and the number of a task in; a vector per token out."""

    def __init__(self, model):
        super().__init__()
        self.task = [torch.tensor(0)]
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, torch.nn.Linear) and not isinstance(module, Adapted):
                    setattr(module, name, Adapted(child, self.task))
        self.model = model

    def forward(self, input_ids, attention_mask, task_id):
        self.task[0] = task_id
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def encoder(seed: int):
    torch.manual_seed(seed)
    tokenizer = unigram()
    rope = {"rope_theta": 20000.0, "rope_type": "default"}
    config = tf.JinaEmbeddingsV3Config(vocab_size=tokenizer.get_vocab_size(), rope_parameters=rope, **families.SHAPE)
    return tf.JinaEmbeddingsV3Model(config, add_pooling_layer=False).eval(), families.fast(tokenizer, **NAMES)


def layout(name: str, tokenizer, config: dict, after: list[tuple[str, str]]):
    folder = families.ROOT / name
    tokenizer.save_pretrained(str(folder))
    families.write_json(folder / "config.json", config)
    chain = [{"idx": 0, "name": "transformer", "path": "", "type": "custom_st.Transformer"}]
    chain += [{"idx": n, "name": path, "path": path, "type": families.OLD + kind}
              for n, (kind, path) in enumerate(after, 1)]
    families.write_json(folder / "modules.json", chain)
    return folder


def v3() -> None:
    model, tokenizer = encoder(10)
    with_tasks = WithTasks(model).eval()
    config = {"hidden_size": families.WIDTH, "lora_adaptations": TASKS, "matryoshka_dimensions": [4, 8, families.WIDTH],
              "task_instructions": INSTRUCTIONS, "max_position_embeddings": 96, "pad_token_id": 1}
    folder = layout("jina_v3", tokenizer, config, [("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")])
    families.write_json(folder / "1_Pooling/config.json", {"word_embedding_dimension": families.WIDTH,
                                                           "pooling_mode_mean_tokens": True})
    ids, mask = export.example(model.config.vocab_size)
    names = ["input_ids", "attention_mask", "task_id"]
    axes = {name: export.TOKENS for name in ("input_ids", "attention_mask", "text_embeds")}
    export.write(with_tasks, (ids, mask, torch.tensor(1)), folder / "onnx/model.onnx", names, ["text_embeds"], axes)
    pooling = Pooling(families.WIDTH, "mean")

    def vectors(task: str, prompt: str) -> list:
        found = []
        for text in TEXTS:
            fed = tokenizer([prompt + text], truncation=True, return_tensors="pt")
            with torch.no_grad():
                hidden = with_tasks(fed["input_ids"], fed["attention_mask"], torch.tensor(TASKS.index(task)))
            pooled = pooling({"token_embeddings": hidden, "attention_mask": fed["attention_mask"]})
            found.append(torch.nn.functional.normalize(pooled["sentence_embedding"][0], dim=0).numpy())
        return families.numbers(found)

    query, passage = (vectors(task, INSTRUCTIONS[task]) for task in TASKS[:2])
    made = [{"ask": "queries", "vectors": query}, {"ask": "documents", "vectors": passage},
            {"ask": "named:classification", "vectors": vectors("classification", "")},
            {"ask": "none", "open": {"task": "text-matching"}, "vectors": vectors("text-matching", "")}]
    families.cases(folder, [{"open": {}} | case for case in made])


class Clip(torch.nn.Module):
    """Two towers in one graph. The text side finds its mask by itself, as jina-clip-v2's does."""

    def __init__(self, text, pad: int, flat: bool):
        super().__init__()
        self.text, self.pad, self.flat, width = text, pad, flat, families.WIDTH
        self.text_projection = torch.nn.Linear(width, width, bias=False)
        self.patches = torch.nn.Conv2d(3, width, kernel_size=4, stride=4)
        self.image_projection = torch.nn.Linear(width, width, bias=False)

    def forward(self, input_ids, pixel_values):
        mask = (input_ids != self.pad).long()
        hidden = self.text(input_ids=input_ids, attention_mask=mask).last_hidden_state
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        text = self.text_projection((hidden * weight).sum(1) / weight.sum(1).clamp(min=1))
        patches = self.patches(pixel_values)
        # Flattened, as CLIP does it, no picture at all cannot be fed: ONNX cannot reshape it.
        image = self.image_projection(patches.flatten(2).mean(-1) if self.flat else patches.mean((2, 3)))
        unit = torch.nn.functional.normalize
        return text, image, unit(text, dim=-1), unit(image, dim=-1)


def clip() -> None:
    model, tokenizer = encoder(11)
    both = Clip(model, 1, False).eval()
    config = {"model_type": "jina_clip", "matryoshka_dimensions": [4, 8, families.WIDTH], "projection_dim": families.WIDTH,
              "vision_config": {"image_size": 16}, "max_position_embeddings": 96, "pad_token_id": 1}
    folder = layout("jina_clip", tokenizer, config, [("Normalize", "2_Normalize")])
    ids, mask = export.example(model.config.vocab_size)
    ids[mask == 0] = 1
    outputs = ["text_embeddings", "image_embeddings", "l2norm_text_embeddings", "l2norm_image_embeddings"]
    axes = {"input_ids": export.TOKENS, "pixel_values": {0: "images", 1: "channels", 2: "height", 3: "width"}}
    axes |= {name: {0: "images" if "image" in name else "batch"} for name in outputs}
    for name in ("model.onnx", "model_flat.onnx"):
        both.flat = "flat" in name
        export.write(both, (ids, torch.randn(1, 3, 16, 16)), folder / "onnx" / name, ["input_ids", "pixel_values"],
                     outputs, axes)
    both.flat = False
    found = []
    for text in TEXTS:
        fed = tokenizer([text], truncation=True, return_tensors="pt")
        with torch.no_grad():
            found.append(both(fed["input_ids"], torch.zeros(0, 3, 16, 16))[2][0].numpy())
    opened = [{}, {"output": "l2norm_text_embeddings"}, {"graph": "model_flat.onnx"}]
    families.cases(folder, [{"ask": "documents", "open": how, "vectors": families.numbers(found)} for how in opened])
