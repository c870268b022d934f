"""From an embeddings request to token ids. No model in it."""

from shared.errors import BadRequest
from shared.tasks.embedding import MAX_TOKENS, Request
from workers.engines.embedding.encoder import Encoder


class Tokens:
    """The inputs of requests as the model's own tokenizer sees them, its special tokens included. Token ids
    are taken as they are. Any thread."""

    def __init__(self, encoder: Encoder) -> None:
        self._tokenizer = encoder.tokenizer
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._lower = encoder.recipe.lower
        self._vocabulary, self._longest = encoder.vocabulary, encoder.longest

    def of(self, request: Request) -> list[list[int]]:
        """Token ids of each input. Raises BadRequest."""
        inputs = request.inputs
        rows = self._encode(inputs) if isinstance(inputs[0], str) else inputs
        for index, row in enumerate(rows):
            self._check(row, f"input[{index}]" if inputs is request.input else "input")
        if (total := sum(map(len, rows))) > MAX_TOKENS:
            raise BadRequest(
                f"A request may have at most {MAX_TOKENS} tokens, but 'input' has {total} in all. "
                "Send it in parts.",
                param="input",
            )
        return rows

    def _encode(self, texts: list[str]) -> list[list[int]]:
        if self._lower:
            texts = [text.lower() for text in texts]
        return [found.ids for found in self._tokenizer.encode_batch_fast(texts)]

    def _check(self, row: list[int], name: str) -> None:
        if not row:
            raise BadRequest(f"The text of '{name}' has no tokens.", param="input")
        if len(row) > self._longest:
            raise BadRequest(
                f"This model's maximum input is {self._longest} tokens, but '{name}' has {len(row)} tokens. "
                "Shorten it, or send it in parts.",
                param="input",
                code="context_length_exceeded",
            )
        if max(row) >= self._vocabulary:
            raise BadRequest(
                f"'{name}' has the token id {max(row)}, but this model's vocabulary ends at "
                f"{self._vocabulary - 1}.",
                param="input",
            )
