"""Train on arrays in mini-batches: one readable loop on torch's own optimizers and schedulers.

The order and the dropout of an epoch come from (seed, epoch) alone. So a run that was interrupted and resumed from its
checkpoint ends with exactly the weights of a run that was not. Networks of this package draw from generators of their
own. Other modules may draw in ways that only torch's global generators serve; these are lent to them for each step.
"""
