"""The stochastic layers of a Keras 3 model, found and intercepted on any backend.

The model is called as in `model.predict()`, so batch norm and everything else behave as in prediction. Masks are made
in torch's order, channels first, and transposed to Keras's order. So a Keras model and a torch model with the same
operations in the same order draw the same masks. Keras is imported only when a Keras model is used.
"""
