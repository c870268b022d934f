"""`ominix` and `python -m cli`: runs a command, and turns known errors into one sentence."""

import sys

from cli.commands import app


def main() -> int:
    """Exit status 0, 1 for what could not be done, 2 for wrong usage, 130 after Ctrl-C."""
    try:
        app()
    except Exception as error:
        if not _is_expected(error):
            raise
        print(f"ominix: {error}", file=sys.stderr)
        return 1
    return 0


def _is_expected(error: Exception) -> bool:
    """True if its message is a sentence for the person at the keyboard."""
    from shared.errors import OminixError
    from shared.manifest import ManifestError
    from shared.settings import SettingsError
    from workers.ranks import RanksError
    from workers.sources import WeightsError
    from workers.startup import StartError

    known = OminixError | ManifestError | RanksError | SettingsError | StartError | WeightsError
    return isinstance(error, known)


if __name__ == "__main__":
    sys.exit(main())
