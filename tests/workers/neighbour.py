"""Another process of the same home, as `workers.presence` sees it."""

import subprocess
import sys
from pathlib import Path

from tests.live import ROOT
from workers.presence import Signal

PROGRAM = """
import sys
from pathlib import Path
from workers.presence import Presence, Signal

presence = Presence(Path(sys.argv[1]))
for line in sys.stdin:
    name, on = line.split()
    if on != "?":
        presence.show(Signal[name], on == "True")
    print(presence.others(Signal[name]), flush=True)
"""


class Neighbour:
    """What it is told has been done when the call returns."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder)],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.sees(Signal.REQUESTS)

    def show(self, signal: Signal, on: bool) -> None:
        self._ask(f"{signal.name} {on}")

    def sees(self, signal: Signal) -> bool:
        return self._ask(f"{signal.name} ?")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def _ask(self, what: str) -> bool:
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return {"True\n": True, "False\n": False}[self.process.stdout.readline()]
