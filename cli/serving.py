"""`ominix serve`: checks, weights, then the supervisor; and the word that all is ready."""

import json
import platform
import threading
import time
import urllib.error
import urllib.request

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from shared.manifest import Manifest, ModelEntry
from shared.settings import Settings
from workers import weights
from workers.memory import total_memory, unsupported
from workers.startup import StartError, free_port, only_one
from workers.supervisor import Supervisor, plan

GLANCE = 0.2  # seconds between two looks at /health
ROOMY = 16 * 2**30  # bytes of memory from which larger models are proposed
LARGER = (
    ("chat", "hf:mlx-community/Qwen3-4B-4bit"),
    ("transcription", "hf:mlx-community/Qwen3-ASR-1.7B-8bit"),
)


def serve(settings: Settings, manifest: Manifest) -> int:
    """Run everything until Ctrl-C. Raises StartError or WeightsError before anything is started."""
    if problem := unsupported():
        raise StartError(problem)
    if not manifest.entries:
        raise StartError(f"{settings.models_file} names no model.")
    console = Console(stderr=True, highlight=False)
    with only_one(settings.home):
        port = free_port(settings.host, settings.port)
        settings = msgspec.structs.replace(settings, port=port)
        make_sure(manifest, settings, console)
        supervisor = Supervisor(settings, *plan(settings, manifest))
        threading.Thread(target=_announce, args=(settings, manifest, console), daemon=True).start()
        return supervisor.run()


def make_sure(manifest: Manifest, settings: Settings, console: Console) -> None:
    """Download and convert what is missing, with a bar for each model. Raises WeightsError."""
    missing = [entry for entry in manifest.entries if not weights.is_ready(entry, settings.models_dir)]
    if not missing:
        return
    with download_bar(console) as progress:
        for entry in missing:
            _make_one(entry, settings, progress)


def download_bar(console: Console) -> Progress:
    """Bars with bytes and speed."""
    columns = [
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    ]
    return Progress(*columns, console=console)


def _make_one(entry: ModelEntry, settings: Settings, progress: Progress) -> None:
    task: TaskID = progress.add_task(f"{entry.id}: looking", total=None)
    words = {"wait": "another process is fetching it", "download": "downloading", "convert": "converting"}

    def show(phase: str, done: int, total: int) -> None:
        label = f"{entry.id}: {words.get(phase, phase)}"
        progress.update(task, description=label, completed=done, total=total or None)

    weights.ensure(entry, settings.models_dir, show)
    size = weights.describe(entry, settings.models_dir)["size_bytes"]
    progress.update(task, description=f"{entry.id}: there", completed=size, total=size)


def _announce(settings: Settings, manifest: Manifest, console: Console) -> None:
    url = f"http://{_reachable(settings.host)}:{settings.port}"
    begun = time.monotonic()
    while not all_ready(_health(url), manifest):
        time.sleep(GLANCE)
    console.print(f"\n[bold green]ready[/] at [bold]{url}[/] after {time.monotonic() - begun:.1f} s. Try:\n")
    for line in (*_examples(url, manifest, settings), *_proposals()):
        console.print(line, soft_wrap=True, markup=False)
    console.print()


def all_ready(health: dict, manifest: Manifest) -> bool:
    """True if every model that is loaded from the start has a worker that takes requests."""
    models = health.get("models", {})
    states = [models.get(entry.id, {}).get("state") for entry in manifest.entries]
    return all(state in ("ready", "unloaded") for state in states)


def _health(url: str) -> dict:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return json.load(answer)
    except (OSError, ValueError):  # not there yet, or not healthy yet
        return {}


def _reachable(host: str) -> str:
    if host in ("0.0.0.0", "::", ""):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _examples(url: str, manifest: Manifest, settings: Settings) -> list[str]:
    key = " -H 'Authorization: Bearer $OMINIX_API_KEY'".replace("'", '"') if settings.api_keys else ""
    lines = []
    if chat := manifest.for_task("chat"):
        body = {"model": chat[0].id, "messages": [{"role": "user", "content": "Say hello."}]}
        lines.append(
            f"  curl {url}/v1/chat/completions{key} -H 'Content-Type: application/json' \\\n"
            f"    -d '{json.dumps(body)}'"
        )
    elif speech := manifest.for_task("transcription"):
        lines.append(
            f"  curl {url}/v1/audio/transcriptions{key} -F model={speech[0].id} -F file=@recording.wav"
        )
    return lines


def _proposals() -> list[str]:
    """Larger models, where there is room for them."""
    if platform.system() != "Darwin" or total_memory() < ROOMY:
        return []
    return ["\nThis Mac has room for larger models:", *(f"  ominix serve --model {m}" for _, m in LARGER)]
