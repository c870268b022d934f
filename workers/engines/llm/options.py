"""`options` of the manifest for a language model."""

from typing import Annotated

import msgspec
from msgspec import Meta

from workers import memory

CACHE_SHARE = 8  # of what the device recommends as a working set, one part is for the prompt cache

Count = Annotated[int, Meta(ge=0)]


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """0 lets the device decide.

    `prefill_step` is how many tokens are read of one prompt in a step, `prefill_budget` of all prompts
    together: as many as the device has been seen to read in the time that others may wait.
    `prompt_cache_mb` (MiB) is for what was computed of earlier prompts; -1: nothing is kept.
    `adapter` is a LoRA adapter in mlx-lm's format, `draft_model` a small model with the same tokens that
    guesses `draft_tokens` at a time: each a folder, seen from models.toml, or hf:org/repo[@revision].
    """

    prefill_step: Count = 0
    prefill_budget: Count = 0
    prompt_cache_mb: Annotated[int, Meta(ge=-1)] = 0
    adapter: str = ""
    draft_model: str = ""
    draft_tokens: Annotated[int, Meta(ge=1, le=32)] = 3

    @property
    def prompt_cache_bytes(self) -> int:
        """Of settled options."""
        return max(0, self.prompt_cache_mb) << 20

    def settled(self) -> "Options":
        """With what the device decides, but for the budget, which is measured."""
        room = memory.device_info()["max_recommended_working_set_size"] // CACHE_SHARE
        return msgspec.structs.replace(
            self,
            prefill_step=self.prefill_step or (512 if memory.compact() else 128),
            prompt_cache_mb=self.prompt_cache_mb or room >> 20,
        )
