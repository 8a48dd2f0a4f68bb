"""A generator's parts left out one at a time."""
