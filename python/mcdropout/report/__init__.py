"""A report of a prediction as one HTML page that loads nothing from a network. Needs no torch.

jinja2 escapes all that users named. The page's script inserts text alone, and the page's own security policy lets no
other script run and nothing be loaded.
"""
