"""Whether an answer has the shape of OpenAI's types: every key that they require, and no other."""

from copy import deepcopy
from typing import Any

from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

OURS = {"reasoning_content"}  # beside OpenAI's


def chat(answer: dict) -> ChatCompletion:
    for choice in answer["choices"]:
        assert choice.keys() == {"index", "message", "logprobs", "finish_reason"}
        assert choice["message"].keys() >= {"role", "content", "refusal"}
    return _conforming(ChatCompletion, answer)


def chat_chunk(chunk: dict) -> ChatCompletionChunk:
    for choice in chunk["choices"]:
        assert choice.keys() == {"index", "delta", "logprobs", "finish_reason"}
    return _conforming(ChatCompletionChunk, chunk)


def completion(answer: dict) -> Completion:
    """Of a chunk too. OpenAI's type has no room for the nulls of a choice that goes on, and of the first
    token of a prompt: they are filled before."""
    filled = deepcopy(answer)
    for choice in filled["choices"]:
        assert choice.keys() == {"index", "text", "logprobs", "finish_reason"}
        choice["finish_reason"] = choice["finish_reason"] or "stop"
        if table := choice["logprobs"]:
            assert len({len(column) for column in table.values()}) == 1
            table["token_logprobs"] = [each or 0.0 for each in table["token_logprobs"]]
            table["top_logprobs"] = [each or {} for each in table["top_logprobs"]]
    return _conforming(Completion, filled)


def _conforming(kind: type[BaseModel], value: dict) -> Any:
    assert {"id", "object", "created", "model", "choices"} <= value.keys()
    made = kind.model_validate(value, strict=True)
    assert set(_extra(made)) <= OURS
    return made


def _extra(value: Any) -> list[str]:
    """Keys, at any depth, that OpenAI's types do not have."""
    if isinstance(value, BaseModel):
        return [*(value.model_extra or ()), *(key for _, each in value for key in _extra(each))]
    return [key for each in value for key in _extra(each)] if isinstance(value, list) else []
