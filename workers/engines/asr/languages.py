"""Names of languages, as Whisper and OpenAI's API have them."""

from mlx_audio.stt.models.whisper.tokenizer import LANGUAGES, TO_LANGUAGE_CODE

from shared.errors import BadRequest


def code_of(language: str | None) -> str | None:
    """The ISO 639 code of a code or an English name, in any case. Raises BadRequest."""
    if language is None:
        return None
    name = language.strip().lower()
    if code := name if name in LANGUAGES else TO_LANGUAGE_CODE.get(name):
        return code
    raise BadRequest(
        f"'language' {language[:40]!r} is not known; it may be an ISO 639-1 code such as 'en', or an "
        "English name such as 'English'.",
        param="language",
    )


def name_of(code: str) -> str:
    """The English name: "Chinese" for "zh"."""
    return LANGUAGES[code].title()


def not_spoken(language: str, spoken: str) -> BadRequest:
    """The 400 for a language that the model does not have."""
    return BadRequest(
        f"'language' {language!r} is not supported by this model; it may be {spoken}.",
        param="language",
        code="unsupported_value",
    )


def cannot_translate() -> BadRequest:
    """The 400 of a model that only writes down what is said."""
    return BadRequest(
        "This model transcribes and does not translate; choose a multilingual Whisper.",
        param="model",
        code="unsupported_value",
    )
