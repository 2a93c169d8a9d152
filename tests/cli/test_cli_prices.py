"""``bursar prices``: shows what is in force, compares, and refreshes without ever changing a past price."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner, Result

from bursar.adapters import prices_refresh
from bursar.adapters.prices_file import bundled_price_list, load_book, price_list_text
from bursar.cli.prices import prices
from bursar.core.prices import Reading, charge
from bursar.core.usage import Usage

MILLION = Usage(input_tokens=1_000_000)


def run(data: Path, *arguments: str) -> Result:
    return CliRunner().invoke(prices, [*arguments, "--data", str(data)], catch_exceptions=False)


def answer(data: Path, *arguments: str) -> dict[str, Any]:
    result = run(data, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def listed() -> dict[str, Any]:
    """The bundled list, to be changed."""
    return copy.deepcopy(dict(bundled_price_list()))


def rates(listed: dict[str, Any], provider: str, model: str) -> dict[str, Any]:
    """The last standard rates of a model, for changing them in place."""
    models = next(p["models"] for p in listed["providers"] if p["id"] == provider)
    return next(m for m in models if m["id"] == model)["prices"][-1]["rates"]


def saved(tmp_path: Path, listed: dict[str, Any], name: str = "source.json") -> str:
    path = tmp_path / name
    path.write_text(price_list_text(listed), encoding="utf-8")
    return str(path)


def cost(data: Path, provider: str, model: str, at: datetime) -> Any:
    return charge(Reading(MILLION), load_book(data), provider=provider, model=model, at=at).cost_usd


# --- show -------------------------------------------------------------------------------------------------------


def test_show_prints_every_rate_of_a_model(data: Path) -> None:
    """Unit, price, what it buys, tier, terms, date and the name of the price row."""
    rows = answer(data, "show", "o3", "--provider", "openai")["rows"]
    first = rows[0]
    assert first == {
        "provider": "openai",
        "model": "o3",
        "unit": "input_tokens",
        "usd": "10",
        "per": "1M tokens",
        "over_input_tokens": 0,
        "terms": "",
        "from": "",
        "hours": "",
        "price_row": "genai-prices-0.2.3:openai/o3/input_tokens",
        "source": "genai-prices-0.2.3",
    }
    assert {"2025-06-10"} <= {row["from"] for row in rows}
    assert {"service_tier=flex"} <= {row["terms"] for row in rows}
    text = run(data, "show", "o3", "--provider", "openai").output
    assert "Price book genai-prices-0.2.3+2026-" in text
    for cell in ("openai/o3", "cache_read_tokens", "service_tier=priority", "2025-06-10"):  # whole at 80 columns
        assert cell in text


def test_the_price_rows_shown_are_those_a_charge_names(data: Path) -> None:
    """A row of a charge is found again in ``show``, tiers and terms included."""
    usage = Usage(input_tokens=300_000, cache_read_tokens=5, output_tokens=9, web_searches=1)
    at = datetime(2026, 11, 23, tzinfo=timezone.utc)
    for provider, model, terms in (
        ("google", "gemini-2.5-pro", ()),
        ("openai", "o3", (("service_tier", "flex"),)),
        ("anthropic", "claude-opus-4-6", (("processing", "batch"),)),
    ):
        used = charge(Reading(usage, terms=terms), load_book(None), provider=provider, model=model, at=at)
        shown = {row["price_row"] for row in answer(data, "show", model, "--provider", provider)["rows"]}
        assert used.lines
        assert set(used.price_rows) <= shown


def test_show_lists_the_factors_of_a_model(data: Path) -> None:
    """Surcharges for a place are part of the price: what, when, and who says so."""
    (factor,) = answer(data, "show", "claude-opus-4-6", "--provider", "anthropic")["factors"]
    assert (factor["factor"], factor["terms"]) == ("1.1", "inference_geo=us")
    assert factor["source"].startswith("https://")
    text = run(data, "show", "claude-opus-4-6", "--provider", "anthropic").output
    assert "x1.1 on tokens: inference_geo=us (https://" in text


@pytest.mark.parametrize(("day", "price"), [("2025-06-09", "10"), ("2025-06-10", "2")])
def test_show_at_a_date(data: Path, day: str, price: str) -> None:
    """Only what applied on that day."""
    rows = answer(data, "show", "o3", "--provider", "openai", "--at", day)["rows"]
    assert [row["usd"] for row in rows if row["unit"] == "input_tokens" and not row["terms"]] == [price]


def test_show_at_a_date_keeps_all_hours_of_the_day(data: Path) -> None:
    """Peak and off-peak prices are both in force on one day."""
    rows = answer(data, "show", "deepseek-reasoner", "--provider", "deepseek", "--at", "2025-03-01")["rows"]
    found = {row["hours"]: row["usd"] for row in rows if row["unit"] == "input_tokens"}
    assert found == {"": "0.135", "00:30-16:30 UTC": "0.55"}


def test_show_lists_providers_and_says_what_it_does_not_know(data: Path) -> None:
    """No argument: the providers. An unknown name: exit 1 with names like it. A bad date: exit 2."""
    assert {"provider": "openai", "models": 113} in answer(data, "show")["rows"]
    unknown = run(data, "show", "gpt-4", "--provider", "google")
    assert (unknown.exit_code, "no price for model 'gpt-4' of 'google'" in unknown.output) == (1, True)
    near = run(data, "show", "opus-4-6", "--provider", "anthropic")
    assert "like it: anthropic/claude-opus-4-6" in near.output
    typo = run(data, "show", "gpt-4.1-minny", "--provider", "openai")
    assert "like it: openai/gpt-4.1-mini" in typo.output
    strange = run(data, "show", "zzzzzzzz", "--provider", "openai")
    assert "`bursar prices show --provider openai` lists what there is" in strange.output
    assert run(data, "show", "--provider", "nobody").exit_code == 1
    assert run(data, "show", "o3", "--at", "yesterday").exit_code == 2


# --- refresh ----------------------------------------------------------------------------------------------------


def test_refresh_from_the_same_prices_changes_nothing(data: Path) -> None:
    """The installed package is what is bundled: no file is written."""
    result = run(data, "refresh", "--from", "package")
    assert (result.exit_code, "No change" in result.output) == (0, True)
    assert list(data.iterdir()) == []


def test_a_new_price_applies_from_today_and_old_calls_keep_theirs(
    data: Path, tmp_path: Path, listed: dict[str, Any]
) -> None:
    """Before and after the refresh a call of an earlier day costs the same; twice is once; the change is on record."""
    now = datetime.now(timezone.utc)
    past = [now - timedelta(days=days) for days in (1, 30, 400, 700)]
    before = [cost(data, "openai", "o3", at) for at in past]
    rates(listed, "openai", "o3")["input_tokens"] = "2.2"
    source = saved(tmp_path, listed)
    assert "2 -> 2.2" in run(data, "diff", "--from", source).output
    assert not (data / "prices.json").exists()
    done = answer(data, "refresh", "--from", source)
    assert [(c["model"], c["old"], c["new"], c["start"]) for c in done["changes"]] == [
        ("o3", "2", "2.2", now.date().isoformat())
    ]
    assert [cost(data, "openai", "o3", at) for at in past] == before
    assert str(cost(data, "openai", "o3", now)) == "2.2"
    book = load_book(data)
    assert book.version == done["version"]
    files = {path.name: path.read_bytes() for path in data.iterdir()}
    assert set(files) == {"prices.json", "price-changes.jsonl"}
    (record,) = map(json.loads, files["price-changes.jsonl"].splitlines())
    assert (record["old"], record["new"], record["from_source"], record["version"]) == (
        "2",
        "2.2",
        source,
        book.version,
    )
    assert answer(data, "refresh", "--from", source)["changes"] == []
    assert {path.name: path.read_bytes() for path in data.iterdir()} == files
    rows = answer(data, "show", "o3", "--provider", "openai")["rows"]
    assert {"2", "2.2", "10"} <= {row["usd"] for row in rows if row["unit"] == "input_tokens" and not row["terms"]}


@pytest.mark.parametrize("price", ["2.41", "1.59", "0", "200"])
def test_a_large_move_is_refused_as_a_whole_without_accept(
    data: Path, tmp_path: Path, listed: dict[str, Any], price: str
) -> None:
    """Exit 1, listed, and not even the small changes beside it are taken; --accept takes all."""
    rates(listed, "openai", "o3")["input_tokens"] = price
    rates(listed, "openai", "gpt-4.1")["input_tokens"] = "2.1"
    source = saved(tmp_path, listed)
    refused = run(data, "refresh", "--from", source)
    assert refused.exit_code == 1
    assert f"! openai/o3 input_tokens: 2 -> {price} USD per 1M tokens" in refused.stdout
    assert "refused: 1 large move" in refused.stderr
    assert list(data.iterdir()) == []
    assert answer(data, "diff", "--from", source)["needs_accept"] is True
    accepted = run(data, "refresh", "--from", source, "--accept")
    assert (accepted.exit_code, "2 changes" in accepted.output) == (0, True)
    assert cost(data, "openai", "o3", datetime.now(timezone.utc)) == cost_of(price)


def cost_of(price: str) -> Any:
    from decimal import Decimal

    return Decimal(price)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda r: r.update(input_tokens="2,2"),
            "openai/o3: prices[2].rates.input_tokens: '2,2' is not a decimal number",
        ),
        (lambda r: r.update(input_tokens=2.2), "is not a price: write decimal text"),
        (lambda r: r.update(input_token="2"), "openai/o3: prices[2].rates.input_token: unknown unit"),
        (lambda r: r.update(input_tokens="-2"), "it must be finite and not negative"),
    ],
)
def test_a_source_with_a_typo_is_refused_with_its_place(
    data: Path, tmp_path: Path, listed: dict[str, Any], change: Any, message: str
) -> None:
    """Exit 1, the place is named, and nothing changes."""
    change(rates(listed, "openai", "o3"))
    result = run(data, "refresh", "--from", saved(tmp_path, listed), "--accept")
    assert result.exit_code == 1
    assert message in result.stderr
    assert "no price has changed" in result.stderr
    assert list(data.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b'"\xff"', "can't decode"),
        (b"{}", "neither a price list of ours"),
        (b"5", "neither a price list of ours"),
        (
            b'[{"id": "p", "models": [{"id": "m", "match": {"equals": "m"}, "prices": {"input_mtok": NaN}}]}]',
            "NaN is not",
        ),
        (b'[{"id": "p", "id": "q", "models": []}]', "the key 'id' stands twice"),
        (b'[{"id": "p", "models": [{"id": "m", "match": {"is": "m"}, "prices": {}}]}]', "p/m: match 'is'"),
    ],
)
def test_a_damaged_source_is_refused(data: Path, tmp_path: Path, content: bytes, message: str) -> None:
    """Not JSON, not a price list, not a number: one line that names the source."""
    (tmp_path / "bad.json").write_bytes(content)
    result = run(data, "refresh", "--from", str(tmp_path / "bad.json"))
    assert result.exit_code == 1
    assert message in result.stderr
    assert run(data, "diff", "--from", str(tmp_path / "none.json")).exit_code == 1


def test_a_source_that_is_too_large_is_refused(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is named."""
    monkeypatch.setattr(prices_refresh, "SOURCE_BYTES_MAX", 100)
    (tmp_path / "big.json").write_bytes(b"[" + b" " * 200 + b"]")
    assert "larger than 100 bytes" in run(data, "refresh", "--from", str(tmp_path / "big.json")).stderr


def test_models_that_vanish_are_kept_and_new_ones_are_added(data: Path, tmp_path: Path, listed: dict[str, Any]) -> None:
    """An old model still has its price after the source dropped it."""
    openai = next(p for p in listed["providers"] if p["id"] == "openai")
    openai["models"] = [m for m in openai["models"] if m["id"] != "gpt-4"]
    openai["models"].append({"id": "gpt-99", "prices": [{"rates": {"input_tokens": "1"}}]})
    kinds = {(c["kind"], c["model"]) for c in answer(data, "refresh", "--from", saved(tmp_path, listed))["changes"]}
    assert kinds == {("model added", "gpt-99"), ("model vanished", "gpt-4")}
    now = datetime.now(timezone.utc)
    assert cost(data, "openai", "gpt-4", now) == 30
    assert cost(data, "openai", "gpt-99", now) == 1


def test_a_write_that_fails_leaves_the_old_prices(
    data: Path, tmp_path: Path, listed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: exit 1, the list in force is as it was, no temporary file stays."""
    rates(listed, "openai", "o3")["input_tokens"] = "2.2"
    source = saved(tmp_path, listed)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prices_refresh.os, "fsync", full)
    result = run(data, "refresh", "--from", source)
    assert (result.exit_code, "No space left" in result.stderr) == (1, True)
    assert not list(data.glob("prices*"))
    assert cost(data, "openai", "o3", datetime.now(timezone.utc)) == 2


def test_a_damaged_list_in_the_data_directory_is_named(data: Path) -> None:
    """Somebody edited prices.json by hand: the file and the place are in the message."""
    data.mkdir()
    (data / "prices.json").write_text('{"format": 1, "version": "1", "source": "s", "providers": [{}]}')
    with pytest.raises(ValueError, match=r"prices\.json: price list: provider 1: id None is not text"):
        load_book(data)
    assert "provider 1" in run(data, "refresh", "--from", "package").stderr


# --- over HTTP --------------------------------------------------------------------------------------------------


class _Handler(BaseHTTPRequestHandler):
    bodies: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        body = self.bodies.get(self.path)
        self.send_response(200 if body is not None else 404)
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """Quiet."""


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Handler) as http:
        thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}"
        finally:
            http.shutdown()
            thread.join()
            _Handler.bodies.clear()


def test_refresh_over_http_in_the_published_format(data: Path, server: str) -> None:
    """genai-prices' own JSON: numbers are exact, what it does not list stays alone."""
    model = {"id": "gpt-4.1", "match": {"equals": "gpt-4.1"}, "prices": {"input_mtok": 2.20, "output_mtok": 8}}
    _Handler.bodies["/data.json"] = json.dumps([{"id": "openai", "models": [model]}]).encode()
    done = answer(data, "diff", "--from", f"{server}/data.json")
    prices_changed = [c for c in done["changes"] if c["kind"] == "price"]
    assert [(c["model"], c["unit"], c["old"], c["new"]) for c in prices_changed] == [
        ("gpt-4.1", "input_tokens", "2", "2.2")
    ]
    assert "openai/gpt-4.1/web_searches" in done["kept"]
    assert run(data, "refresh", "--from", f"{server}/data.json").exit_code == 0
    assert str(cost(data, "openai", "gpt-4.1", datetime.now(timezone.utc))) == "2.2"
    assert cost(data, "openai", "o3", datetime.now(timezone.utc)) == 2


def test_a_server_without_prices_is_one_line(data: Path, server: str) -> None:
    """404, nobody there, a file URL: exit 1, nothing changes."""
    missing = run(data, "refresh", "--from", f"{server}/none")
    assert (missing.exit_code, "404" in missing.stderr) == (1, True)
    silent = run(data, "refresh", "--from", "http://127.0.0.1:9/")
    assert silent.exit_code == 1
    assert "http://127.0.0.1:9/: Connection refused; no price has changed; without a network: --from" in silent.stderr
    assert run(data, "refresh", "--from", "file:///etc/hostname").exit_code == 1
    assert list(data.iterdir()) == []
