"""The documentation is true: its examples run, and everything a user can set or see is in it."""

from __future__ import annotations

import re
from pathlib import Path

import click
import msgspec
import pytest
from click.testing import CliRunner

from bursar.cli import root
from bursar.config import ProviderSettings, Retention, Server, Settings, parse_settings
from bursar.doors.gateway.metrics import Metrics

ROOT = Path(__file__).parents[2]
DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_readme_prices_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    """The README's pricing example runs and prints the amount beside it."""
    blocks = re.findall(r"```python\n(.*?)```", text("README.md"), re.DOTALL)
    example = next(block for block in blocks if "charge_response" in block)
    expected = re.search(r"print\(charge.cost_usd\)\s*# (\S+)", example)
    assert expected
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines()[0] == expected[1]


def test_the_configuration_example_is_the_defaults() -> None:
    """The example in docs/configuration.md is valid and shows the defaults of every setting."""
    example = re.search(r"```yaml\n(.*?)```", text("docs/configuration.md"), re.DOTALL)
    assert example
    found = parse_settings(example[1])
    assert msgspec.structs.replace(found, providers={}) == Settings()
    for kind in (Server, Retention, ProviderSettings, Settings):
        for name in kind.__struct_fields__:
            assert re.search(rf"^\s*{name}:", example[1], re.MULTILINE), f"{name} is not in docs/configuration.md"


def commands(group: click.Group, names: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    context = click.Context(group)
    found: list[tuple[str, ...]] = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found.append((*names, name))
        if isinstance(command, click.Group):
            found.extend(commands(command, (*names, name)))
    return found


@pytest.mark.parametrize("words", commands(root), ids=" ".join)
def test_every_command_has_help_and_is_documented(words: tuple[str, ...]) -> None:
    """Each command explains itself, and some page names it."""
    result = CliRunner().invoke(root, [*words, "--help"])
    assert result.exit_code == 0, result.output
    assert len(result.output.splitlines()) > 3
    everything = "\n".join(path.read_text(encoding="utf-8") for path in DOCS)
    assert f"bursar {' '.join(words)}" in everything or f"`{words[-1]}" in everything, f"bursar {' '.join(words)}"


def test_every_metric_is_documented() -> None:
    """What /metrics shows is explained in docs/gateway.md."""
    page = text("docs/gateway.md")
    metrics = Metrics()
    for family in metrics.registry.collect():
        assert family.name in page, f"{family.name} is not in docs/gateway.md"


def test_links_between_pages_work() -> None:
    """No page points at a file that is not there."""
    for path in DOCS:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            if "://" not in link:
                assert (path.parent / link).exists(), f"{path.name} points at {link}"
