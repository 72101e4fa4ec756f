"""DelugeNet image classifiers, from training to a production endpoint."""

__version__ = "0.1.0"
