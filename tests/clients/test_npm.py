"""The npm client: each script of `npm/` asks the service and prints what it was given."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.live import ROOT, Live

SCRIPTS = Path(__file__).parent / "npm"
NODE = 20  # the oldest major version that the client runs on


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def do_without(reason: str) -> NoReturn:
    """What is missing fails in CI and skips at home."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@pytest.fixture(scope="session")
def installed() -> Path:
    """A folder with the scripts and, beside them, what package-lock.json says: installed once for each
    lock, whichever process is first."""
    if not (shutil.which("node") and shutil.which("npm")):
        do_without("node and npm are not installed")
    version = run("node", "--version").strip()
    if int(version[1:].partition(".")[0]) < NODE:
        do_without(f"node {version} is older than {NODE}")
    digest = hashlib.sha256((SCRIPTS / "package-lock.json").read_bytes()).hexdigest()
    folder = ROOT / ".cache" / "npm" / digest[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.copytree(SCRIPTS, folder, dirs_exist_ok=True)
        if not (folder / "installed").exists():
            install(folder)
    return folder


def install(folder: Path) -> None:
    try:
        run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder)
    except (AssertionError, subprocess.TimeoutExpired) as error:
        do_without(f"npm cannot install the client: {error}"[:400])
    (folder / "installed").touch()


def told(installed: Path, live: Live, script: str) -> Any:
    return json.loads(run("node", installed / script, live.url))


def test_whole_answers(installed: Path, live: Live) -> None:
    said = told(installed, live, "chat.mjs")
    assert (said["texts"], said["ends"]) == (["one two "] * 2, ["stop"] * 2)
    assert said["tokens"] == [["one", 2], [" two", 2], [" three", 2]]
    assert (said["usage"]["prompt_tokens"], said["usage"]["completion_tokens"]) == (3, 6)
    assert said["completed"] == ["a b a b", "c c"]
    assert "echo" in said["models"]
    assert said["request_id"]


def test_streams(installed: Path, live: Live) -> None:
    said = told(installed, live, "stream.mjs")
    assert said["texts"] == ["one two three"] * 2
    assert said["usage"]["completion_tokens"] == 2 * said["final_usage"]["completion_tokens"] == 10
    assert said["content"] == said["message"]["content"] == "one two three"
    assert said["message"]["reasoning_content"] == "hm hm"
    assert said["completed"] == " a b"


@pytest.mark.parametrize("how", ["whole", "streamed"])
def test_tools_are_run_until_the_model_answers(installed: Path, live: Live, how: str) -> None:
    said = told(installed, live, "tools.mjs")[how]
    assert (said["called"], said["final"]) == (["Oslo", "Rome"], "Three degrees.")
    assert said["roles"] == ["user", "assistant", "tool", "tool", "assistant"]


def test_answers_and_calls_are_read_by_a_schema(installed: Path, live: Live) -> None:
    said = told(installed, live, "parse.mjs")
    assert said["parsed"] == said["called"] == {"city": "Oslo", "degrees": 3, "read": True}


def test_errors_are_the_clients_own_classes(installed: Path, live: Live) -> None:
    said = told(installed, live, "errors.mjs")
    assert said == {
        "bad": {"kind": "BadRequestError", "status": 400, "code": "invalid_value", "param": "temperature"},
        "missing": {"kind": "NotFoundError", "status": 404, "code": "model_not_found", "param": "model"},
        "failed": {"kind": "InternalServerError", "status": 500, "code": "engine_error", "param": None},
        "streamed": {"kind": "APIError", "code": "engine_error", "param": None},
    }


def test_the_lock_names_no_registry_and_checks_what_it_installs() -> None:
    packages = json.loads((SCRIPTS / "package-lock.json").read_text())["packages"]
    pinned = {name: package for name, package in packages.items() if name}
    assert pinned and all(package["integrity"].startswith("sha512-") for package in pinned.values())
    assert not any("resolved" in package for package in pinned.values())
