"""Time and memory beside the plain way and the physical floor: `python -m speed`; see README.md."""
