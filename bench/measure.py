"""Statistics, processes and what the kernel says of them.

Rule 1: a process that was started here ends here, however the benchmark ends.
Rule 2: the process under test has one core to itself; load and upstream share the other.
Rule 3: what cannot be measured is None, never 0.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

__all__ = [
    "BURSAR",
    "PYTHON",
    "ROOT",
    "BenchError",
    "Processes",
    "cores",
    "cpu_s",
    "free_port",
    "idle",
    "machine",
    "median",
    "memory_mib",
    "percentile",
    "pin",
    "run",
    "seconds",
    "steady",
]

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
BURSAR = [PYTHON, "-m", "bursar"]

_PROC = Path("/proc")
_KILL_WITH_PARENT = 1  # prctl(PR_SET_PDEATHSIG)


class BenchError(Exception):
    """A part could not be measured, and why."""


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that ``percent`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def steady(values: Sequence[float], percent: float, *, window: int) -> float:
    """The percentile of each window, and of these the median: a burst of other work is not taken for ours."""
    return median(percentile(values[start : start + window], percent) for start in range(0, len(values), window))


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def machine() -> dict[str, Any]:
    """What a reader must know of the machine. No names."""
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


# --- cores ------------------------------------------------------------------------------------------------------


def cores() -> tuple[set[int], set[int]] | None:
    """The core of the process under test and those of everything else; None where that cannot be arranged."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    mine = sorted(os.sched_getaffinity(0))
    return ({mine[0]}, set(mine[1:])) if len(mine) > 1 else None


def pin(to: set[int] | None) -> None:
    if to:
        os.sched_setaffinity(0, to)


# --- processes --------------------------------------------------------------------------------------------------


class Processes:
    """Starts processes and, when left, ends those that still run."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def start(
        self,
        command: Sequence[str | int | Path],
        *,
        log: Path,
        on: set[int] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """``on`` are the cores it may use. Output goes to ``log``."""

        def child() -> None:
            pin(on)
            if sys.platform == "linux":
                ctypes.CDLL(None).prctl(_KILL_WITH_PARENT, signal.SIGKILL)

        with log.open("ab") as out:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=ROOT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
                preexec_fn=child,  # noqa: PLW1509 - no threads run here while processes are started
            )
        self._running.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes], *, wait_s: float = 40) -> None:
        """Raises BenchError when it does not end by itself."""
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{process.args!r} did not stop within {wait_s} s of SIGTERM") from None
        self._running.remove(process)


def run(command: Sequence[str | int | Path], **more: Any) -> str:
    """The output of a command. Raises BenchError with its last words when it fails."""
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False, **more
    )
    if done.returncode:
        raise BenchError(
            f"{' '.join(map(str, command))}: exit {done.returncode}: {(done.stderr or done.stdout)[-800:]}"
        )
    return done.stdout


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# --- what the kernel says ---------------------------------------------------------------------------------------


def cpu_s(pid: int) -> float | None:
    """Processor time of a process and its children so far; it comes in steps of a hundredth of a second."""
    try:
        total = 0
        for each in (pid, *_children(pid)):
            fields = (_PROC / str(each) / "stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")
    except OSError:
        return None


def memory_mib(pid: int, field: str = "VmRSS") -> float | None:
    """Resident memory of a process and its children; ``VmHWM`` is its peak."""
    try:
        total = 0
        for each in (pid, *_children(pid)):
            for line in (_PROC / str(each) / "status").read_text().splitlines():
                if line.startswith(field + ":"):
                    total += int(line.split()[1])
        return total / 1024
    except OSError:
        return None


def _children(pid: int) -> list[int]:
    try:
        direct = [int(p) for p in (_PROC / str(pid) / "task" / str(pid) / "children").read_text().split()]
    except OSError:
        return []
    return [*direct, *(deeper for child in direct for deeper in _children(child))]


def idle(pid: int, *, wait_s: float = 8.0) -> None:
    """Wait until a process has finished what it does in the background: 1.5 s with next to no processor time."""
    deadline = time.monotonic() + wait_s
    before = cpu_s(pid)
    while before is not None and time.monotonic() < deadline:
        time.sleep(1.5)
        after = cpu_s(pid)
        if after is None or after - before <= 0.03:
            return
        before = after
