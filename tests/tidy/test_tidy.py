"""What is true of the code itself."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def public_names(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        match node:
            case (
                ast.FunctionDef(name=name, decorator_list=[])
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
            ):
                yield name  # a decorated function is a command, which its group makes known
            case _:
                pass


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_all_names_what_is_public(path: Path) -> None:
    """A module with ``__all__`` lists every function and class without a leading underscore, and nothing unknown."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    listed = next(
        (
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and "__all__" in ast.unparse(node.targets[0])
        ),
        None,
    )
    defined = {name for name in public_names(tree) if not name.startswith("_")}
    if listed is None:
        assert not defined, f"{path.name} defines {sorted(defined)} and has no __all__"
        return
    assert defined <= set(listed)


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_every_silenced_warning_says_why(path: Path) -> None:
    """``noqa``, ``type: ignore`` and ``pyright: ignore`` carry a reason."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if re.search(r"#\s*(noqa|type: ignore|pyright: ignore)", line):
            why = re.search(r"(noqa: [A-Z0-9, ]+|ignore\[[^\]]*\])\s*[-:#]\s*\S+", line)
            assert why, f"{named(path)}:{number} silences a warning without a reason"


@pytest.mark.parametrize("path", sorted((ROOT / "src/bursar/core").glob("*.py")), ids=named)
def test_no_float_in_the_core(path: Path) -> None:
    """Money never meets a float: the core has no float literal and no call of float()."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, float)), f"{named(path)}:{node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "float", f"{named(path)}:{node.lineno}"


def test_what_agents_import_is_light() -> None:
    """``import bursar`` and pricing a response load nothing of the server."""
    code = (
        "import sys, json, bursar\n"
        "light = sorted(sys.modules)\n"
        "bursar.charge_response('openai', {'object': 'chat.completion', 'model': 'gpt-4o',"
        " 'usage': {'prompt_tokens': 1, 'completion_tokens': 1}})\n"
        "print(json.dumps([light, sorted(sys.modules)]))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    light, priced = json.loads(found.stdout)
    heavy = {"duckdb", "granian", "pyreqwest", "click", "rich", "yaml", "prometheus_client", "uvloop", "asyncio"}
    assert not heavy & set(light)
    assert not heavy & set(priced)
    assert "msgspec" not in light


def test_generated_prices_match_their_source() -> None:
    """The bundled price list is what the tool makes from the pinned package."""
    made = subprocess.run(
        [sys.executable, str(ROOT / "tools/price_snapshot.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stdout + made.stderr


def test_nothing_names_a_package_index_or_a_private_path() -> None:
    """The project speaks of itself: no download addresses of packages, no path of somebody's machine."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    words = re.compile(
        "|".join(["pypi" + r"\.org", "files.python" + "hosted", "/ro" + "ot/", "/work" + "/(main|shared)"])
    )
    for name in tracked:
        path = ROOT / name
        if path.suffix in {".svg", ".png"} or not path.is_file():
            continue
        found = words.search(path.read_text(encoding="utf-8", errors="replace"))
        assert not found, f"{name}: {found[0] if found else ''}"
