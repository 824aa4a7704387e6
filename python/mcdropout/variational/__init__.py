"""Bayesian layers: distributions over weights, how they learn, and their KL divergence."""
