"""``python -m bursar`` and the ``bursar`` command."""

from __future__ import annotations

import sys
from importlib.util import find_spec

__all__ = ["main"]


def main() -> None:
    """Run the command line. Without the server parts it says how to get them."""
    if find_spec("click") is None:
        sys.exit("The bursar command needs the server parts: pip install 'bursar[server]'")
    from bursar.cli import main as cli

    cli()


if __name__ == "__main__":
    main()
