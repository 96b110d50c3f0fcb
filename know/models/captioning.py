"""Networks that caption images: an encoder's feature map is read by a short transformer decoder."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from know.data.names import START
from know.models.small import conv_bn

LONGEST = 64
"""Positions that are learned: more words than any caption of the data sets has."""


class Captioner(nn.Module):
    """Images (N, C, H, W) and the tokens before each word (N, T) to logits of it (N, V, T): teacher forcing. Without tokens, to
    those of the first word, (N, V, 1).

    Word t sees the image and the tokens up to t alone. Padding is at the end, so no word before it sees it, and needs no mask. The
    image's positions come from the encoder, whose padded convolutions know where a border is.

    The head is tied: a token's embedding is √width times its row of the head's weight (Vaswani et al., 2017, 3.4), so that the
    state dict has one tensor for a vocabulary, and a new head is a new vocabulary.

    Args:
        features: images to feature maps (N, channels, H', W'), (N, H', W', channels) or (N, L, channels).
        width: of the decoder, which has ``layers`` layers of ``heads`` heads.
    """

    def __init__(
        self, features: nn.Module, channels: int, vocabulary: int, width: int, layers: int, heads: int
    ) -> None:
        super().__init__()
        self.features = features
        self.memory = nn.Linear(channels, width)
        self.positions = nn.Embedding(LONGEST, width)
        layer = nn.TransformerDecoderLayer(width, heads, 2 * width, batch_first=True, norm_first=True)
        self.decoder = nn.TransformerDecoder(layer, layers, nn.LayerNorm(width))
        self.head = nn.Linear(width, vocabulary)
        nn.init.normal_(self.positions.weight, std=0.02)
        for parameter in self.decoder.parameters():  # as nn.Transformer does; its layers are copies of one
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, images: Tensor, tokens: Tensor | None = None) -> Tensor:
        if tokens is None:
            tokens = torch.full((len(images), 1), START, device=images.device)
        length, width = tokens.shape[1], self.head.in_features
        if length > LONGEST:
            raise ValueError(f"a caption has {length} tokens; allowed: at most {LONGEST}")
        maps = self.features(images)
        if maps.ndim == 4 and maps.shape[1] == self.memory.in_features:
            maps = maps.permute(0, 2, 3, 1)
        memory = self.memory(maps.flatten(1, -2))
        words = math.sqrt(width) * F.embedding(tokens, self.head.weight) + self.positions.weight[:length]
        later = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)
        return self.head(self.decoder(words, memory, tgt_mask=later, tgt_is_causal=True)).transpose(1, 2)


def captioner(channels: int, vocabulary: int) -> Captioner:
    """A CNN with BatchNorm of widths 16-32-64-64, which makes 16 places of 32 pixels a side and 64 of 64, under two layers of
    width 64; 0.17 M parameters."""
    layers: list[nn.Module] = []
    for width in (16, 32, 64):
        layers += [conv_bn(channels, width), nn.MaxPool2d(2)]
        channels = width
    return Captioner(nn.Sequential(*layers, conv_bn(64, 64)), 64, vocabulary, width=64, layers=2, heads=4)
