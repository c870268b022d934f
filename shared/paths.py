"""Which files of this machine a request may name."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from shared.errors import BadRequest, Forbidden, NotFound

FIELD = "file_path"


def allowed(path: str, folders: Iterable[Path]) -> Path:
    """The regular file that `path` leads to, symbolic links and `..` resolved.

    Raises BadRequest for a path that is not absolute or no readable file, Forbidden for one that does
    not end below one of `folders`, whether it is there or not, and NotFound.
    """
    if "\0" in path or not os.path.isabs(path):
        raise BadRequest(f"'{FIELD}' must be an absolute path.", param=FIELD)
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(folder.resolve()) for folder in folders):
        raise Forbidden(
            f"'{FIELD}' is not below a folder of OMINIX_AUDIO_FOLDERS; add its folder there, or send the "
            "audio as 'file'.",
            param=FIELD,
        )
    try:
        regular = stat.S_ISREG(real.stat().st_mode)
    except OSError:
        raise NotFound(f"There is no file at this '{FIELD}'.", param=FIELD) from None
    if not regular or not os.access(real, os.R_OK):
        raise BadRequest(f"'{FIELD}' is not a file that this server can read.", param=FIELD)
    return real
