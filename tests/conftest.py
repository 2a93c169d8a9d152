"""What holds for every test."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# The machines that run this are small and shared: how long an example took says nothing about the code. In CI the
# examples are the same every time, so that a submission is judged by what it changed; elsewhere they are new.
settings.register_profile(
    "bursar",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("bursar")
