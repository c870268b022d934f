"""A program for test_supervisor.py: a supervisor whose API and workers are the given Python programs."""

import sys

from shared import fleet
from shared.settings import read_settings
from workers.children import Backoff, Child
from workers.supervisor import Supervisor, environ

HASTY = Backoff(first=0.01, cap=0.05, hopeless=3)
PATIENCE = 1.0


def main(api: str, *workers: str) -> int:
    settings = read_settings()
    base = environ(settings)
    programs = {f"model{n}": code for n, code in enumerate(workers)}

    def child(name: str, code: str, model: str = "") -> Child:
        command = [sys.executable, "-c", code]
        return Child(name, command, base, model=model, patience=PATIENCE, backoff=HASTY)

    def make(name: str, model: str, share_mb: int) -> Child:
        return child(name, programs[model], model)

    wanted = {model: fleet.wanted(1, 0) for model in programs}
    return Supervisor(settings, [child("api", api)], make, wanted, backoff=HASTY).run()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
