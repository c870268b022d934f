"""Qwen3-ASR, chunks of all jobs in one continuous batch: https://huggingface.co/Qwen/Qwen3-ASR-1.7B

What is heard at temperature 0 is what mlx-audio's own `generate` hears in that chunk alone. A text that
runs in circles is tried again at rising temperatures.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from shared.errors import BadRequest
from workers.engines.asr.align import Aligner
from workers.engines.asr.batch import Batch, Row
from workers.engines.asr.fallback import ladder, loop_begin, too_repetitive
from workers.engines.asr.languages import cannot_translate, not_spoken
from workers.engines.asr.qwen3_prompt import embed, encode, without_controls
from workers.engines.asr.qwen3_text import Reader, name_of_language
from workers.engines.asr.recognizer import Asked, Hearing, Key

MAX_TOKENS = 1024  # of a chunk: a model that runs wild stops there
MAX_PROMPT = 10_000  # characters; it is read again for every chunk
LOOK = 8  # tokens between two looks for a loop

Results = list[tuple[Key, Hearing | Exception]]


class Qwen3Recognizer:
    """A loaded mlx-audio Qwen3-ASR. `config` is its config.json, `rows` how many chunks are heard at
    once, `aligner` a loaded `qwen3_forced_aligner`, without which nobody knows when a word was said."""

    longest = 60.0

    def __init__(
        self,
        model: Any,
        config: dict[str, Any],
        rows: int,
        aligner: Any | None = None,
        max_tokens: int = MAX_TOKENS,
    ) -> None:
        self.rows = rows
        self._model = model
        self._languages = [name.lower() for name in config.get("support_languages") or ()]
        self._aligner = Aligner(aligner) if aligner is not None else None
        self._max_tokens = max_tokens
        self._ends = model._eos_token_ids()
        self._reader = Reader(model._tokenizer)
        self._batch = Batch(model)
        self._waiting: deque[Row] = deque()
        self._unaligned: deque[Row] = deque()

    def check(self, asked: Asked) -> None:
        if asked.task != "transcribe":
            raise cannot_translate()
        if asked.prompt and len(asked.prompt) > MAX_PROMPT:
            raise BadRequest(
                f"'prompt' has {len(asked.prompt)} characters; it may have {MAX_PROMPT}.", param="prompt"
            )
        self._check_language(asked.language, self._languages, "one of")
        if asked.words or asked.times:
            if self._aligner is None:
                raise _no_aligner(asked)
            self._check_language(asked.language, self._aligner.languages, "with times one of")

    def _check_language(self, code: str | None, spoken: list[str], which: str) -> None:
        if code and spoken and name_of_language(code).lower() not in spoken:
            raise not_spoken(code, f"{which} {', '.join(spoken)}")

    def add(self, key: Key, samples: np.ndarray, asked: Asked) -> None:
        self._waiting.append(Row(key=key, samples=samples, asked=asked, ladder=ladder(asked.temperature)))

    def abort(self, key: Key) -> None:
        self._waiting = deque(row for row in self._waiting if row.key != key)
        self._unaligned = deque(row for row in self._unaligned if row.key != key)
        self._batch.leave([row for row in self._batch.rows if row.key == key])

    def step(self) -> Results:
        """At most one prompt is read and one text aligned; every row says one token."""
        results: Results = []
        running = self._batch.launch()  # the device computes while Python prepares the next prompt
        if self._waiting:
            row = next((row for row in self._waiting if row.asked.urgent), self._waiting[0])
            self._waiting.remove(row)
            self._alone(row, self._begin, results)
        if running:
            self._batch.read(running)
            ended = [row for row in running if self._ended(row)]
            self._batch.leave(ended)
            for row in ended:
                self._alone(row, self._judge, results)
        if self._unaligned:
            self._alone(self._unaligned.popleft(), self._align, results)
        return results

    def _alone(self, row: Row, work: Callable[[Row], Hearing | None], results: Results) -> None:
        try:
            heard = work(row)
        except Exception as error:  # whatever a chunk makes the model raise costs this chunk alone
            results.append((row.key, error))
        else:
            if heard is not None:
                results.append((row.key, heard))

    def _begin(self, row: Row) -> None:
        features = encode(self._model, row.samples)
        prompt = without_controls(row.asked.prompt or "", self._model._tokenizer)
        language = name_of_language(row.asked.language) if row.asked.language else None
        ids = self._model._build_prompt(features.shape[0], language, prompt)
        self._batch.join(row, embed(self._model, np.array(ids)[0], features))

    def _ended(self, row: Row) -> bool:
        said = len(row.tokens)
        circles = said % LOOK == 0 and loop_begin(row.tokens) is not None
        return row.tokens[-1] in self._ends or said >= self._max_tokens or circles

    def _judge(self, row: Row) -> Hearing | None:
        """What an ended row has said; None if it is heard again, or waits for the aligner.

        Where every try looks wrong, the first one counts that did not end in a loop (a refrain compresses
        well too), else the last, without the loop.
        """
        if row.tokens[-1] in self._ends:
            row.tokens.pop()
        begin = loop_begin(row.tokens)
        if begin is None and not too_repetitive(self._reader.read(row).text):
            return self._accept(row)
        plausible = row.plausible or (row if begin is None else None)
        if row.rung + 1 < len(row.ladder):
            self._waiting.appendleft(row.again(plausible))
            return None
        if plausible is None:
            del row.tokens[begin:]
        return self._accept(plausible or row)

    def _accept(self, row: Row) -> Hearing | None:
        said = self._reader.read(row)
        if said.text and (row.asked.words or row.asked.times):
            self._unaligned.append(row)
            return None
        return self._reader.hearing(row, said, [])

    def _align(self, row: Row) -> Hearing:
        said = self._reader.read(row)
        pieces = self._aligner.words(row.samples, said.text, said.language or "English")
        return self._reader.hearing(row, said, pieces)


def _no_aligner(asked: Asked) -> BadRequest:
    return BadRequest(
        f"This model does not tell {'when words' if asked.words else 'when sentences'} are said. An aligner "
        'does: name one in the model\'s entry of models.toml, options = { aligner = "..." }',
        param="timestamp_granularities" if asked.words else "response_format",
        code="unsupported_value",
    )
