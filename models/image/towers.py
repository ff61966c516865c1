"""The two towers: a small residual network for pictures, a small transformer for phrases."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def convolution(inputs: int, outputs: int, stride: int, size: int = 3) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016, figure 2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = convolution(width, width, 1)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.second(self.first(x)))


class VisionTower(nn.Module):
    """[batch, 3, 64, 64] in -1..1 -> [batch, dims]. Keeps the 4x4 map: where things are is part of the answer."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolution(3, 24, 2, 5),
            convolution(24, 64, 2),
            convolution(64, 96, 2),
            Residual(96),
            convolution(96, 192, 2),
            Residual(192),
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(192 * 16, dims))

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.body(pixel_values).float())


class Layer(nn.Module):
    """A pre-norm transformer layer, written out so that its ONNX graph stays plain."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """``hidden`` [batch, 1, 1, tokens] is very negative at padding."""
        batch, tokens, width = x.shape
        q, k, v = self.qkv(self.norm_1(x)).reshape(batch, tokens, 3 * self.heads, width // self.heads).transpose(1, 2).chunk(3, 1)
        scores = q @ k.transpose(2, 3) * (width // self.heads) ** -0.5 + hidden
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, tokens, width)
        x = x + self.drop(self.out(mixed))
        return x + self.drop(self.down(functional.gelu(self.up(self.norm_2(x)))))


class TextTower(nn.Module):
    """Token ids and mask [batch, tokens] -> [batch, dims]: mean over the tokens, then a linear layer."""

    def __init__(self, vocab: int, width: int, layers: int, max_tokens: int, dims: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocab, width), nn.Embedding(max_tokens, width)
        self.layers = nn.ModuleList(Layer(width, 4) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, dims)
        nn.init.normal_(self.tokens.weight, std=0.05)
        nn.init.normal_(self.places.weight, std=0.02)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask.float()
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.tokens(input_ids) + self.places(places)
        hidden = (1.0 - mask)[:, None, None, :] * -1e4
        for layer in self.layers:
            x = layer(x, hidden)
        weights = mask[:, :, None]
        mean = (self.norm(x) * weights).sum(1) / weights.sum(1).clamp(min=1.0)
        return self.head(mean)
