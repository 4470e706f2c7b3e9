"""Slow NumPy versions of the mathematics, written from the papers' formulas; they share no code
with the library."""
