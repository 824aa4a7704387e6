"""A report of a prediction as one HTML page that loads nothing from a network. It does not need torch.

jinja2 escapes all text of users. The script of the page inserts text only, never markup. The security policy of the
page forbids every other script and every download.
"""
