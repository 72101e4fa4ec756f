"""Evaluation of classifiers: metrics, reports, plots, and what can be opened for it."""
