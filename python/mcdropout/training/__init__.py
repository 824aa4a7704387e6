"""Train on arrays in mini-batches: one readable loop on torch's own optimizers and schedulers.

The order and the dropout of an epoch depend only on (seed, epoch). A run that is interrupted and resumed from its
checkpoint therefore ends with exactly the weights of an uninterrupted run. Networks of this package draw from their own
generators. Other modules may draw in ways that need torch's global generators: each step sets and restores these.
"""
