"""The machine: which accelerator, how much memory, and what must be done before MLX starts.

The one module that knows what differs between macOS with Metal, CUDA and a plain CPU. MLX is
imported inside the functions that need it, never by importing this module.
"""

import ctypes
import os
import platform
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

CUDA_PACKAGES = {"mlx-cuda", "mlx-cuda-12", "mlx-cuda-13"}
Device = Literal["metal", "cuda", "cpu"]

WIRED_SHARE = 0.9  # of what Metal recommends: the rest is left to the window server and the caches


def unsupported(
    system: str | None = None,
    machine: str | None = None,
    macos: str | None = None,
    python: tuple[int, ...] | None = None,
) -> str | None:
    """One sentence that says why MLX cannot run here, None if it can. Defaults: this machine."""
    system = system or platform.system()
    machine = machine or platform.machine()
    macos = platform.mac_ver()[0] if macos is None else macos
    python = python or sys.version_info[:3]
    if python < (3, 11):
        found = ".".join(map(str, python))
        return f"OminiX needs Python 3.11 or newer; this is Python {found}."
    if system == "Darwin" and machine != "arm64":
        return "OminiX needs Apple Silicon; this is an Intel Mac, or a Python that runs under Rosetta."
    if system == "Darwin" and int(macos.split(".")[0] or 0) < 14:
        return f"OminiX needs macOS 14 or newer; this is macOS {macos}."
    if system not in ("Darwin", "Linux"):
        return f"OminiX runs on macOS and Linux; this is {system}."
    return None


def preload_blas(system: str | None = None) -> Path | None:
    """Put OpenBLAS before the reference BLAS of MLX's CPU wheel: 30 times faster in float32.

    Call it before the first `import mlx`. Returns the library loaded; None on macOS, which has
    Accelerate, and where the cmeel-openblas package is not installed.
    """
    if (system or platform.system()) != "Linux":
        return None
    library = _installed("cmeel-openblas", "libopenblas.so.0")
    if library is None:
        return None
    try:
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    except OSError:  # the distribution has no libgfortran.so.5; MLX's wheel brings one
        if not _load_fortran():
            return None
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    return library


def likely_device(
    system: str | None = None, machine: str | None = None, packages: set[str] | None = None
) -> Device:
    """What `device` will say, without importing MLX, for a process that must not."""
    system = system or platform.system()
    machine = machine or platform.machine()
    if system == "Darwin":
        return "metal" if machine == "arm64" else "cpu"
    packages = set(filter(_is_installed, CUDA_PACKAGES)) if packages is None else packages
    return "cuda" if packages & CUDA_PACKAGES else "cpu"


def device(mlx: ModuleType | None = None) -> Device:
    """Where MLX computes by default."""
    mx = mlx or _mlx()
    if mx.default_device().type == mx.DeviceType.cpu:
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def compact(mlx: ModuleType | None = None) -> bool:
    """True where 16-bit and quantised weights are fast (a GPU); a CPU wants float32."""
    return device(mlx) != "cpu"


def device_info(mlx: ModuleType | None = None) -> dict[str, Any]:
    """`device`, `name`, and in bytes `memory_size` and `max_recommended_working_set_size`.

    A CPU names neither size: then both are the machine's memory.
    """
    mx = mlx or _mlx()
    raw = mx.device_info()
    size = raw.get("memory_size") or raw.get("total_memory") or total_memory()
    return {
        "device": device(mx),
        "name": raw.get("device_name") or raw.get("architecture") or platform.machine(),
        "memory_size": size,
        "max_recommended_working_set_size": raw.get("max_recommended_working_set_size") or size,
    }


def set_wired_limit(mlx: ModuleType | None = None) -> int:
    """Let Metal keep weights wired, so that macOS does not page them out between requests.

    Returns the limit in bytes; 0 where there is none to set.
    """
    mx = mlx or _mlx()
    if device(mx) != "metal":
        return 0
    limit = int(device_info(mx)["max_recommended_working_set_size"] * WIRED_SHARE)
    mx.set_wired_limit(limit)
    return limit


def total_memory() -> int:
    """Bytes of memory in the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def active_memory(mlx: ModuleType | None = None) -> int:
    """Bytes that this process's MLX arrays hold."""
    return (mlx or _mlx()).get_active_memory()


def _mlx() -> ModuleType:
    import mlx.core

    return mlx.core


def _is_installed(package: str) -> bool:
    return next(iter(metadata.Distribution.discover(name=package)), None) is not None


def _installed(package: str, filename: str) -> Path | None:
    """A file of an installed distribution, by its beginning."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return None
    return next((Path(f.locate()) for f in files if f.name.startswith(filename)), None)


def _load_fortran() -> bool:
    """Load the libgfortran of MLX's wheel under its ordinary name.

    The wheel's copy carries a mangled soname, under which OpenBLAS would not find it: a copy with
    the name set right, of the same length, is loaded, and deleted once it is mapped.
    """
    fortran, quadmath = (_installed("mlx-cpu", name) for name in ("libgfortran-", "libquadmath-"))
    if fortran is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "libgfortran.so.5"
        mangled = fortran.name.encode()
        copy.write_bytes(fortran.read_bytes().replace(mangled, copy.name.encode().ljust(len(mangled), b"\0")))
        if quadmath:  # there is none on ARM
            (copy.parent / quadmath.name).symlink_to(quadmath)
        ctypes.CDLL(str(copy))
    return True
