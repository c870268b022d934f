"""Whisper in float32, for devices that are slow at 16 bits."""

from typing import Any

import mlx.core as mx


def to_float32(model: Any) -> Any:
    """Widen a loaded mlx-audio Whisper to float32, in place; use it with `fp16=False`.

    Besides its parameters the model keeps a dtype, the encoder's positional embedding and the
    decoder's mask, which `set_dtype` does not see; left at float16, they cost a CPU a factor of ten.
    Call it in the thread that runs the model. Returns the model.
    """
    model.set_dtype(mx.float32)
    model.dtype = mx.float32
    model.encoder._positional_embedding = model.encoder._positional_embedding.astype(mx.float32)
    model.decoder._mask = model.decoder._mask.astype(mx.float32)
    mx.eval(model.parameters(), model.encoder._positional_embedding, model.decoder._mask)
    return model
