"""A language model in this process, by mlx-lm alone: what the service says is compared with it."""

from pathlib import Path
from typing import Any

from workers import memory


class Own:
    def __init__(self, folder: Path) -> None:
        memory.preload_blas()  # before the first `import mlx`
        from workers.engines import llm

        self._model, self.tokenizer, _ = llm.load_model(folder)

    def tokens(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text))

    def chat(self, messages: list[dict[str, str]]) -> list[int]:
        """The conversation and the head of the answer."""
        return list(self.tokenizer.apply_chat_template(messages, add_generation_prompt=True))

    def logprobs(self, tokens: list[int]) -> Any:
        """[tokens - 1, vocabulary], numpy: of what follows each token but the last."""
        import mlx.core as mx
        import numpy as np

        logits = self._model(mx.array(tokens[:-1])[None])[0].astype(mx.float32)
        return np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))

    def best(self, tokens: list[int]) -> list[int]:
        """The likeliest next token, an end token too."""
        return [int(self.logprobs([*tokens, 0])[-1].argmax())]

    def greedy(self, tokens: list[int], count: int) -> list[int]:
        """The `count` likeliest next tokens, or fewer if the answer ends before."""
        import mlx.core as mx
        from mlx_lm.generate import generate_step

        said = []
        for token, _ in generate_step(mx.array(tokens), self._model, max_tokens=count):
            if token in self.tokenizer.eos_token_ids:
                break
            said.append(token)
        return said
