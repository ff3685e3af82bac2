"""Queries and masks to results: what each task makes of a model's output."""
