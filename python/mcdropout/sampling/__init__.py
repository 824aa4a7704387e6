"""`mc_predict()` and its kin: a model, inputs and options in; a prediction out."""
