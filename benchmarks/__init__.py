"""Time and memory beside the plain way and the physical floor: `python -m benchmarks`; see README.md."""
