"""A program for test_supervisor.py: a supervisor whose API and workers are the given Python programs."""

import sys

from shared.settings import read_settings
from workers.children import Backoff, Child
from workers.supervisor import Supervisor, environ

HASTY = Backoff(first=0.01, cap=0.05, hopeless=3)


def main(api: str, *workers: str) -> int:
    settings = read_settings()
    base = environ(settings)

    def child(name: str, code: str, model: str = "") -> Child:
        return Child(name, [sys.executable, "-c", code], base, model=model, backoff=HASTY)

    children = [child(f"worker{n}", code, f"model{n}") for n, code in enumerate(workers)]
    return Supervisor(settings, child("api", api), children, backoff=HASTY).run()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
