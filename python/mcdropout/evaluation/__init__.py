"""How good a prediction is: scores, calibration, conformal sets, convergence and dropout rates."""
