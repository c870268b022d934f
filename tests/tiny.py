"""Tiny models with random weights, for tests of what happens around a model."""

import zipfile
from pathlib import Path

import tokenizers

TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def llama_gguf(path: Path, feed_forward: int = 64) -> Path:
    """Write a one-layer llama of width 32 as GGUF; `feed_forward` makes it as large as one likes
    (384 bytes of float32 a unit)."""
    import mlx.core as mx  # late: what runs in this process may still have to preload a BLAS

    width = 32
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens += [*sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), "Ġt"]
    shapes = {
        "token_embd": (len(tokens), width),
        "output_norm": (width,),
        "blk.0.attn_norm": (width,),
        "blk.0.ffn_norm": (width,),
        "blk.0.attn_q": (width, width),
        "blk.0.attn_k": (width // 2, width),
        "blk.0.attn_v": (width // 2, width),
        "blk.0.attn_output": (width, width),
        "blk.0.ffn_gate": (feed_forward, width),
        "blk.0.ffn_up": (feed_forward, width),
        "blk.0.ffn_down": (width, feed_forward),
    }
    arrays = {f"{name}.weight": mx.ones(shape, mx.float16) * 0.01 for name, shape in shapes.items()}
    metadata = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": mx.array([3] * 3 + [1] * (len(tokens) - 3), mx.int32),
        "tokenizer.ggml.merges": ["Ġ t"],
        "tokenizer.chat_template": TEMPLATE,
        "llama.rope.freq_base": mx.array(10000.0),
        "llama.attention.layer_norm_rms_epsilon": mx.array(1e-5),
    }
    numbers = {
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "llama.embedding_length": width,
        "llama.block_count": 1,
        "llama.feed_forward_length": feed_forward,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.context_length": 128,
    }
    metadata |= {name: mx.array(value, mx.uint32) for name, value in numbers.items()}
    mx.save_gguf(str(path), arrays, metadata)
    return path


def wheel(folder: Path, name: str, content: Path) -> Path:
    """Wrap a file in a wheel `name==1.0` that pip takes."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(content, f"{name}/{content.name}")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path
