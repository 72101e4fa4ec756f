"""How good a classifier is: metrics, evaluation and its plots."""
