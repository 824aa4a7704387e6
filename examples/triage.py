# Let a network decide what it is sure of, and send the rest to a person: learn where the line is on images kept from
# training, see whether what was promised holds on others, and hear when the world changes. triage.R does the same.
import argparse
from pathlib import Path

import numpy as np
from scipy import stats

import mcdropout as mcd

options = argparse.ArgumentParser()
options.add_argument("--epochs", type=int, default=8)
options.add_argument("--draws", type=int, default=50)
given = options.parse_args()

# Real images of clothes. Every third one is kept from training: a policy must be learnt on images that the network
# has not seen, or it would be too trusting.
data = mcd.mc_sample_data()
kept = np.arange(len(data.x_train)) % 3 == 0
x_train, y_train = data.x_train[~kept], data.y_train[~kept]
x_calibration, y_calibration = data.x_train[kept], data.y_train[kept]

net = mcd.mc_cnn((28, 28, 1), labels=data.labels)
net = mcd.mc_fit(net, x_train, y_train, epochs=given.epochs, batch_size=128, seed=1, progress=True)
calibration = mcd.mc_predict(net, x_calibration, n_samples=given.draws, seed=1, progress=True)
test = mcd.mc_predict(net, data.x_test, n_samples=given.draws, seed=1, progress=True)

# How good it is, and whether its uncertainty finds its errors.
scores = mcd.mc_scores(test, data.y_test)
print(scores)

# Of what is accepted, at most 10 % may be wrong, with a probability of 95 %.
policy = mcd.mc_triage(calibration, y_calibration, max_error=0.10, confidence=0.95)
print()
print(policy)

# What came out on the test images, which had no part in it.
decisions = mcd.mc_decide(policy, test)
accepted = (decisions["tier"] == "accept").to_numpy()
wrong = decisions["predicted"].to_numpy() != data.y_test
print(f"\nOf {len(test)} test images {accepted.sum()} ({accepted.mean():.0%}) are accepted.")
print(f"Error rate over all: {wrong.mean():.1%}; among the accepted: {wrong[accepted].mean():.1%}.")
low, high = stats.binomtest(int(wrong[accepted].sum()), int(accepted.sum())).proportion_ci()
print(
    f"What was promised, at most 10.0%, is for all images to come; these few leave it between {low:.1%} and {high:.1%}."
)
print(f"Among those referred to a person: {wrong[~accepted].mean():.1%}.")

# The world changes: after the test images come some that lie on their side, as from a camera that was turned.
monitor = mcd.mc_monitor(calibration, measure="mutual_information", false_alarm_rate=0.01)
for first in range(0, len(test), 250):
    monitor.update(test[first : first + 250], name="upright")
turned = mcd.mc_predict(net, data.x_test[:250].transpose(0, 2, 1, 3), n_samples=given.draws, seed=1, progress=True)
monitor.update(turned, name="turned")
print()
print(monitor)

# The files: the policy, for either language to open; pictures; a report with every image, the most uncertain first.
Path("output").mkdir(exist_ok=True)
mcd.mc_save(policy, "output/triage_policy_python.json")
mcd.mc_plot_reliability(scores, path="output/triage_reliability_python.png")
mcd.mc_plot_risk_coverage(scores, path="output/triage_risk_coverage_python.png")
mcd.mc_plot_uncertainty(test, data.y_test, path="output/triage_uncertainty_python.png")
mcd.mc_plot_drift(monitor, path="output/triage_drift_python.png")
mcd.mc_report(test, data.x_test, data.y_test, policy, monitor=monitor, path="output/triage_report_python.html")
print("\nWritten to output/: triage_report_python.html (open it in a browser), the policy, four pictures")
