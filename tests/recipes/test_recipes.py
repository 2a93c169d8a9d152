"""Every recipe of docs/recipes.md, as it stands there, with the real packages against the simulated provider."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from recipe_house import CLAUDE, HERE, RECIPES, ROOT, SEARCH_NANOUSD, House, Recipe, billed, nanousd

from bursar.sim import Simulator, serve

TINY = "0.00001"
"""A budget that no call of any recipe fits in."""
SHORT = "0.004"
"""A budget that the first calls of every recipe fit in, but no search."""
REFUSED = re.compile(r"^bursar\.BudgetExceeded: budget 'task' for 'answer-question-", re.MULTILINE)

EVERY = [
    pytest.param(
        recipe,
        id=recipe.program,
        marks=[
            pytest.mark.timeout(420),  # the first of a folder installs its packages
            *([] if recipe.folder == "light" else [pytest.mark.long]),
        ],
    )
    for recipe in RECIPES
]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with serve(Simulator(seed=7)) as sim:
        yield House(sim, tmp_path / "data")


def steps(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from node["steps"]
    for child in node["children"]:
        yield from steps(child)


def agents(node: dict[str, Any]) -> set[str]:
    found = {step["agent"] for step in node["steps"]}
    return found.union(*(agents(child) for child in node["children"]))


@pytest.mark.parametrize("recipe", EVERY)
async def test_a_recipe_shows_task_agents_user_and_every_cost(house: House, recipe: Recipe) -> None:
    """The whole run is one task of its user: model calls cost what the provider billed, searches what they are worth."""
    run = await house.run(recipe)
    assert run.code == 0, run.errors
    assert run.output.strip()
    said = re.search(r"^(answer-question-\w+) cost (\S+) USD$", run.errors, re.MULTILINE)
    assert said, run.errors
    tree = await house.tree(said[1])
    assert (tree["task"], tree["user"]) == (said[1], "ada")
    assert agents(tree) - {""} == recipe.agents
    searches = [step for step in steps(tree) if step["provider"] == "tools"]
    calls = [step for step in steps(tree) if step["provider"] != "tools"]
    assert [nanousd(step["cost_usd"]) for step in searches] == [SEARCH_NANOUSD] * recipe.searches
    assert {step["agent"] for step in searches} == {"researcher"}
    served = sorted(billed(recipe.provider, call) for call in house.calls)
    assert len(served) == recipe.calls
    assert min(served) > 0
    assert sorted(nanousd(step["cost_usd"]) for step in calls) == served
    total = sum(served) + SEARCH_NANOUSD * recipe.searches
    assert nanousd(tree["total"]["cost_usd"]) == nanousd(said[2]) == total
    (top,) = [row for row in await house.tasks() if not row["parent_task"]]
    assert nanousd(top["all_cost_usd"]) == total
    await house.prove()


@pytest.mark.parametrize("recipe", EVERY)
async def test_a_recipe_without_money_stops(house: House, recipe: Recipe) -> None:
    """The refusal leaves the framework as BudgetExceeded, and nobody was asked: not once, and not again."""
    run = await house.run(recipe, TINY)
    assert run.code == 1
    assert REFUSED.search(run.errors), run.errors
    assert house.calls == []
    assert [nanousd(row["all_cost_usd"] or "0") for row in await house.tasks() if row["all_calls"]] == []
    await house.prove()


@pytest.mark.parametrize("recipe", EVERY)
async def test_a_recipe_whose_money_ends_inside_stops_there(house: House, recipe: Recipe) -> None:
    """The search that no longer fits is not made, no framework tells its model so, and what was asked before is charged."""
    run = await house.run(recipe, SHORT)
    assert run.code == 1
    assert REFUSED.search(run.errors), run.errors
    assert len(house.calls) == recipe.calls_first
    spent = sum(nanousd(row["all_cost_usd"]) for row in await house.tasks() if not row["parent_task"])
    assert spent == sum(billed(recipe.provider, call) for call in house.calls) <= nanousd(SHORT)
    await house.prove()


def telemetry(url: str) -> dict[str, str]:
    """What docs/recipes.md has a user of the Claude Agent SDK export."""
    return {
        "CLAUDE_CODE_ENABLE_TELEMETRY": "1",
        "OTEL_LOGS_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
    }


@pytest.mark.long
@pytest.mark.timeout(420)
async def test_claude_agents_report_their_model_calls(house: House) -> None:
    """Calls that leave from the program below the SDK are in the task all the same, priced as the provider billed them."""
    house.configure("anthropic")
    async with house.server() as url:
        run = await house.run(CLAUDE, **telemetry(url))
        assert run.code == 0, run.errors
    (top,) = [row for row in await house.tasks() if not row["parent_task"]]
    tree = await house.tree(top["task"])
    assert tree["user"] == "ada"
    assert agents(tree) - {""} == CLAUDE.agents
    served = sorted(billed("anthropic", call) for call in house.calls)
    assert len(served) == CLAUDE.calls
    assert sorted(nanousd(step["cost_usd"]) for step in steps(tree) if step["provider"] != "tools") == served
    assert [nanousd(step["cost_usd"]) for step in steps(tree) if step["provider"] == "tools"] == [SEARCH_NANOUSD]
    assert nanousd(top["all_cost_usd"]) == sum(served) + SEARCH_NANOUSD
    await house.prove()


@pytest.mark.long
@pytest.mark.timeout(420)
async def test_claude_agents_behind_the_gateway_are_charged_once(house: House) -> None:
    """Calls that the gateway has seen are not charged again when the program below the SDK reports them."""
    house.configure("anthropic")
    async with house.server() as url:
        run = await house.run(CLAUDE, **telemetry(url), ANTHROPIC_BASE_URL=url)
        assert run.code == 0, run.errors
    shown = await house.bursar("spend", "--json")
    served = sum(billed("anthropic", call) for call in house.calls)
    assert nanousd(json.loads(shown.output)["total"]["cost_usd"]) == served + SEARCH_NANOUSD
    await house.prove()


@pytest.mark.long
@pytest.mark.timeout(420)
async def test_claude_agents_tools_are_refused(house: House) -> None:
    """A search that does not fit is not made; the refusal comes out of the SDK, in the groups that it puts errors in."""
    run = await house.run(CLAUDE, SHORT)
    assert run.code == 1
    assert "BudgetExceeded: budget 'task' for 'answer-question-" in run.errors
    assert [row for row in await house.tasks() if row["all_calls"]] == []
    await house.prove()


@pytest.mark.parametrize("path", sorted(HERE.glob("*/*.py")), ids=lambda path: path.stem)
def test_the_page_shows_what_is_tested(path: Path) -> None:
    """Each program is in docs/recipes.md to the letter, and its packages with their versions."""
    page = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    assert f"```python\n{path.read_text(encoding='utf-8')}```\n" in page, (
        f"{path.name} is not in docs/recipes.md as it is"
    )
    for line in (path.parent / "requirements.in").read_text(encoding="utf-8").split():
        assert line in page, f"{line} is not in docs/recipes.md"
