"""BERT's forward pass in plain numpy, one text at a time and without padding, from a checkpoint as it lies
on the hub: what the engine's own encoder is compared with."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from scipy.special import erf


class Bert:
    """`bert(tokens)` is the last layer [length, width]; `embed(tokens)` its mean, scaled to length 1."""

    def __init__(self, folder: Path, offset: int = 0) -> None:
        self._config = json.loads((folder / "config.json").read_text())
        self._weights = {k: v.astype(np.float64) for k, v in load_file(folder / "model.safetensors").items()}
        self._offset = offset

    def __call__(self, tokens: list[int]) -> np.ndarray:
        words, places, kinds = (
            self._weights[f"embeddings.{name}_embeddings.weight"]
            for name in ("word", "position", "token_type")
        )
        at = np.arange(len(tokens)) + self._offset
        hidden = self._norm("embeddings.LayerNorm", words[tokens] + places[at] + kinds[0])
        for layer in range(self._config["num_hidden_layers"]):
            hidden = self._layer(f"encoder.layer.{layer}", hidden)
        return hidden

    def embed(self, tokens: list[int]) -> np.ndarray:
        mean = self(tokens).mean(axis=0)
        return mean / np.linalg.norm(mean)

    def _layer(self, name: str, hidden: np.ndarray) -> np.ndarray:
        mixed = self._attention(f"{name}.attention.self", hidden)
        mixed = self._linear(f"{name}.attention.output.dense", mixed)
        hidden = self._norm(f"{name}.attention.output.LayerNorm", hidden + mixed)
        inner = self._linear(f"{name}.intermediate.dense", hidden)
        inner = 0.5 * inner * (1 + erf(inner / np.sqrt(2)))
        return self._norm(f"{name}.output.LayerNorm", hidden + self._linear(f"{name}.output.dense", inner))

    def _attention(self, name: str, hidden: np.ndarray) -> np.ndarray:
        heads = self._config["num_attention_heads"]
        query, key, value = (
            np.split(self._linear(f"{name}.{part}", hidden), heads, axis=-1)
            for part in ("query", "key", "value")
        )
        mixed = []
        for q, k, v in zip(query, key, value, strict=True):
            scores = q @ k.T / np.sqrt(q.shape[-1])
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            mixed.append(weights / weights.sum(axis=-1, keepdims=True) @ v)
        return np.concatenate(mixed, axis=-1)

    def _linear(self, name: str, hidden: np.ndarray) -> np.ndarray:
        return hidden @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _norm(self, name: str, hidden: np.ndarray) -> np.ndarray:
        centred = hidden - hidden.mean(axis=-1, keepdims=True)
        scale = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self._config["layer_norm_eps"])
        return centred / scale * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
