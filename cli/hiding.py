"""Options that must not be seen in the list of processes."""

import os
import sys
from typing import NoReturn


def hide(option: str, value: str, variable: str) -> NoReturn:
    """Start this process anew without the option, its value in the environment instead, where only its
    own user can read it."""
    arguments = without(option, sys.orig_argv)
    os.execve(sys.executable, arguments, {**os.environ, variable: value})


def without(option: str, arguments: list[str]) -> list[str]:
    """The arguments without `option VALUE` and `option=VALUE`."""
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == option:
            next(rest, None)
        elif not argument.startswith(f"{option}="):
            kept.append(argument)
    return kept
