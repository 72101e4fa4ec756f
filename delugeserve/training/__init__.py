"""Training: recipes as data, one Lightning module, one function that runs it."""
