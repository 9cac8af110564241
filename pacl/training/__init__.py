"""Trains the vision embedder, resumes interrupted runs, and pre-trains a small CLIP."""
