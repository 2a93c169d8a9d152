"""What Bursar's SDK adds to a call of the official `openai` client, beside other tools that watch such calls.

Rule 1: a side is a process in the environment of its tool; the client's transport answers from memory, so what is
        measured is the client and what the tool adds. What it adds is the difference to the plain client of the same
        environment: the same versions, the same answers.
Rule 2: sides take turns, round by round, each plain client right before the sides that are compared with it; a figure is
        the median of the rounds, a 99th percentile that of the windows of a hundred calls.
Rule 3: processor time is all of a process, its background threads until they have nothing left to do included.
Rule 4: a round in which the process did not get its core is repeated a few times, the least disturbed one counts, and the
        report says how many were disturbed all the same.
Rule 5: a peer that could not be installed or started, or exported nothing, is not measured, and the report says why.
Rule 6: after the rounds Bursar's books must verify clean and hold each call once.
"""

from __future__ import annotations

import json
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen, SubprocessError, TimeoutExpired
from typing import Any

from bench.measure import (
    BURSAR,
    PYTHON,
    ROOT,
    BenchError,
    Processes,
    cores,
    median,
    memory_mib,
    pin,
    run,
    seconds,
    steady,
)
from bench.report import Figure, Report, not_measured
from bench.sdk_collector import Collector
from bench.sdk_sides import ENVIRONMENTS, SIDES, reference_of

__all__ = ["added", "measure"]

_HOME = ROOT / ".venv-bench"
_INSTALL_S_MAX = 600
_START_S_MAX = 60
_ROUND_S_MAX = 120
_END_S_MAX = 40
_WINDOW = 100
_SHARE_MIN = 0.85
_REPEATS_MAX = 3
_CALLS = {"call": 100, "stream": 50, "async call": 100, "async stream": 50}
# What only the server needs; who imports the SDK must not pay for it.
_SERVER_ONLY = ("click", "duckdb", "granian", "prometheus_client", "pyreqwest", "rich", "uvloop", "yaml")
_OURS = "Bursar"
# What peers do: watch calls. A task for each call is measured beside it, without a goal.
_WITH_GOAL = ("observe", "enforce", "task")


@dataclass(slots=True)
class Runner:
    """A side that is under way. A mode's ``rounds`` are the microseconds of each call and the processor time per call;
    ``disturbed`` counts those that never got their core."""

    name: str
    directory: Path
    process: Popen[bytes]
    lines: Any
    rounds: dict[str, list[tuple[list[float], float]]] = field(default_factory=dict)
    calls: int = 0
    disturbed: int = 0
    memory_mib: float | None = None
    starts: list[dict[str, float]] = field(default_factory=list)

    def turn(self, mode: str, calls: int, *, kept: bool) -> None:
        """A round, or the least disturbed of a few. One that is not ``kept`` warms up."""
        done = self._round(mode, calls)
        if not kept:
            return
        for _ in range(_REPEATS_MAX):
            if done["share"] >= _SHARE_MIN:
                break
            done = max(done, self._round(mode, calls), key=lambda one: one["share"])
        self.disturbed += done["share"] < _SHARE_MIN
        taken = [nanoseconds / 1000 for nanoseconds in done["taken_ns"]]
        self.rounds.setdefault(mode, []).append((taken, done["cpu_us"]))

    def _round(self, mode: str, calls: int) -> dict[str, Any]:
        try:
            self.lines.write(json.dumps({"mode": mode, "calls": calls}) + "\n")
            self.lines.flush()
            line = self.lines.readline()
        except OSError as error:
            raise BenchError(f"{SIDES[self.name].title}: {mode}: {error}") from error
        if not line:
            raise BenchError(f"{SIDES[self.name].title}: {mode}: {_last_words(self.directory)}")
        self.calls += calls
        return json.loads(line)


@dataclass(frozen=True, slots=True)
class Added:
    """What a side adds to the calls of one mode, in microseconds per call."""

    p50_us: float
    p99_us: float
    cpu_us: float


def measure(*, quick: bool) -> Report:
    split = cores()
    mine, others = split or (None, None)
    missing = {name: why for name in ENVIRONMENTS if (why := _install(name))}
    pin(others)
    try:
        with ExitStack() as stack:
            processes = stack.enter_context(Processes())
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bursar-bench-")))
            collectors = {name: stack.enter_context(Collector()) for name in SIDES}
            runners = _start_sides(processes, directory, collectors, mine, missing, starts=2 if quick else 4)
            _rounds(runners, missing, count=4 if quick else 8)
            for runner in runners.values():
                runner.memory_mib = memory_mib(runner.process.pid)
            _drop_who_exported_nothing(runners, collectors, missing)
            proofs = [_prove(one) for one in runners.values() if SIDES[one.name].title.startswith(_OURS)]
    finally:
        pin(mine | others if mine and others else None)
    figures = (*_call_figures(runners, missing), *_start_figures(runners), *_import_figures(5 if quick else 15))
    where = "the processes under test share one core" if split else "nothing is pinned here"
    pinned = "; ".join(f"{name}: {', '.join(what)}" for name, what in ENVIRONMENTS.items())
    rounds = sum(len(each) for one in runners.values() for each in one.rounds.values())
    disturbed = sum(one.disturbed for one in runners.values())
    said = f"{disturbed} of {rounds} rounds did not get their core for {_SHARE_MIN:.0%} of the time, even when repeated"
    notes = (f"one call at a time, no sockets; {where}, in turns; {said}", *proofs, pinned)
    return Report("sdk", figures, notes)


def _install(name: str) -> str:
    """Why the environment cannot be used; empty if it can."""
    home = _HOME / name
    wanted = " ".join(ENVIRONMENTS[name])
    stamp = home / "installed.txt"
    try:
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
            print(f"installing {wanted} into {home.relative_to(ROOT)} ...", flush=True)
            uv = [PYTHON, "-m", "uv", "--quiet"]
            run([*uv, "venv", "--clear", "--python", PYTHON, home], timeout=_INSTALL_S_MAX)
            ours = ["--editable", ROOT] if name == "bursar" else []
            into = ["--compile-bytecode", "--python", home / "bin" / "python"]
            run([*uv, "pip", "install", *into, *ENVIRONMENTS[name], *ours], timeout=_INSTALL_S_MAX)
            stamp.write_text(wanted, encoding="utf-8")
    except (BenchError, OSError, SubprocessError) as error:
        return f"{wanted} could not be installed: {str(error)[-300:]}"
    return ""


def _command(verb: str, name: str, collector: Collector, directory: Path) -> list[str | int | Path]:
    python = _HOME / SIDES[name].environment / "bin" / "python"
    return [python, "-m", "bench.sdk_worker", verb, name, collector.url, directory]


def _start_sides(
    processes: Processes,
    directory: Path,
    collectors: dict[str, Collector],
    mine: set[int] | None,
    missing: dict[str, str],
    *,
    starts: int,
) -> dict[str, Runner]:
    """Every side that starts; why others do not goes to ``missing``."""
    runners: dict[str, Runner] = {}
    for name, side in SIDES.items():
        if side.environment in missing:
            missing[name] = missing[side.environment]
            continue
        try:
            runners[name] = _start(processes, name, directory / name, collectors[name], mine)
        except BenchError as error:
            _leave(name, error, missing)
    for turn in range(starts):
        for name, runner in runners.items():
            fresh = directory / f"{name}-{turn}"
            fresh.mkdir()
            said = run(_command("start", name, collectors[name], fresh), timeout=_START_S_MAX)
            runner.starts.append(json.loads(said.splitlines()[-1]))
    return runners


def _start(processes: Processes, name: str, directory: Path, collector: Collector, mine: set[int] | None) -> Runner:
    directory.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(_START_S_MAX)
        command = [*_command("serve", name, collector, directory), listener.getsockname()[1]]
        process = processes.start(command, log=_log(directory), on=mine)
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            raise BenchError(f"{SIDES[name].title} did not start: {_last_words(directory)}") from None
    connection.settimeout(_ROUND_S_MAX)
    return Runner(name, directory, process, connection.makefile("rw", encoding="utf-8"))


def _log(directory: Path) -> Path:
    return directory.with_suffix(".log")


def _last_words(directory: Path) -> str:
    return _log(directory).read_text(encoding="utf-8", errors="replace")[-500:].strip() or "it said nothing"


def _turns(runners: dict[str, Runner], turn: int) -> Iterator[Runner]:
    """Environments begin in turns; within one the plain client goes first."""
    environments = list(ENVIRONMENTS)
    shift = turn % len(environments)
    for environment in environments[shift:] + environments[:shift]:
        here = [one for one in runners.values() if SIDES[one.name].environment == environment]
        yield from here[:1]
        yield from here[1:] if turn % 2 else reversed(here[1:])


def _rounds(runners: dict[str, Runner], missing: dict[str, str], *, count: int) -> None:
    """A first round to warm up and ``count`` others, of each mode. A side that fails leaves, and is not measured."""
    for turn in range(count + 1):
        for mode, calls in _CALLS.items():
            for runner in list(_turns(runners, turn)):
                try:
                    if runner.name in runners:
                        runner.turn(mode, calls, kept=turn > 0)
                except BenchError as error:
                    _leave(runner.name, error, missing)
                    del runners[runner.name]


def _leave(name: str, error: BenchError, missing: dict[str, str]) -> None:
    """A peer that fails is missing from the report; without our own sides there is nothing to report."""
    if SIDES[name].environment == "bursar":
        raise error
    missing[name] = str(error)


def _drop_who_exported_nothing(
    runners: dict[str, Runner], collectors: dict[str, Collector], missing: dict[str, str]
) -> None:
    for name in [name for name in runners if SIDES[name].exports and not collectors[name].received_bytes]:
        missing[name] = "it exported nothing to the collector"
        del runners[name]


def _prove(runner: Runner) -> str:
    """Let a side of ours end and check its books. Raises BenchError when they are wrong."""
    title = SIDES[runner.name].title
    runner.lines.close()
    try:
        runner.process.wait(_END_S_MAX)
    except TimeoutExpired:
        raise BenchError(f"{title} did not end within {_END_S_MAX} s of its last call") from None
    found = json.loads(run([*BURSAR, "verify", "--json", "--data", runner.directory]))
    if found["open_holds"] or found["ledger_rows"] != runner.calls:
        raise BenchError(
            f"{title}: {runner.calls} calls were made, the ledger has {found['ledger_rows']} rows, "
            f"{found['open_holds']} holds are open"
        )
    return f"{title}: verify is clean; {runner.calls:,} calls, as many rows"


def added(plain: Runner, side: Runner, mode: str) -> Added:
    """What ``side`` adds to ``plain``: medians of the differences of rounds that were neighbours."""
    pairs = list(zip(plain.rounds[mode], side.rounds[mode], strict=True))
    tails = [steady([us for taken, _ in one.rounds[mode] for us in taken], 99, window=_WINDOW) for one in (plain, side)]
    return Added(
        p50_us=median(median(its) - median(bare) for (bare, _), (its, _) in pairs),
        p99_us=tails[1] - tails[0],
        cpu_us=median(its - bare for (_, bare), (_, its) in pairs),
    )


def _call_figures(runners: dict[str, Runner], missing: dict[str, str]) -> Iterator[Figure]:
    tools = [name for name in SIDES if name != reference_of(name)]
    for name in tools:
        if name in missing or reference_of(name) in missing:
            yield not_measured(SIDES[name].title, missing.get(name) or missing[reference_of(name)])
    here = [name for name in tools if name in runners and reference_of(name) in runners]
    for mode in _CALLS:
        gains = {name: added(runners[reference_of(name)], runners[name], mode) for name in here}
        for what in ("p50_us", "p99_us", "cpu_us"):
            yield from _compared(mode, what, {name: getattr(gain, what) for name, gain in gains.items()}, runners)


def _compared(mode: str, what: str, adds: dict[str, float], runners: dict[str, Runner]) -> Iterator[Figure]:
    """A figure for each side. Ours carry the ratio to each peer as a note and, but for the noisy p99, the goal."""
    label = {"p50_us": "p50", "p99_us": "p99", "cpu_us": "CPU"}[what]
    peers = {name: us for name, us in adds.items() if not SIDES[name].title.startswith(_OURS)}
    for name, us in adds.items():
        plain = runners[reference_of(name)]
        taken = [one for one, _ in plain.rounds[mode]]
        bare = {
            "p50_us": median(median(one) for one in taken),
            "p99_us": steady([each for one in taken for each in one], 99, window=_WINDOW),
            "cpu_us": median(cpu for _, cpu in plain.rounds[mode]),
        }[what]
        said = ", ".join(f"{us / its:.2f} x {SIDES[peer].title}" for peer, its in peers.items() if its > 0)
        goal = name in _WITH_GOAL and what != "p99_us" and bool(peers)
        yield Figure(
            f"{mode}: {SIDES[name].title}, {label} added",
            us,
            "us",
            SIDES[plain.name].title,
            bare,
            "< each peer" if goal else "",
            all(us < its for its in peers.values()) if goal else None,
            "" if name in peers else said,
        )


def _start_figures(runners: dict[str, Runner]) -> Iterator[Figure]:
    """What a tool's import and start take after `openai` is imported, and how much larger its process is."""
    ours = runners.get("enforce")
    for name, runner in runners.items():
        plain = runners.get(reference_of(name))
        if runner is plain or plain is None:
            continue
        title = SIDES[name].title
        against = SIDES["enforce"].title if ours is not None and ours is not runner else ""
        for key, unit, label in (("ms", "ms", "import and init"), ("cpu_ms", "ms", "CPU of import and init")):
            mine, its = (median(one[key] for one in each.starts) for each in (runner, ours or runner))
            yield Figure(f"start: {title}, {label}", mine, unit, against, its if against else None)
        if runner.memory_mib is None or plain.memory_mib is None:
            yield not_measured(f"memory: {title}", "the kernel does not say")
            continue
        larger = runner.memory_mib - plain.memory_mib
        yield Figure(f"memory: {title}, added after the load", larger, "MiB", SIDES[plain.name].title, plain.memory_mib)


def _import_figures(rounds: int) -> Iterator[Figure]:
    """In an environment that has all of the server's packages."""
    codes = ("pass", "import bursar", "import bursar; bursar.init, bursar.task, bursar.tool")
    taken: dict[str, list[float]] = {code: [] for code in codes}
    for _ in range(rounds):
        for code in codes:
            taken[code].append(seconds(lambda code=code: run([PYTHON, "-c", code])) * 1000)
    empty, plain, used = (median(taken[code]) for code in codes)
    goal = "< 50 ms added"
    yield Figure(
        "import bursar", plain, "ms", "python -c pass", empty, goal, plain - empty < 50, f"{plain - empty:+.1f} ms"
    )
    note = f"{used - empty:+.1f} ms"
    yield Figure("import bursar, SDK names used", used, "ms", "python -c pass", empty, note=note)
    with tempfile.TemporaryDirectory(prefix="bursar-bench-") as data:
        start = f"import bursar, json, sys; bursar.init(data={data!r}); print(json.dumps(sorted(sys.modules)))"
        modules = json.loads(run([PYTHON, "-c", start]).splitlines()[-1])
    found = [name for name in _SERVER_ONLY if name in modules]
    note = f"{len(modules)} modules; {', '.join(found) or 'none of ' + ', '.join(_SERVER_ONLY)}"
    yield Figure("modules of the server after init()", len(found), "", goal="0", goal_met=not found, note=note)
