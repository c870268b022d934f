"""From a chat request to the tokens that the model continues."""

import inspect
from typing import Any

import jinja2
from mlx_lm.tokenizer_utils import TokenizerWrapper

from shared.errors import BadRequest
from shared.tasks.chat import Message, Request


class ChatTemplate:
    """A model's own chat template and tokenizer. Any thread."""

    def __init__(self, tokenizer: TokenizerWrapper) -> None:
        self._tokenizer = tokenizer
        self._knows_developer = "developer" in str(tokenizer.chat_template or "developer")
        self._reserved = frozenset(inspect.signature(tokenizer._tokenizer.apply_chat_template).parameters)
        # The first call may set the tokenizer's padding and truncation, which threads must not race for.
        tokenizer.encode("")

    def tokens(self, request: Request) -> list[int]:
        """Token ids of the conversation and the head of the answer. Raises BadRequest."""
        if not self._tokenizer.has_chat_template:
            raise BadRequest("This model has no chat template: it cannot chat.", param="model")
        messages = [self._message(message) for message in request.messages]
        try:
            return list(
                self._tokenizer.apply_chat_template(
                    messages, add_generation_prompt=True, tokenize=True, **self._variables(request)
                )
            )
        except jinja2.TemplateError as error:
            raise BadRequest(
                f"The model's chat template refuses these messages: {error}", param="messages"
            ) from error
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise BadRequest(
                f"The model's chat template cannot render these messages ({type(error).__name__}).",
                param="chat_template_kwargs" if request.chat_template_kwargs else "messages",
            ) from error

    def _message(self, message: Message) -> dict[str, Any]:
        content = message.content or ""
        if isinstance(content, list):
            content = "\n".join(part.text for part in content)
        role = message.role
        if role == "developer" and not self._knows_developer:
            role = "system"
        named = {"name": message.name} if message.name else {}
        return {"role": role, "content": content} | named

    def _variables(self, request: Request) -> dict[str, Any]:
        told = request.chat_template_kwargs or {}
        if taken := sorted(self._reserved & told.keys()):
            raise BadRequest(
                f"'chat_template_kwargs' cannot set {taken[0]!r}.", param=f"chat_template_kwargs.{taken[0]}"
            )
        effort = request.reasoning_effort
        thinking = {"reasoning_effort": effort, "enable_thinking": effort != "none"} if effort else {}
        return thinking | told
