"""The command line. Each command is loaded when it is asked for: start-up is felt every time.

Rule 1: a command writes its answer to standard output and everything else to standard error.
Rule 2: exit codes: 0 done, 1 it failed or found differences, 2 it was asked wrongly.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib import import_module
from typing import Final

import click

from bursar.core.errors import BursarError, ConfigError

__all__ = ["main", "root"]

# name: (module:attribute, one line for the list of commands)
_COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "up": ("bursar.cli.up:up", "Run the gateway and the console."),
    "demo": ("bursar.cli.demo:demo", "Simulated agents through the real gateway; no key needed."),
    "spend": ("bursar.cli.spend:spend_command", "What was spent, by model, agent, task, user, ..."),
    "tasks": ("bursar.cli.tasks:tasks_command", "Tasks with what they cost."),
    "task": ("bursar.cli.tasks:task_command", "One task: its tree of steps with cost, tokens, time."),
    "cache": ("bursar.cli.cache:cache", "What kept answers saved; clear them; where prompts part."),
    "why": ("bursar.cli.why:why_command", "One call: why it took the rung it took, and what that cost."),
    "routes": ("bursar.cli.routes:routes_command", "Routes: which rungs answer, why others are left, what that costs."),
    "mcp": ("bursar.cli.mcp:mcp", "Run an MCP server with its tool calls priced and held."),
    "import": ("bursar.cli.imports:import_", "Book calls from logs: Claude Code, Codex, JSONL, CSV."),
    "keys": ("bursar.cli.keys:keys", "Make, list and revoke virtual keys."),
    "budgets": ("bursar.cli.budgets:budgets", "Set budgets and see how they stand."),
    "approvals": ("bursar.cli.budgets:approvals", "What waits for somebody's yes."),
    "approve": ("bursar.cli.budgets:approve", "Say yes (or no) to what waits."),
    "prices": ("bursar.cli.prices:prices", "Show, compare and refresh prices."),
    "alerts": ("bursar.cli.alerts:alerts", "What fires, its notices, and whether the channels work."),
    "verify": ("bursar.cli.verify:verify", "Prove that balances, books and ledger agree."),
    "doctor": ("bursar.cli.doctor:doctor", "Find what is wrong with this installation."),
    "sim": ("bursar.cli.sim:sim", "A simulated provider for trying and testing."),
    "completion": ("bursar.cli.completion:completion", "Shell completion for bash, zsh and fish."),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = _COMMANDS.get(cmd_name)
        if found is None:
            return None
        module, _, attribute = found[0].partition(":")
        return getattr(import_module(module), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in _COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bursar", prog_name="bursar")
def root() -> None:
    """The treasurer of AI agents: every call priced, attributed and visible.

    \b
    Try it:      bursar demo
    Start it:    bursar up
                 export OPENAI_BASE_URL=http://localhost:4000/v1
    Look back:   bursar import claude-code ~/.claude/projects
                 bursar spend --by model,agent
    """


def main() -> None:
    """Run, turn what a person can act on into one line on standard error, and leave."""
    os.umask(0o077)  # what the stores keep beside their files (logs, spools) is nobody else's business either
    code = _run()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # whoever read it has gone
            code = code or 1
    # Threads of the HTTP server and client that wake while the interpreter is torn down abort the process, after all
    # is done and said. Nothing of ours waits for the tearing down: stores and temporary files are closed by their owners.
    os._exit(code)


def _run() -> int:
    try:
        root()
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    except BursarError as error:
        click.echo(f"bursar: {error}", err=True)
        return 2 if isinstance(error, ConfigError) else 1
    except OSError as error:  # a full disk, a closed pipe, a file of somebody else's
        with suppress(OSError):
            click.echo(f"bursar: {error}", err=True)
        return 1
    return 0
