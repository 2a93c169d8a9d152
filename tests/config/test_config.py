"""``bursar.yaml``: mistakes are named with their line and the way out; what is left out has its default."""

from __future__ import annotations

import pytest

from bursar.config import Settings, parse_settings
from bursar.core.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server:\n  prot: 1", "bursar.yaml:2: unknown key 'server.prot': did you mean 'port'?"),
        ("sever: {}", "bursar.yaml:1: unknown key 'sever': did you mean 'server'?"),
        ("server:\n  port: 70000", "bursar.yaml:2: server.port is 70000: it must be from 0 to 65535"),
        ("server:\n  port: many", "bursar.yaml:2: server.port: expected a whole number, not text"),
        ("server:\n  port: 4.5", "bursar.yaml:2: server.port: expected a whole number, not a number with decimals"),
        ("server:\n  require_keys: perhaps", "bursar.yaml:2: server.require_keys: expected true or false, not text"),
        ("server: 3", "bursar.yaml:1: server: expected keys with values, not a whole number"),
        ("prices: []", "bursar.yaml:1: prices: expected keys with values, not a list"),
        ("providers:\n  x:\n    base_url: 3", "bursar.yaml:3: providers.x.base_url: expected text, not a whole number"),
        ("\ndurability: fast", "bursar.yaml:2: durability: invalid enum value 'fast'; choose from process, power"),
        ("- a", "bursar.yaml:1: the file must hold keys and values"),
        ("\tserver: 1", "bursar.yaml:1: not valid YAML: found character '\\t' that cannot start any token"),
        ("server:\n  port: 1\n  port: 2", "bursar.yaml:3: 'port' is there twice"),
        ("providers:\n  x: {key_env: sk-1}", "bursar.yaml:2: key_env is the name of an environment variable, never"),
        (
            "prices:\n  discounts:\n    - provider: openai\n      percent: 120",
            "bursar.yaml:4: prices.discounts[0].percent: 120 is not above 0 and at most 100",
        ),
        (
            "prices:\n  models:\n    - provider: openai\n      model: a\n      input: 1\n    - provider: openai",
            "bursar.yaml:6: prices.models[1]: no price is given",
        ),
        ("prices:\n  modles: []", "bursar.yaml:1: prices: unknown key 'modles'"),
    ],
)
def test_a_mistake_names_its_line(text: str, message: str) -> None:
    """The line, the key, the value and what would do: nobody has to search the file."""
    with pytest.raises(ConfigError) as caught:
        parse_settings(text)
    assert message in str(caught.value)


def test_a_section_that_is_commented_out_is_absent() -> None:
    """A key with nothing below it, as when every line of a section is a comment, means the defaults."""
    assert parse_settings("server:\n  # port: 4001\nprices:\nproviders:\n") == Settings()
    assert parse_settings("") == Settings()
