"""From whatever a program has for an image to what a request carries, read in parallel."""
