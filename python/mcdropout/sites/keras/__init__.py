"""The stochastic layers of a Keras 3 model, found and intercepted on any backend.

The model is called as `model.predict()` calls it, so batch norm and everything else behave as in prediction. Masks are
made in torch's order, channels first, and turned to Keras's order: a Keras model and a torch model with the same
operations in the same order draw the same masks. Keras is imported by its users only.
"""
