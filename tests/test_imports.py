"""Who may import whom: the arrows of the architecture, read from the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    path for package in ("shared", "api", "workers") for path in (ROOT / package).rglob("*.py")
)
MLX = {"mlx", "mlx_lm", "mlx_audio", "mlx_vlm", "mlx_embeddings"}
FORBIDDEN = {
    "shared": {"api", "workers", "cli", "sanic"} | MLX,
    "api": {"workers", "cli"} | MLX,
    "workers": {"api", "cli", "sanic"},
}


def imported(path: Path) -> set[str]:
    """The top-level names of everything that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def may_touch_mlx(path: Path) -> bool:
    inside = path.relative_to(ROOT)
    return inside.parts[:2] == ("workers", "engines") or inside == Path("workers/memory.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_package_may(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    assert not imported(path) & FORBIDDEN[package]
    assert may_touch_mlx(path) or not imported(path) & MLX


def test_make_can_ask_whether_this_machine_will_do_before_anything_is_installed() -> None:
    code = "import workers.memory as memory; print(memory.unsupported())"
    bare = [sys.executable, "-S", "-c", code]
    assert subprocess.check_output(bare, cwd=ROOT, text=True) == "None\n"
