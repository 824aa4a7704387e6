"""Draw networks from a model and run inputs through them.

A draw is a network. Its masks are keyed (`randomness`), so draws can be made in any order and in any pieces.
"""
