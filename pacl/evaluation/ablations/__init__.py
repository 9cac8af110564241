"""The paper's open choices, one at a time."""
