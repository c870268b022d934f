"""Small tokenizers with the markers of model families, and what such a model writes when it calls.

Each is written as the folder that mlx-lm loads, so that it is mlx-lm which recognises it.
"""

import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlx_lm.tokenizer_utils import TokenizerWrapper, load
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from shared.events import Delta, Done, Event
from shared.tasks import chat
from workers.engine import Output
from workers.engines.llm.prompt import ChatTemplate
from workers.engines.llm.said import Token
from workers.engines.llm.voice import Voice

Json = dict[str, Any]

END = "<|im_end|>"
THINKING = ["<think>", "</think>"]

# A short form of Qwen3's: thinking that can be switched off, tools in the Hermes form, and no thoughts of
# turns before the last question.
QWEN3 = """\
{%- if tools %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content + '\\n\\n' }}{% endif %}# Tools

{%- for tool in tools %}
{{- '\\n' + tool | tojson }}{% endfor %}<|im_end|>
{% elif messages[0].role == 'system' %}<|im_start|>system
{{ messages[0].content }}<|im_end|>
{% endif %}
{%- set ns = namespace(last=-1) %}
{%- for message in messages %}
{%- if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor %}
{%- for message in messages %}
{%- if message.role == 'tool' %}<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% elif message.role != 'system' or not loop.first %}<|im_start|>{{ message.role }}
{% if message.reasoning_content and loop.index0 > ns.last %}<think>
{{ message.reasoning_content }}
</think>

{% endif %}{{ message.content }}
{%- for tool_call in message.tool_calls or [] %}{% set tool_call = tool_call.function %}
<tool_call>
{"name": "{{ tool_call.name }}", "arguments": {{ tool_call.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif %}{% endif %}"""
SWITCH = "{% if enable_thinking is defined"
OPENS_THINKING = QWEN3.replace(SWITCH, f"<think>\n{SWITCH}")

PLAIN = """\
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

# What mlx-lm knows a family by, in a template that tells of tools.
TELLS_TOOLS = PLAIN + "{% if tools %}{{ tools | tojson }}{% endif %}{% if false %}MARK{% endif %}"

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time"}}
PARIS = {"city": "Paris", "days": 3}


class Family(NamedTuple):
    """`mark` is what mlx-lm knows it by, `special` are tokens of its own; `block` calls get_weather with
    PARIS. `parted`: several calls are several blocks."""

    mark: str
    special: list[str]
    block: str
    parted: bool = True


FAMILIES = {
    "json_tools": Family(
        "<tool_call> tool_call.name",
        ["<tool_call>", "</tool_call>"],
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}\n</tool_call>',
    ),
    "qwen3_coder": Family(
        "<tool_call>\n<function=",
        ["<tool_call>", "</tool_call>"],
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n"
        "</parameter>\n</function>\n</tool_call>",
    ),
    "glm47": Family(
        "<arg_key>",
        ["<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"],
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n"
        "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>",
    ),
    "mistral": Family(
        "[TOOL_CALLS]",
        ["[TOOL_CALLS]", "[ARGS]"],
        '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris", "days": 3}',
    ),
    "pythonic": Family(
        "<|tool_list_start|>",
        ["<|tool_call_start|>", "<|tool_call_end|>"],
        '<|tool_call_start|>[get_weather(city="Paris", days=3)]<|tool_call_end|>',
    ),
    "gemma4": Family(
        "<|tool_call> <tool_call|>",
        ["<|tool_call>", "<tool_call|>", '<|"|>'],
        '<|tool_call>call:get_weather{city:<|"|>Paris<|"|>,days:3}<tool_call|>',
    ),
    "function_gemma": Family(
        "<start_function_call>",
        ["<start_function_call>", "<end_function_call>", "<escape>"],
        "<start_function_call>call:get_weather{city:<escape>Paris<escape>,days:3}<end_function_call>",
    ),
    "kimi_k2": Family(
        "<|tool_calls_section_begin|>",
        ["<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>"],
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
        '{"city": "Paris", "days": 3}<|tool_call_end|><|tool_calls_section_end|>',
    ),
    "kimi_k3": Family(
        "",
        ["<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"],
        '<|open|>tools<|sep|><|open|>call tool="get_weather" index="1"<|sep|>'
        '<|open|>argument key="city" type="string"<|sep|>Paris<|close|>argument<|sep|>'
        '<|open|>argument key="days" type="integer"<|sep|>3<|close|>argument<|sep|>'
        "<|close|>call<|sep|><|close|>tools<|sep|>",
    ),
    "longcat": Family(
        "<longcat_tool_call>",
        ["<longcat_tool_call>", "</longcat_tool_call>"],
        "<longcat_tool_call>get_weather\n<longcat_arg_key>city</longcat_arg_key>\n"
        "<longcat_arg_value>Paris</longcat_arg_value>\n<longcat_arg_key>days</longcat_arg_key>\n"
        "<longcat_arg_value>3</longcat_arg_value>\n</longcat_tool_call>",
    ),
    "minimax_m2": Family(
        "<minimax:tool_call>",
        ["<minimax:tool_call>", "</minimax:tool_call>"],
        '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Paris</parameter>\n'
        '<parameter name="days">3</parameter>\n</invoke>\n</minimax:tool_call>',
    ),
    "minicpm5": Family(
        '<function name=" <param name="',
        [],
        '<function name="get_weather"><param name="city">Paris</param><param name="days">3</param>'
        "</function>",
    ),
    "of_no_family": Family(
        "",
        [],
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}\n</tool_call>',
    ),
}


def family(folder: Path, name: str) -> TokenizerWrapper:
    """The tokenizer of a family, loaded by mlx-lm."""
    each = FAMILIES[name]
    mark = each.mark.replace("\n", "\\n")
    return byte_level(folder, TELLS_TOOLS.replace("MARK", "{{ '" + mark + "' }}"), each.special)


def byte_level(
    folder: Path, template: str | None, special: Sequence[str] = (), **defaults: Any
) -> TokenizerWrapper:
    """Bytes, a few words, and `special` tokens. Loaded by mlx-lm; `defaults` are those of its model."""
    vocabulary = {piece: at for at, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [tuple(pair.split()) for pair in ("t h", "th e", "Ġ the", "Ã ©", "Ġ Ã©", "ð Ł", "> Ċ", '" }')]
    for pair in merges:
        vocabulary["".join(pair)] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _load(folder, tokenizer, template, special, defaults)


def sentencepiece(folder: Path, template: str | None, strips: bool = True) -> TokenizerWrapper:
    """Letters, and bytes for the rest; <s> before every text. Loaded by mlx-lm."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", *"abcdefghijklmnopqrstuvwxyzTé<>/_", "th", "the", "▁the"]
    merges = [("t", "h"), ("th", "e"), ("▁", "the")]
    vocabulary = {piece: at for at, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if strips else [])])
    start = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.post_processor = start
    return _load(folder, tokenizer, template, bos_token="<s>")


def of_words(folder: Path, template: str | None) -> TokenizerWrapper:
    """Words and spaces of a kind that mlx-lm decodes line by line. Loaded by mlx-lm."""
    words = ["[UNK]", "▁the", "▁fox", "é", "▁", "!", "\n", "t", "h", "e", "f", "o", "x"]
    tokenizer = Tokenizer(models.BPE({word: at for at, word in enumerate(words)}, [], unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return _load(folder, tokenizer, template)


def _load(
    folder: Path,
    tokenizer: Tokenizer,
    template: str | None,
    special: Iterable[str] = (),
    defaults: dict[str, Any] | None = None,
    **config: str,
) -> TokenizerWrapper:
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in ("<|im_start|>", END)])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in special])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
    told = config | ({"chat_template": template} if template else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")
    return load(folder, defaults=defaults)


class Heard(NamedTuple):
    """What one choice said; `calls` are the deltas."""

    text: str
    reasoning: str
    calls: list[Json]
    logprobs: list[Json]
    finish_reason: str

    @property
    def called_texts(self) -> list[tuple[str, str, str]]:
        """(id, name, arguments as they were told) of every call."""
        heads = [delta for delta in self.calls if "id" in delta]
        return [(head["id"], head["function"]["name"], self.arguments(head["index"])) for head in heads]

    @property
    def called(self) -> list[tuple[str, Json]]:
        """(name, arguments) of every call."""
        return [(name, json.loads(arguments)) for _, name, arguments in self.called_texts]

    def arguments(self, index: int = 0) -> str:
        return "".join(delta["function"]["arguments"] for delta in self.calls if delta["index"] == index)


def heard(events: list[Event], choice: int = 0) -> Heard:
    """What the deltas of a choice say. Asserts that Done says the same."""
    *deltas, end = events
    assert isinstance(end, Done) and all(isinstance(delta, Delta) for delta in deltas)
    told = [delta for delta in deltas if (delta.data or {}).get("choice", 0) == choice]
    datas = [delta.data or {} for delta in told]
    whole = end.result["choices"][choice]
    said = Heard(
        "".join(delta.text for delta in told),
        "".join(data.get("reasoning", "") for data in datas),
        [delta for data in datas for delta in data.get("tool_calls", ())],
        [scored for data in datas for scored in data.get("logprobs", ())],
        whole["finish_reason"],
    )
    assert (whole["text"], whole.get("reasoning", "")) == (said.text, said.reasoning)
    whole_calls = [call["function"]["arguments"] for call in whole.get("tool_calls", ())]
    assert whole_calls == [said.arguments(index) for index in range(len(whole_calls))]
    return said


def told(
    voice: Voice, tokens: Iterable[int], sizes: Iterable[int] = (), end: str = "stop", choice: int = 0
) -> list[Event]:
    """All that a voice makes of one choice's tokens and its end, rendered `sizes` at a time, then one by
    one."""
    outputs = [Output(Token(token, choice=choice)) for token in tokens]
    outputs.append(Output(Token(None, end, choice), last=True))
    events, sizes = [], itertools.chain(sizes, itertools.repeat(1))
    while outputs:
        size = max(1, next(sizes))
        events += voice.render(outputs[:size])
        del outputs[:size]
    return events


def asked(**fields: Any) -> chat.Request:
    return chat.validate({"model": "m", "messages": [{"role": "user", "content": "Hi"}]} | fields)


def answering(tokenizer: TokenizerWrapper, job_id: str = "job-1", **fields: Any) -> Voice:
    """The voice of a chat with these fields."""
    request = asked(**fields)
    return Voice.chat(tokenizer, job_id, request, ChatTemplate(tokenizer).prompt(request))


def encoded(tokenizer: TokenizerWrapper, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def said(tokenizer: TokenizerWrapper, text: str, end: str = "stop", **fields: Any) -> Heard:
    """What a chat with these fields makes of a model's text, token by token and all at once: the same."""
    tokens = encoded(tokenizer, text)
    one_by_one = heard(told(answering(tokenizer, **fields), tokens, end=end))
    at_once = heard(told(answering(tokenizer, **fields), tokens, [len(tokens) + 1], end=end))
    assert at_once._replace(calls=[]) == one_by_one._replace(calls=[])
    assert at_once.called_texts == one_by_one.called_texts
    return one_by_one
