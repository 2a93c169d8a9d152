"""``bursar sim``: the simulated provider, until it is stopped."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import click

from bursar.sim import FaultRule, Pace, Simulator, parse_rules, serve

__all__ = ["sim"]

_GRACE_S = 2.0


def _rules(_context: click.Context, _parameter: click.Parameter, given: str | None) -> tuple[FaultRule, ...]:
    if given is None:
        return ()
    try:
        text = given if given.lstrip().startswith(("{", "[")) else Path(given).read_text(encoding="utf-8")
        return parse_rules(text)
    except (OSError, ValueError) as problem:
        raise click.BadParameter(f"{problem}. Give a JSON list of rules, or a file that holds one.") from problem


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=4010, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free port.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0, 2**31), help="Same seed, same answers.")
@click.option(
    "--first-token-ms",
    default=0.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Wait before the first token.",
)
@click.option(
    "--tokens-per-second",
    default=0.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Pace of answers; 0 is as fast as possible.",
)
@click.option("--faults", metavar="FILE|JSON", callback=_rules, help="Schedule of faults; see docs/simulator.md.")
def sim(
    host: str,
    port: int,
    seed: int,
    first_token_ms: float,
    tokens_per_second: float,
    faults: tuple[FaultRule, ...],
) -> None:
    """Play OpenAI, Anthropic and Gemini on one port. No key and no network are needed; any key is taken."""
    simulator = Simulator(seed=seed, pace=Pace(first_token_ms, tokens_per_second), faults=faults)
    try:
        asyncio.run(_run(simulator, host, port))
    except OSError as problem:
        raise click.ClickException(str(problem.strerror or problem)) from problem


async def _run(simulator: Simulator, host: str, port: int) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with serve(simulator, host=host, port=port, grace_s=_GRACE_S) as served:
        click.echo(f"Simulated OpenAI, Anthropic and Gemini on {served.url} (seed {simulator.seed}). Try:\n")
        click.echo(f"  curl {served.url}/v1/chat/completions -H 'authorization: Bearer any-key' \\")
        click.echo("""    -d '{"model": "gpt-5-mini", "messages": [{"role": "user", "content": "Hello"}]}'\n""")
        click.echo(f"  OpenAI SDK: base_url={served.url}/v1 | Anthropic, Gemini: base_url={served.url}")
        click.echo(f"  What was served: {served.url}/sim/calls | Stop with Ctrl-C.")
        await stopped.wait()
    click.echo(f"Stopped after {simulator.served} calls.")
