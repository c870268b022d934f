"""What the echo engine answers in text: to a chat its last user message, to a prompt the prompt again."""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from shared.events import Event
from shared.generation import Generation
from shared.jobs import JobSpec
from shared.tasks import chat, completion
from shared.validation import not_supported
from workers.answer import Answer, token_budget
from workers.engine import Output
from workers.engines.echo import calls
from workers.engines.echo.pieces import Piece, Thought, Word, scored, scored_prompt
from workers.engines.echo.script import Script
from workers.engines.echo.words import PIECE, WORD, repeat


class Row(NamedTuple):
    """One choice: a piece a step, behind the tokens of the prompt if that is echoed."""

    pieces: list[Piece]
    finish_reason: str
    echoed: list[str] = []


class Text:
    """Renders the choices of a job. `top` is how many likely tokens are told beside each, None for
    no log-probabilities at all."""

    def __init__(self, answer: Answer, rows: list[Row], top: int | None) -> None:
        self.steps = max(len(row.pieces) for row in rows)
        self._answer, self._rows, self._top = answer, rows, top

    def render(self, outputs: Iterable[Output]) -> list[Event]:
        for output in outputs:
            for choice, row in enumerate(self._rows):
                self._say(choice, row, output.payload)
        return self._answer.events()

    def _say(self, choice: int, row: Row, step: int) -> None:
        if step == 0 and row.echoed:
            logprobs = scored_prompt(row.echoed, self._top)
            self._answer.echo("".join(row.echoed), choice=choice, logprobs=logprobs)
        if step < len(row.pieces):
            piece = row.pieces[step]
            piece.say(self._answer, choice, scored(piece.text, self._top))
        if step + 1 >= len(row.pieces):
            self._answer.end(row.finish_reason, choice)


def voice(spec: JobSpec, script: Script, context_length: int) -> Text:
    """Raises BadRequest."""
    if spec.task == "chat":
        return _chat(spec, script, context_length)
    return _completion(spec, script, context_length)


def _chat(spec: JobSpec, script: Script, context_length: int) -> Text:
    request = msgspec.convert(spec.params, chat.Request)
    prompt_tokens = sum(len(WORD.findall(_text(message))) for message in request.messages)
    budget = token_budget(prompt_tokens, request.token_limit, context_length)
    made = calls.of(request, script)
    users = [_text(message) for message in request.messages if message.role == "user"]
    said = [] if made and script.text is None else _words(request, script, users[-1] if users else "")
    thought = script.think if script.think and request.reasoning_effort != "none" else ""
    top = (request.top_logprobs or 0) if request.logprobs else None
    rows = []
    for choice in range(request.choices):
        called = calls.pieces(made, f"{spec.id.removeprefix('job-')}{choice}")
        pieces = [*map(Thought, PIECE.findall(thought)), *map(Word, said), *called]
        rows.append(_row(pieces, budget, calls.finish_reason(request, made)))
    return Text(Answer(prompt_tokens, request.stop_strings, len(rows)), rows, top)


def _completion(spec: JobSpec, script: Script, context_length: int) -> Text:
    request = msgspec.convert(spec.params, completion.Request)
    prompts = [_prompt(prompt) for prompt in request.prompts]
    rows = []
    for prompt in prompts:
        budget = token_budget(len(prompt), request.token_limit, context_length, "prompt")
        words = _words(request, script, "".join(prompt))
        if script.text is None and words:
            words = [f" {words[0].lstrip()}", *words[1:]]  # it goes on behind the prompt
        row = _row([*map(Word, words)], budget, "stop", prompt if request.echo else [])
        rows += [row] * request.choices
    answer = Answer(sum(map(len, prompts)), request.stop_strings, len(rows))
    return Text(answer, rows, request.logprobs)


def _words(request: Generation, script: Script, heard: str) -> list[str]:
    """What is said: the script's text, or what was heard."""
    if script.text is not None:
        return repeat(PIECE.findall(script.text), script.tokens)
    if request.constrained:
        raise not_supported("response_format.type", request.response_format.type, ("text",))
    return repeat(WORD.findall(heard), script.tokens)


def _row(pieces: list[Piece], budget: int, finish_reason: str, echoed: list[str] | None = None) -> Row:
    cut = len(pieces) > budget
    return Row(pieces[:budget], "length" if cut else finish_reason, echoed or [])


def _prompt(prompt: completion.Prompt) -> list[str]:
    """The tokens of a prompt; token ids are read as numbers."""
    text = prompt if isinstance(prompt, str) else " ".join(map(str, prompt))
    return PIECE.findall(text)


def _text(message: chat.Message) -> str:
    content = message.content or ""
    return content if isinstance(content, str) else "".join(part.text for part in content)
