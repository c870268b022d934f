"""The machine, asked as a Mac with Metal and as a plain CPU: the differences are arguments."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from workers import memory

GIB = 1 << 30


class FakeMLX:
    """MLX as `memory` sees it, on a machine of the test's choice."""

    DeviceType = SimpleNamespace(cpu="cpu", gpu="gpu")

    def __init__(self, device: str, info: dict) -> None:
        self.metal = SimpleNamespace(is_available=lambda: device == "metal")
        self.wired = self.memory = None
        self.cache = 1 << 40
        self._kind = "cpu" if device == "cpu" else "gpu"
        self._info = info

    def default_device(self) -> SimpleNamespace:
        return SimpleNamespace(type=self._kind)

    def device_info(self) -> dict:
        return self._info

    def set_wired_limit(self, limit: int) -> None:
        self.wired = limit

    def set_memory_limit(self, limit: int) -> None:
        self.memory = limit

    def set_cache_limit(self, limit: int) -> int:
        before, self.cache = self.cache, limit
        return before

    def get_active_memory(self) -> int:
        return 123


MAC = {
    "device_name": "Apple M4 Max",
    "memory_size": 64 * GIB,
    "max_recommended_working_set_size": 48 * GIB,
}


def test_metal_keeps_compact_weights_and_wires_most_of_its_working_set():
    mlx = FakeMLX("metal", MAC)
    assert (memory.device(mlx), memory.compact(mlx)) == ("metal", True)
    limit = memory.set_wired_limit(mlx)
    assert limit == mlx.wired
    assert 24 * GIB < limit < 48 * GIB


def test_a_cpu_gets_float32_and_no_wired_limit():
    mlx = FakeMLX("cpu", {"architecture": "x86_64"})
    assert (memory.device(mlx), memory.compact(mlx)) == ("cpu", False)
    assert memory.set_wired_limit(mlx) == 0
    assert mlx.wired is None


def test_cuda_keeps_compact_weights_and_has_no_wired_limit():
    mlx = FakeMLX("cuda", {"device_name": "GPU", "total_memory": 80 * GIB})
    assert (memory.device(mlx), memory.compact(mlx)) == ("cuda", True)
    assert memory.set_wired_limit(mlx) == 0


def test_device_info_says_the_same_things_of_every_machine():
    mac = memory.device_info(FakeMLX("metal", MAC))
    cpu = memory.device_info(FakeMLX("cpu", {}))
    assert mac == {"device": "metal", "name": "Apple M4 Max", "memory_size": 64 * GIB} | {
        "max_recommended_working_set_size": 48 * GIB
    }
    assert cpu.keys() == mac.keys()
    assert cpu["memory_size"] == cpu["max_recommended_working_set_size"] == memory.total_memory()


@pytest.mark.parametrize(
    ("system", "machine", "packages", "expected"),
    [
        ("Darwin", "arm64", set(), "metal"),
        ("Darwin", "x86_64", set(), "cpu"),
        ("Linux", "x86_64", {"mlx-cpu"}, "cpu"),
        ("Linux", "x86_64", {"mlx-cuda-13"}, "cuda"),
    ],
)
def test_the_device_can_be_told_without_mlx(system, machine, packages, expected):
    assert memory.likely_device(system, machine, packages) == expected


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        (("Darwin", "arm64", "13.6.1", (3, 12, 1)), "macOS 14"),
        (("Darwin", "x86_64", "15.1", (3, 12, 1)), "Apple Silicon"),
        (("Darwin", "arm64", "15.1", (3, 9, 6)), "Python 3.11"),
        (("Windows", "AMD64", "", (3, 12, 1)), "macOS and Linux"),
        (("Darwin", "arm64", "14.0", (3, 11, 0)), None),
        (("Darwin", "arm64", "26.0", (3, 13, 0)), None),
        (("Linux", "x86_64", "", (3, 11, 0)), None),
    ],
)
def test_a_machine_that_cannot_run_mlx_is_told_why_in_one_sentence(machine, reason):
    answer = memory.unsupported(*machine)
    assert answer is None if reason is None else reason in answer and answer.count(". ") == 0


def test_this_machine_is_supported():
    assert memory.unsupported() is None


def test_importing_the_module_does_not_import_mlx():
    code = "import sys, workers.memory as m; m.likely_device(); sys.exit('mlx.core' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_blas_is_left_alone_on_macos():
    assert memory.preload_blas("Darwin") is None


def test_mlx_multiplies_right_after_blas_was_preloaded():
    code = (
        "from workers import memory; print(memory.preload_blas())\n"
        "import mlx.core as mx\n"
        "x = mx.arange(64, dtype=mx.float32).reshape(8, 8)\n"
        "assert mx.allclose(x @ mx.eye(8), x).item()\n"
        "assert memory.active_memory() > 0"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if sys.platform == "linux":
        assert "libopenblas" in done.stdout


def test_a_worker_s_share_limits_what_mlx_takes_keeps_and_wires(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMINIX_MEMORY_SHARE_MB", f"{8 * 1024}")
    mlx = FakeMLX("metal", MAC)
    memory.set_limits(GIB, mlx)
    assert (mlx.memory, mlx.cache) == (7 * GIB, GIB)
    assert mlx.wired == int(8 * GIB * memory.WIRED_SHARE)
    assert memory.device_info(mlx)["max_recommended_working_set_size"] == 8 * GIB


def test_a_share_does_not_widen_a_small_cache_and_without_one_nothing_is_set(monkeypatch):
    cpu = FakeMLX("cpu", {})
    cpu.cache = 1 << 20
    memory.set_limits(GIB, cpu)
    assert (cpu.memory, cpu.cache) == (None, 1 << 20)
    monkeypatch.setenv("OMINIX_MEMORY_SHARE_MB", "1024")
    memory.set_limits(GIB, cpu)
    assert (cpu.memory, cpu.cache, cpu.wired) == (GIB // 2, 1 << 20, None)


@pytest.mark.parametrize(
    ("mib", "system", "total", "limit", "expected"),
    [
        (100, "Darwin", 64 * GIB, "max", 100 << 20),
        (0, "Darwin", 64 * GIB, "max", 48 * GIB),
        (0, "Darwin", 24 * GIB, "max", 16 * GIB),
        (0, "Linux", 64 * GIB, "max", 48 * GIB),
        (0, "Linux", 64 * GIB, f"{8 * GIB}\n", 6 * GIB),
    ],
)
def test_the_budget_is_what_was_said_or_a_part_of_the_machine(mib, system, total, limit, expected, tmp_path):
    (cgroup := tmp_path / "memory.max").write_text(limit)
    assert memory.budget(mib, system, total, cgroup) == expected


def test_what_a_process_takes_is_its_resident_size_on_linux(tmp_path):
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n")
    assert memory.footprint("Linux", tmp_path) == (1 << 20, 2 << 20)


def test_what_a_process_takes_is_its_physical_footprint_on_macos():
    class LibProc:
        """Writes as proc_pid_rusage does: an id of 16 bytes, then words."""

        @staticmethod
        def proc_pid_rusage(pid: int, flavor: int, buffer: object) -> int:
            assert (pid, flavor) == (os.getpid(), 4)
            words = buffer._obj
            for word in range(35):
                words[2 + word] = word * 1000
            return 0

    assert memory.footprint("Darwin", libproc=LibProc) == (7000, 28000)


def test_a_footprint_that_macos_does_not_tell_is_nought():
    refusing = SimpleNamespace(proc_pid_rusage=lambda *_: -1)
    assert memory.footprint("Darwin", libproc=refusing) == (0, 0)


def test_this_process_takes_memory():
    now, most = memory.footprint()
    assert 0 < now <= most
