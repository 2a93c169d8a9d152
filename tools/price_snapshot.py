"""Write src/bursar/data/prices.json from the installed genai-prices package. Run after raising its version.

Usage: python tools/price_snapshot.py [DATE]    DATE (YYYY-MM-DD) becomes part of the version; default: today, UTC.
       python tools/price_snapshot.py --check   writes nothing; exit 1 when the file is not what the package gives
"""

from __future__ import annotations

import json
import sys
from datetime import date, datetime, timezone
from pathlib import Path

from bursar.adapters.prices_file import price_list_text
from bursar.adapters.prices_genai import installed_price_list
from bursar.core.pricelist import check_price_list

TARGET = Path(__file__).parents[1] / "src" / "bursar" / "data" / "prices.json"


def main() -> None:
    """Convert, check, write, and say what was not carried over."""
    checking = sys.argv[1:] == ["--check"]
    if checking:
        day = json.loads(TARGET.read_text(encoding="utf-8"))["version"].rpartition("+")[2]
    else:
        today = datetime.now(timezone.utc).date().isoformat()
        day = date.fromisoformat(sys.argv[1] if len(sys.argv) > 1 else today).isoformat()
    listed = installed_price_list()
    source = listed.pop("source")
    document = {"format": listed.pop("format"), "version": f"{source}+{day}", "source": source, **listed}
    providers = check_price_list(document)
    text = price_list_text(document)
    if checking:
        sys.exit(
            None
            if TARGET.read_text(encoding="utf-8") == text
            else f"{TARGET} is not what {source} gives: run this tool"
        )
    TARGET.write_text(text, encoding="utf-8")
    models = sum(len(provider.models) for provider in providers.values())
    print(f"{len(providers)} providers, {models} models, {len(text.encode()):,} bytes")
    for key, where in document["not_carried"].items():
        print(f"not carried: {key}: {', '.join(where)}")


if __name__ == "__main__":
    main()
