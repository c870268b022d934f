"""From row tokens to text, reasoning and log-probabilities, over tokenizers of each kind."""

import random
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.tokenizer_utils import TokenizerWrapper

from shared.events import Event
from shared.manifest import ModelEntry
from shared.tasks import completion
from tests.engines.families import (
    END,
    FAMILIES,
    OPENS_THINKING,
    PLAIN,
    QWEN3,
    THINKING,
    WEATHER,
    answering,
    byte_level,
    encoded,
    family,
    heard,
    of_words,
    said,
    sentencepiece,
    told,
)
from workers.engine import Output
from workers.engines.llm.pieces import pieces_of
from workers.engines.llm.prompt import completion_prompts
from workers.engines.llm.said import Cached, PromptScores, Scored, Token
from workers.engines.llm.voice import Voice

CALLS = ["<tool_call>", "</tool_call>"]
HERMES = FAMILIES["json_tools"].block
TEXT = "The fox,  the é river 😀 and <b>the</b>\n\tbridge"
KINDS = {
    "byte_level": lambda folder: byte_level(folder, PLAIN),
    "sentencepiece": lambda folder: sentencepiece(folder, PLAIN),
    "sentencepiece_with_spaces": lambda folder: sentencepiece(folder, PLAIN, strips=False),
}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TokenizerWrapper:
    return KINDS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> TokenizerWrapper:
    return byte_level(tmp_path_factory.mktemp("qwen"), QWEN3, [*THINKING, *CALLS])


def completing(tokenizer: TokenizerWrapper, **fields: Any) -> tuple[Voice, list[list[int]]]:
    request = completion.validate({"model": "m"} | fields)
    prompts = completion_prompts(request, tokenizer, len(tokenizer))
    return Voice.completion(tokenizer, "job-1", request, prompts), prompts


# --- text


def test_the_text_is_that_of_the_tokens(tokenizer: TokenizerWrapper) -> None:
    text = said(tokenizer, TEXT).text
    assert text == tokenizer.decode(encoded(tokenizer, TEXT))
    assert text.removeprefix(" ") == TEXT


def test_a_character_is_said_when_it_is_whole(tokenizer: TokenizerWrapper) -> None:
    voice, tokens = answering(tokenizer), encoded(tokenizer, "the 😀")
    texts = ["".join(event.text for event in voice.render([Output(Token(token))])) for token in tokens]
    assert len(tokens) > 3 and texts[-1] == "😀"
    assert "\ufffd" not in "".join(texts)


def test_half_a_character_at_the_end_is_said_as_such(tokenizer: TokenizerWrapper) -> None:
    tokens = encoded(tokenizer, "the 😀")[:-1]
    for end in ("stop", "length"):
        assert heard(told(answering(tokenizer), tokens, end=end)).text.strip(" ") == "the \ufffd"


def test_a_broken_byte_does_not_hold_the_text_back(tokenizer: TokenizerWrapper) -> None:
    [*_, lead, trail] = encoded(tokenizer, "ß")
    voice = answering(tokenizer)
    texts = ["".join(e.text for e in voice.render([Output(Token(trail))])) for _ in range(3)]
    assert "".join(texts) == "\ufffd" * 3
    assert pieces_of(tokenizer).of(lead) + pieces_of(tokenizer).of(trail) == "ß".encode()


def test_a_vocabulary_of_another_kind_is_read_as_mlx_lm_does(tmp_path: Path) -> None:
    tokenizer = of_words(tmp_path, PLAIN)
    tokens = encoded(tokenizer, "the fox é!")
    assert heard(told(answering(tokenizer), tokens)).text == tokenizer.decode(tokens) == "the fox é!"


def test_a_token_beyond_the_vocabulary_says_nothing(tokenizer: TokenizerWrapper, tmp_path: Path) -> None:
    for each in (tokenizer, of_words(tmp_path, PLAIN)):
        voice = answering(each, logprobs=True)
        scored = Scored(-1.0, [(len(each) + 7, -1.0)])
        outputs = [Output(Token(len(each) + 7, None, 0, scored)), Output(Token(None, "stop"), last=True)]
        [*_, end] = voice.render(outputs)
        assert (end.result["choices"][0]["text"], end.usage["completion_tokens"]) == ("", 1)


@pytest.mark.parametrize("fields", [{}, {"stop": "</b>"}, {"tools": [WEATHER]}, {"logprobs": True}])
def test_any_split_of_the_tokens_says_the_same(qwen: TokenizerWrapper, fields: dict) -> None:
    tokens = encoded(qwen, f"<think>\nthe é\n</think>\n\n{TEXT}\n{HERMES}\n{HERMES}\n")
    scores = [(token, Scored(-at / 8, [(token, -at / 8)])) for at, token in enumerate(tokens)]

    def rendered(chance: random.Random, most: int) -> list[Event]:
        voice, events = answering(qwen, **fields), []
        outputs = [Output(Token(token, None, 0, scored)) for token, scored in scores]
        outputs.append(Output(Token(None, "stop"), last=True))
        while outputs:
            length = chance.randint(1, most)
            events += voice.render(outputs[:length])
            del outputs[:length]
        return events

    one_by_one = rendered(random.Random(0), 1)
    assert sum(event.tokens for event in one_by_one[:-1]) == one_by_one[-1].usage["completion_tokens"]
    for seed in range(10):
        events = rendered(random.Random(seed), 30)
        assert heard(events)._replace(calls=[]) == heard(one_by_one)._replace(calls=[])
        assert heard(events).called_texts == heard(one_by_one).called_texts
        assert events[-1] == one_by_one[-1]


def test_many_tokens_of_one_rendering_are_one_event(tokenizer: TokenizerWrapper) -> None:
    tokens = encoded(tokenizer, TEXT)
    voice = answering(tokenizer)
    [event] = voice.render([Output(Token(token)) for token in tokens])
    assert event.tokens == len(tokens)


def test_the_token_that_ends_an_answer_is_no_part_of_it(tokenizer: TokenizerWrapper) -> None:
    [end] = encoded(tokenizer, END)[-1:]
    [*_, done] = answering(tokenizer).render([Output(Token(end, "stop"), last=True)])
    assert (done.result["choices"][0]["text"], done.usage["completion_tokens"]) == ("", 0)


def test_choices_do_not_mix(tokenizer: TokenizerWrapper) -> None:
    voice, tokens = answering(tokenizer, n=2), encoded(tokenizer, "the é😀")
    outputs = [Output(Token(token, None, choice)) for token in tokens for choice in (0, 1)]
    events = [event for output in outputs for event in voice.render([output])]
    events += voice.render([Output(Token(None, "length", 1)), Output(Token(None, "stop", 0), last=True)])

    first, second = heard(events, 0), heard(events, 1)
    assert first.text == second.text
    assert (first.finish_reason, second.finish_reason) == ("stop", "length")


def test_a_stop_string_ends_its_choice_alone(tokenizer: TokenizerWrapper) -> None:
    voice = answering(tokenizer, n=2, stop="fox")
    for token in encoded(tokenizer, "the fox runs"):
        voice.render([Output(Token(token, None, 1))])
    assert (voice.ended(0), voice.ended(1)) == (False, True)
    events = told(voice, encoded(tokenizer, "the"))
    assert events[-1].result["choices"][1]["text"].strip(" ") == "the"


def test_cached_tokens_are_in_the_usage(tokenizer: TokenizerWrapper) -> None:
    voice = answering(tokenizer)
    assert voice.render([Output(Cached(3))]) == []
    assert told(voice, [])[-1].usage["prompt_tokens_details"] == {"cached_tokens": 3}


# --- reasoning


def test_reasoning_is_parted_from_content(qwen: TokenizerWrapper) -> None:
    heard = said(qwen, "<think>\nFoxes, hm.\n\n</think>\n\nA fox.\n")
    assert (heard.reasoning, heard.text) == ("Foxes, hm.", "A fox.\n")


def test_an_answer_whose_prompt_opens_the_reasoning_begins_with_it(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path, OPENS_THINKING, THINKING)
    heard = said(tokenizer, "Foxes.\n</think>\n\nA fox.")
    assert (heard.reasoning, heard.text) == ("Foxes.", "A fox.")
    heard = said(tokenizer, "<think>\nFoxes.\n</think>\n\nA fox.")
    assert (heard.reasoning, heard.text) == ("Foxes.", "A fox.")


@pytest.mark.parametrize(
    "off", [{"reasoning_effort": "none"}, {"chat_template_kwargs": {"enable_thinking": False}}]
)
def test_an_empty_block_of_reasoning_is_nothing(qwen: TokenizerWrapper, off: dict) -> None:
    heard = said(qwen, "<think>\n\n</think>\n\nA fox.", **off)
    assert (heard.reasoning, heard.text) == ("", "A fox.")


def test_the_tokens_of_reasoning_are_counted(qwen: TokenizerWrapper) -> None:
    thought, text = encoded(qwen, "<think>\nFoxes.\n</think>"), encoded(qwen, "\n\nA fox.")
    usage = told(answering(qwen), thought + text)[-1].usage
    assert usage["completion_tokens_details"] == {"reasoning_tokens": len(thought)}
    assert usage["completion_tokens"] == len(thought + text)


def test_reasoning_that_the_limit_cuts_off_is_no_content(qwen: TokenizerWrapper) -> None:
    heard = said(qwen, "<think>Foxes </thi", end="length")
    assert (heard.reasoning, heard.text, heard.finish_reason) == ("Foxes </thi", "", "length")


def test_stop_strings_are_looked_for_in_content_only(qwen: TokenizerWrapper) -> None:
    heard = said(qwen, "<think>A fox.</think>No fox here.", stop=["fox"])
    assert (heard.reasoning, heard.text, heard.finish_reason) == ("A fox.", "No ", "stop")


def test_a_text_that_looks_like_a_marker_is_content(qwen: TokenizerWrapper) -> None:
    for text in ("a <thin", "<", "1 < 2 <tool_cal", "<tool>", " \n", "\n\nA"):
        for end in ("stop", "length"):
            assert said(qwen, text, end=end, tools=[WEATHER]).text == text


def test_two_blocks_of_reasoning_are_parted_by_an_empty_line(qwen: TokenizerWrapper) -> None:
    heard = said(qwen, "<think>One.</think>A.<think> Two. </think> B.")
    assert (heard.reasoning, heard.text) == ("One.\n\nTwo.", "A.B.")


def test_markers_of_several_tokens_part_reasoning_too(tmp_path: Path) -> None:
    gemma = byte_level(tmp_path, PLAIN, ["<|channel>", "<channel|>"])
    heard = said(gemma, "<|channel>thought\nFoxes.<channel|>A fox.")
    assert (heard.reasoning, heard.text) == ("Foxes.", "A fox.")


def test_the_headers_of_a_response_format_are_dropped(tmp_path: Path) -> None:
    muse = {"chat_template_type": "muse_spark", "tool_parser_type": "muse_spark"}
    special = ["<|start|>", "<|message|>", "<|eom|>", "<|eot|>"]
    tokenizer = byte_level(tmp_path, PLAIN, special, **muse)
    call = (
        '<atem:function_calls><atem:invoke name="get_weather"><atem:parameter name="city">"Paris"'
        "</atem:parameter></atem:invoke></atem:function_calls>"
    )
    text = (
        "to=self<|message|>Foxes.<|eom|><|start|>assistant to=user<|message|>A fox.<|eom|>"
        f"<|start|>assistant to=get_weather<|message|>{call}"
    )
    heard = said(tokenizer, text, tools=[WEATHER])
    assert (heard.reasoning, heard.text) == ("Foxes.", "A fox.")
    assert heard.called == [("get_weather", {"city": "Paris"})]


def test_an_answer_that_must_have_a_form_has_no_header(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path, PLAIN, chat_template_type="muse_spark", tool_parser_type="muse_spark")
    assert said(tokenizer, '{"a": 1}', response_format={"type": "json_object"}).text == '{"a": 1}'


# --- log-probabilities


def scored(voice: Voice, tokens: list[int], end: str = "stop") -> list[dict]:
    outputs = [Output(Token(t, None, 0, Scored(-float(t), [(t, -float(t))]))) for t in tokens]
    events = [event for output in outputs for event in voice.render([output])]
    return heard(events + voice.render([Output(Token(None, end), last=True)])).logprobs


def test_every_token_of_the_content_has_its_log_probability(tokenizer: TokenizerWrapper) -> None:
    tokens = encoded(tokenizer, TEXT)
    entries = scored(answering(tokenizer, logprobs=True, top_logprobs=1), tokens)
    assert [entry["logprob"] for entry in entries] == [-token for token in tokens]
    assert bytes(b for entry in entries for b in entry["bytes"]).decode().removeprefix(" ") == TEXT
    assert all(entry["token"] == bytes(entry["bytes"]).decode("utf-8", "replace") for entry in entries)
    assert all(entry["top"] == [{k: entry[k] for k in ("token", "bytes", "logprob")}] for entry in entries)


def test_reasoning_and_calls_have_no_log_probabilities(qwen: TokenizerWrapper) -> None:
    tokens = encoded(qwen, f"<think>\nthe 😀\n</think>\n\nA é fox.\n{HERMES}\nYes < 2 <think>no</think>")
    entries = scored(answering(qwen, logprobs=True, tools=[WEATHER]), tokens)
    assert bytes(b for entry in entries for b in entry["bytes"]).decode() == "A é fox.\nYes < 2 "


def test_what_a_stop_string_cuts_off_has_no_log_probabilities(qwen: TokenizerWrapper) -> None:
    entries = scored(answering(qwen, logprobs=True, stop="fox"), encoded(qwen, "A é fox and"))
    assert bytes(b for entry in entries for b in entry["bytes"]).decode() == "A é "


def test_a_token_that_cannot_be_has_a_finite_log_probability(qwen: TokenizerWrapper) -> None:
    never = float("-inf")
    scored = Output(Token(5, None, 0, Scored(never, [(6, never)])))
    end = Output(Token(None, "stop"), last=True)
    [entry] = heard(answering(qwen, logprobs=True).render([scored, end])).logprobs
    assert (entry["logprob"], entry["top"][0]["logprob"]) == (-9999.0, -9999.0)


@pytest.mark.models
def test_the_pieces_of_a_real_vocabulary_are_its_texts(starters: dict[str, tuple[ModelEntry, Path]]) -> None:
    from mlx_lm.tokenizer_utils import load

    tokenizer = load(starters["llm"][1])
    pieces = pieces_of(tokenizer)
    for token in range(0, len(tokenizer), 7):
        assert pieces.of(token).decode("utf-8", "replace") == tokenizer.decode([token])
    text = "Fuchs 🦊, 狐狸 \u200bلثعلب — naïve\r\n\t¿no?"
    assert b"".join(pieces.of(token) for token in encoded(tokenizer, text)).decode() == text
    assert said(tokenizer, text).text == text


# --- completions


def test_a_completion_keeps_the_space_it_begins_with(tokenizer: TokenizerWrapper) -> None:
    voice, _ = completing(tokenizer, prompt="the")
    assert heard(told(voice, encoded(tokenizer, "x the")[-2:])).text.endswith(" the")
    space = encoded(tokenizer, "x the")[-1:]
    voice, _ = completing(tokenizer, prompt="the")
    assert heard(told(voice, space)).text == " the"


def test_an_echo_comes_before_the_answer(tokenizer: TokenizerWrapper) -> None:
    voice, _ = completing(tokenizer, prompt=["the é", "the 😀"], n=2, echo=True, stop="the")
    events = [
        event for choice in (3, 1, 0) for event in voice.render([Output(Token(None, "length", choice))])
    ]
    space = encoded(tokenizer, "x the")[-1:]
    events += told(voice, space * 2, choice=2)
    texts = [choice["text"] for choice in events[-1].result["choices"]]
    assert texts == ["the é", "the é", "the 😀 ", "the 😀"]
    assert heard(events, 2).text == "the 😀 "


def test_an_echo_of_token_ids_goes_on_in_the_middle_of_a_character(tokenizer: TokenizerWrapper) -> None:
    tokens = encoded(tokenizer, "x 😀")
    for echo, expected in ((True, "x 😀"), (False, "😀")):
        voice, _ = completing(tokenizer, prompt=tokens[:-2], echo=echo)
        assert heard(told(voice, tokens[-2:])).text.lstrip(" ") == expected


def test_an_echo_of_words_goes_on_with_their_answer(tmp_path: Path) -> None:
    tokenizer = of_words(tmp_path, PLAIN)
    voice, _ = completing(tokenizer, prompt="the fox", echo=True)
    assert heard(told(voice, encoded(tokenizer, "the"))).text == "the fox the"


def test_an_echo_with_log_probabilities_has_those_of_the_prompt(tokenizer: TokenizerWrapper) -> None:
    voice, [tokens] = completing(tokenizer, prompt="the é", n=2, echo=True, logprobs=1, max_tokens=0)
    scores = [Scored(None, [])] + [Scored(-1.0, [(5, -0.5)])] * (len(tokens) - 1)
    ends = [Output(Token(None, "length", choice)) for choice in (0, 1)]
    events = voice.render([Output(PromptScores(0, scores)), *ends])

    for choice in (0, 1):
        entries = heard(events, choice).logprobs
        assert [entry["logprob"] for entry in entries] == [None] + [-1.0] * (len(tokens) - 1)
        assert bytes(b for entry in entries for b in entry["bytes"]).decode() == "the é"
        assert all(entry["token"] for entry in entries)
        assert (entries[0]["top"], entries[1]["top"][0]["logprob"]) == ([], -0.5)
    assert events[-1].usage["prompt_tokens"] == len(tokens)
    assert events[-1].usage["completion_tokens"] == 0


def test_the_log_probabilities_of_a_completion_end_with_the_end_token(tokenizer: TokenizerWrapper) -> None:
    """Evaluation tools ask for one token more than they score, and leave the last row out."""
    [word, end] = encoded(tokenizer, "the")[-1], encoded(tokenizer, END)[-1]
    tokens = Token(word, None, 0, Scored(-1.0, [])), Token(end, "stop", 0, Scored(-0.5, []))
    text = heard(told(completing(tokenizer, prompt="the")[0], [word])).text
    for stop, kept, scores in ((None, text, [-1.0, -0.5]), (text, "", [])):
        voice, _ = completing(tokenizer, prompt="the", logprobs=0, stop=stop)
        events = voice.render(map(Output, tokens))
        assert [entry["logprob"] for entry in heard(events).logprobs] == scores
        assert (heard(events).text, heard(events).finish_reason) == (kept, "stop")
        assert events[-1].usage["completion_tokens"] == 1


def test_a_marker_in_a_completion_is_text(qwen: TokenizerWrapper) -> None:
    voice, _ = completing(qwen, prompt="the")
    text = f"<think>the</think>{HERMES}"
    assert heard(told(voice, encoded(qwen, text))).text == text


def test_rendering_for_a_family_needs_no_tools_of_it(tmp_path: Path) -> None:
    tokenizer = family(tmp_path, "kimi_k3")
    assert said(tokenizer, "<|open|>response<|sep|>A fox.<|close|>response<|sep|>").text == "A fox."
