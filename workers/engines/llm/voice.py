"""From the tokens of one job to its events: the text of every choice, what it calls, what it thought."""

from collections.abc import Iterable

from mlx_lm.tokenizer_utils import TokenizerWrapper

from shared.events import Event
from shared.tasks import chat, completion
from workers.answer import Answer
from workers.engine import Output
from workers.engines.llm import calls
from workers.engines.llm.parts import CONTENT, REASONING, Splitter, edges_of
from workers.engines.llm.pieces import Pieces, Reader, pieces_of
from workers.engines.llm.prompt import Prompt
from workers.engines.llm.said import Cached, PromptScores, Scored, Token
from workers.engines.llm.speaking import Calling, PartsTeller, PlainTeller, Teller


class Voice:
    """Renders all choices of one job. One thread at a time; `ended` any."""

    def __init__(self, answer: Answer, speakers: "list[Speaker]", echo: "Echo | None" = None) -> None:
        answer.reasoning_tokens = 0
        self._answer, self._speakers, self._echo = answer, speakers, echo
        if echo and not echo.scored:
            for prompt in range(echo.prompts):
                echo.tell(answer, prompt, ())

    @classmethod
    def chat(cls, tokenizer: TokenizerWrapper, job_id: str, request: chat.Request, prompt: Prompt) -> "Voice":
        """Reasoning, content and calls by the markers of the model's family."""
        answer = Answer(len(prompt.tokens), request.stop_strings, request.choices)
        form = calls.form(tokenizer, request)
        edges = edges_of(tokenizer, form)
        calling = form and Calling(
            form, job_id, calls.several(request), "stop" if calls.named_tool(request) else "tool_calls"
        )
        initial = _initial(tokenizer, request, prompt)
        pieces = pieces_of(tokenizer)
        each = bool(edges or request.stop_strings or request.logprobs)

        def speaker(choice: int) -> Speaker:
            if edges:
                teller: Teller = PartsTeller(answer, choice, pieces, Splitter(edges, initial), calling)
            else:
                teller = PlainTeller(answer, choice, pieces)
            return Speaker(pieces.reader(), teller, each)

        return cls(answer, [speaker(choice) for choice in range(request.choices)])

    @classmethod
    def completion(
        cls,
        tokenizer: TokenizerWrapper,
        job_id: str,
        request: completion.Request,
        prompts: list[list[int]],
    ) -> "Voice":
        """Text alone, after the prompt's if that is to be echoed. Choice `p * n + k` continues prompt p."""
        answer = Answer(sum(map(len, prompts)), request.stop_strings, len(prompts) * request.choices)
        pieces = pieces_of(tokenizer)
        each = bool(request.stop_strings or request.logprobs is not None)
        continued = [prompt for prompt in prompts for _ in range(request.choices)]
        speakers = [
            Speaker(pieces.reader(prompt), PlainTeller(answer, choice, pieces), each, scores_end=True)
            for choice, prompt in enumerate(continued)
        ]
        echo = Echo(pieces, request, prompts) if request.echo else None
        return cls(answer, speakers, echo)

    def ended(self, choice: int) -> bool:
        return self._answer.ended(choice)

    def render(self, outputs: Iterable[Output]) -> list[Event]:
        heard: dict[int, Speaker] = {}
        for output in outputs:
            said = output.payload
            if isinstance(said, Token):
                heard[said.choice] = self._hear(said)
            elif isinstance(said, PromptScores) and self._echo:
                self._echo.tell(self._answer, said.prompt, said.scored)
            elif isinstance(said, Cached):
                self._answer.cached_tokens += said.tokens
        for speaker in heard.values():
            speaker.tell()
        return self._answer.events()

    def _hear(self, token: Token) -> "Speaker":
        speaker = self._speakers[token.choice]
        if self._answer.ended(token.choice):
            return speaker
        if token.id is not None and token.finish_reason != "stop":
            speaker.hear(token.id, token.scored)
        if token.finish_reason:
            speaker.end(token)
        return speaker


class Speaker:
    """One choice. Without a reason to look at `each` token, those of one rendering go in one.

    `scores_end`: an end token is among the log-probabilities. Who scores a text asks for one token more
    than it has, and counts on one.
    """

    def __init__(self, reader: Reader, teller: Teller, each: bool, scores_end: bool = False) -> None:
        self._reader, self._teller = reader, teller
        self._each, self._scores_end = each, scores_end
        self._untold = 0
        self._scores: list[tuple[int, Scored]] = []

    def hear(self, token: int, scored: Scored | None) -> None:
        self._reader.add(token)
        self._untold += 1
        if scored:
            self._scores.append((token, scored))
        if self._each:
            self.tell()

    def tell(self) -> None:
        if self._untold:
            self._teller.tell(self._reader.read(), self._untold, self._scores)
            self._untold, self._scores = 0, []

    def end(self, token: Token) -> None:
        self.tell()
        if text := self._reader.end():
            self._teller.tell(text, 0)
        if self._scores_end and token.scored and token.finish_reason == "stop":
            self._teller.tell("", 0, [(token.id, token.scored)])
        self._teller.end(token.finish_reason)


class Echo:
    """The prompts of a completion, told before their answers: at once, or with their log-probabilities."""

    def __init__(self, pieces: Pieces, request: completion.Request, prompts: list[list[int]]) -> None:
        self._pieces, self._texts, self._tokens = pieces, request.prompts, prompts
        self._choices = request.choices
        self.scored = request.logprobs is not None

    @property
    def prompts(self) -> int:
        return len(self._tokens)

    def tell(self, answer: Answer, prompt: int, scored: Iterable[Scored]) -> None:
        text, tokens = self._texts[prompt], self._tokens[prompt]
        if isinstance(text, str):
            pieces = self._pieces.within(text, tokens) if self.scored else []
        else:
            text, pieces = self._pieces.text(tokens), [self._pieces.of(token) for token in tokens]
        each = zip(tokens, scored, pieces, strict=False)
        logprobs = [self._pieces.scored(*token) for token in each]
        for choice in range(prompt * self._choices, (prompt + 1) * self._choices):
            answer.echo(text, choice=choice, logprobs=logprobs)


def _initial(tokenizer: TokenizerWrapper, request: chat.Request, prompt: Prompt) -> str:
    """What an answer begins as: what must be calls, or of some form, has no header."""
    own = tokenizer.response_initial_state
    if own and not calls.forced(request) and not request.constrained:
        return own
    return REASONING if prompt.reasoning else CONTENT
