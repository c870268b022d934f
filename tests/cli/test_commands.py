"""The commands that do not stay: help, version, listing, and refusals in one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.hiding import without
from shared import __version__

ECHO = '[[model]]\nid = "echo"\nengine = "echo"\n'


def ominix(*arguments: str, home: Path, **environ: str) -> subprocess.CompletedProcess:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("OMINIX_") and k != "REDIS_URL"}
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        env=inherited | {"OMINIX_HOME": str(home)} | environ,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_help_names_every_command(tmp_path: Path):
    said = ominix("--help", home=tmp_path).stdout
    for command in ("serve", "redis", "api", "worker", "reaper", "transcribe", "models"):
        assert f"\n  {command} " in said


def test_help_imports_nothing_heavy():
    code = (
        "import sys, cli.commands\n"
        "heavy = {'mlx', 'redis', 'rq', 'sanic', 'rich', 'numpy', 'httpx2', 'huggingface_hub'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""


def test_the_supervisor_never_imports_mlx():
    code = "import sys, cli.serving; sys.exit('mlx.core' in sys.modules or 'mlx_lm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_version_is_the_package_s(tmp_path: Path):
    assert ominix("--version", home=tmp_path).stdout == f"ominix {__version__}\n"


def test_models_are_listed_with_their_tasks_and_extra_ones_too(tmp_path: Path):
    models = tmp_path / "models.toml"
    models.write_text(ECHO)
    said = ominix(
        *("models", "list", "--models-file", str(models)),
        home=tmp_path,
        OMINIX_EXTRA_MODELS="hf:org/some-whisper",
        COLUMNS="120",
    )
    rows = [line.split() for line in said.stdout.splitlines()[1:]]
    assert rows == [
        ["echo", "chat,", "completion,", "transcription,", "translation", "echo", "needs", "nothing"],
        ["some-whisper", "transcription,", "translation", "hf:org/some-whisper", "-"],
    ]


@pytest.mark.parametrize(
    ("arguments", "environ", "sentence"),
    [
        (["worker", "nope"], {}, "The model 'nope' does not exist."),
        (["models", "list"], {"OMINIX_PORT": "http"}, "OMINIX_PORT: "),
        (["models", "list", "--models-file", "/no/such.toml"], {}, "/no/such.toml: cannot be read"),
        (["serve", "--model", "org/repo"], {}, "org/repo: expected hf:org/repo"),
        (["serve", "--host", "no.such.host.invalid"], {}, "is not an address of this machine"),
        (["redis"], {"OMINIX_REDIS_CONF": "/no/such.conf"}, "/no/such.conf is not there"),
        (["worker", "echo"], {"REDIS_URL": "bogus://there"}, "cannot be used"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    tmp_path: Path, arguments: list[str], environ: dict[str, str], sentence: str
):
    models = tmp_path / "models.toml"
    models.write_text(ECHO)
    said = ominix(*arguments, home=tmp_path, **{"OMINIX_MODELS_FILE": str(models)} | environ)
    assert said.returncode == 1
    assert said.stderr.startswith("ominix: ") and sentence in said.stderr
    assert said.stderr.count("\n") == 1


def test_wrong_usage_ends_with_status_2(tmp_path: Path):
    assert ominix("bogus", home=tmp_path).returncode == 2


@pytest.mark.parametrize("how", ["option", "variable"])
@pytest.mark.parametrize("url", ["rediss://me:sec/ret@mini", "rediss://me:sec#ret@mini", "sec:ret@mini",
                                 "rediss://:5253?ret@mini"])  # fmt: skip
def test_no_part_of_a_password_is_in_the_error(tmp_path: Path, url: str, how: str):
    models = tmp_path / "models.toml"
    models.write_text(ECHO)
    option = ["--redis", url] if how == "option" else []
    environ = {"REDIS_URL": url} if how == "variable" else {}
    said = ominix("worker", *option, "echo", home=tmp_path, OMINIX_MODELS_FILE=str(models), **environ)
    assert said.returncode == 1
    assert said.stderr.startswith("ominix: REDIS_URL cannot be used: expected rediss://user:password@host:port")
    assert not any(part in said.stderr for part in ("sec", "ret", "5253"))


def test_an_option_with_a_password_is_taken_off_the_command_line():
    command = ["ominix", "worker", "--redis", "rediss://a:b@c", "echo", "--models-file", "x"]
    kept = ["ominix", "worker", "echo", "--models-file", "x"]
    assert without("--redis", command) == kept
    assert without("--redis", [*kept, "--redis=rediss://a:b@c"]) == kept
    assert without("--redis", kept) == kept
