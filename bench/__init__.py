"""What Bursar costs, as ratios to references measured in the same run: ``python -m bench`` (docs/benchmarks.md)."""
