"""One file an endpoint, found by listing this folder. Each has `register(app)`, and `PATHS` for the
OpenAPI document unless its endpoint is a task's."""

import importlib
import pkgutil
from types import ModuleType


def modules() -> list[ModuleType]:
    return [importlib.import_module(f"{__name__}.{name}") for _, name, _ in pkgutil.iter_modules(__path__)]
