"""Pictures, and the tables that they are drawn from. Needs no torch, and matplotlib only to draw.

Figures are made without pyplot, so matplotlib's settings, its backend and the list of open figures do not change.
"""
