"""``python -m bench [--peers] [--quick] [--only NAME,...] [--json FILE]``."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from importlib import import_module
from pathlib import Path

from bench.measure import ROOT, BenchError, machine
from bench.report import Report, write_json

PARTS = {
    "gateway": "requests/s, processor time, latency, memory, start-up beside a bare proxy",
    "inprocess": "hold and settle, pricing, the import of the package",
    "imports": "bursar import, and bursar spend over what was imported",
    "otlp": "spans/s of telemetry, from the request to the ledger, and what happens beyond",
    "ledger": "group-by over ten million rows (not in --quick)",
    "routes": "what a route and a cache add to a request (only with --peers or --only routes)",
    "peers": "other gateways beside us (only with --peers; installs them under .peers/)",
    "outage": "an outage of the first provider of two (only with --peers or --only outage; LiteLLM only with --peers)",
    "sdk": "the SDK beside other tools' (only with --peers; installs them under .venv-bench/)",
}
_ONLY_ASKED = ("routes", "peers", "outage", "sdk")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short runs, under two minutes; figures are rough")
    parser.add_argument("--peers", action="store_true", help="install other tools and measure them too")
    parser.add_argument("--only", metavar="NAME,...", help=f"parts to run: {', '.join(PARTS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go (default: bench/out/)")
    parser.add_argument("--list", action="store_true", help="name the parts and stop")
    options = parser.parse_args()
    if options.list:
        for name, about in PARTS.items():
            print(f"{name:10} {about}")
        return 0
    wanted = options.only.split(",") if options.only else [n for n in PARTS if n not in _ONLY_ASKED]
    unknown = [name for name in wanted if name not in PARTS]
    if unknown:
        parser.error(f"--only {','.join(unknown)}: the parts are {', '.join(PARTS)}")
    if options.peers and not options.only:
        wanted += _ONLY_ASKED
    if options.quick and not options.only:
        wanted = [name for name in wanted if name != "ledger"]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    about = machine()
    print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    reports, failed = _run(wanted, quick=options.quick, peers=options.peers)
    file = options.json or ROOT / "bench" / "out" / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    write_json(file, about, reports)
    missed = [figure.name for report in reports for figure in report.figures if figure.goal_met is False]
    met = sum(figure.goal_met is True for report in reports for figure in report.figures)
    print(f"\ngoals: {met} met, {len(missed)} missed{': ' if missed else ''}{', '.join(missed)}")
    print(f"figures: {file}")
    return 1 if failed else 0


def _run(wanted: list[str], *, quick: bool, peers: bool) -> tuple[list[Report], bool]:
    reports: list[Report] = []
    failed = False
    for name in wanted:
        begin = time.monotonic()
        try:
            more = {"peers": peers} if name == "outage" else {}
            report = import_module(f"bench.{name}").measure(quick=quick, **more)
        except (BenchError, OSError) as error:
            print(f"\n== {name} ==\n  FAILED: {error}", flush=True)
            failed = True
            continue
        reports.append(report)
        print(f"\n{report.text()}\n  ({time.monotonic() - begin:.0f} s)", flush=True)
    return reports, failed


if __name__ == "__main__":
    sys.exit(main())
