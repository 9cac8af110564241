"""The mini world: procedural scenes with exact masks and web-like captions, for a run on one CPU."""
