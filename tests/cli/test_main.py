"""What holds for every command."""

from __future__ import annotations

import os
import sys

import pytest

from bursar.cli import main


def test_what_a_command_writes_is_its_owners_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Logs and spools beside the stores are made by libraries: the process itself lets nobody else read its files."""

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(sys, "argv", ["bursar", "--version"])
    before = os.umask(0o022)
    try:
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == 0
        assert os.umask(0o022) == 0o077
    finally:
        os.umask(before)
    assert "bursar" in capsys.readouterr().out
