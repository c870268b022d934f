"""Whisper's audio encoder with fused attention.

mlx-audio's own multiplies, masks and normalises the 1,500 x 1,500 scores of each head in separate passes
over memory; they are the same numbers, within float32.
"""

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn


def encode(encoder: Any, mel: mx.array) -> Iterator[mx.array]:
    """What each layer makes of `mel` [windows, frames, bands], unevaluated; the last are the features
    [windows, positions, width]. `encoder` is mlx-audio's."""
    x = nn.gelu(encoder.conv1(mel))
    x = nn.gelu(encoder.conv2(x)) + encoder._positional_embedding
    yield x
    for block in encoder.blocks:
        y = block.attn_ln(x)
        keys, values = (heads(block.attn, project(y)) for project in (block.attn.key, block.attn.value))
        x = x + attend(block.attn, y, keys, values, None)
        x = x + block.mlp2(nn.gelu(block.mlp1(block.mlp_ln(x))))
        yield x
    yield encoder.ln_post(x)


def heads(attention: Any, x: mx.array) -> mx.array:
    """[rows, length, width] to [rows, heads, length, width of a head]."""
    return x.reshape(*x.shape[:2], attention.n_head, -1).transpose(0, 2, 1, 3)


def attend(attention: Any, x: mx.array, keys: mx.array, values: mx.array, mask: Any) -> mx.array:
    """What `attention` makes of `x` [rows, length, width] over keys and values that are there already."""
    queries = heads(attention, attention.query(x))
    scale = queries.shape[-1] ** -0.5
    found = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)
    return attention.out(found.transpose(0, 2, 1, 3).reshape(x.shape))
