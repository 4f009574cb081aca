"""Optuna: where trials come from, and the space they are drawn from."""
