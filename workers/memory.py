"""The machine: which accelerator, how much memory, and what must be done before MLX starts.

The one module that knows what differs between macOS with Metal, CUDA and a plain CPU. MLX is
imported inside the functions that need it, never by importing this module.
"""

import contextlib
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
IDLE_SHARE = 8  # of a worker's share, one part may be buffers that MLX keeps for later
OF_MACHINE = 0.75  # of its memory is the budget of all workers: on a Mac what Metal recommends at most
SMALL = 36 << 30  # bytes; on a Mac with no more Metal recommends
OF_SMALL = 2 / 3
CGROUP = Path("/sys/fs/cgroup/memory.max")  # what a container may take
RUSAGE_V4, FOOTPRINT, LIFETIME_MAX, WORDS = 4, 7, 28, 40  # of rusage_info_v4 in <sys/resource.h>, in words


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

    A CPU names neither size: then both are the machine's memory. A worker with a share of the machine is
    recommended no more than that.
    """
    mx = mlx or _mlx()
    raw = mx.device_info()
    size = raw.get("memory_size") or raw.get("total_memory") or total_memory()
    recommended = raw.get("max_recommended_working_set_size") or size
    return {
        "device": device(mx),
        "name": raw.get("device_name") or raw.get("architecture") or platform.machine(),
        "memory_size": size,
        "max_recommended_working_set_size": min(recommended, share() or recommended),
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


def set_limits(base: int = 0, mlx: ModuleType | None = None) -> None:
    """Keep MLX within this worker's share, of which the process itself takes `base` bytes. Beyond the
    memory limit MLX gives back what it only kept for later, and on a GPU waits for what runs."""
    if not (most := share()):
        return
    mx = mlx or _mlx()
    mx.set_memory_limit(max(most - base, most // 2))
    before = mx.set_cache_limit(most // IDLE_SHARE)
    mx.set_cache_limit(min(before, most // IDLE_SHARE))  # a CPU's is small
    set_wired_limit(mx)


def share() -> int:
    """Bytes of the machine's memory that this worker may take; 0: nobody said."""
    # not at the top: `make` asks `unsupported` before any package is installed
    from shared.settings import read_settings

    return read_settings().memory_share_mb << 20


def total_memory() -> int:
    """Bytes of memory in the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def budget(mib: int, system: str | None = None, total: int | None = None, cgroup: Path = CGROUP) -> int:
    """Bytes that all workers of this machine may take together: `mib`, or if that is 0 a part of its memory.

    On a Mac what Metal recommends, two thirds or three quarters of it; elsewhere three quarters of the
    memory, or of what the container may have of it.
    """
    if mib:
        return mib << 20
    total = total or total_memory()
    if (system or platform.system()) == "Darwin":
        return int(total * (OF_SMALL if total <= SMALL else OF_MACHINE))
    with contextlib.suppress(OSError, ValueError):  # "max", or no cgroup
        total = min(total, int(cgroup.read_text()))
    return int(total * OF_MACHINE)


def footprint(
    system: str | None = None, proc: Path = Path("/proc/self"), libproc: Any = None
) -> tuple[int, int]:
    """Bytes of memory that this process takes now, and the most that it took.

    The physical footprint on macOS, whose resident size leaves out what the GPU has; else the resident size.
    """
    if (system or platform.system()) == "Darwin":
        words = (ctypes.c_uint64 * WORDS)()
        library = libproc or ctypes.CDLL("/usr/lib/libproc.dylib")
        if library.proc_pid_rusage(os.getpid(), RUSAGE_V4, ctypes.byref(words)):
            return 0, 0
        return words[2 + FOOTPRINT], words[2 + LIFETIME_MAX]  # behind an id of two words
    lines = (proc / "status").read_text().splitlines()
    sizes = {name: value for name, _, value in (line.partition(":") for line in lines)}
    return _kib(sizes.get("VmRSS")), _kib(sizes.get("VmHWM"))


def _kib(size: str | None) -> int:
    """Bytes, of "1234 kB"."""
    return int(size.split()[0]) << 10 if size else 0


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
