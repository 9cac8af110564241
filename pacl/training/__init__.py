"""Trains the vision embedder, resumes interrupted runs, and pre-trains the small CLIP."""
