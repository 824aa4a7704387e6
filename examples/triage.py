# Triage: the network decides the certain images and refers the others to a person. The thresholds are learnt on images
# that were held out from training, and checked on test images. A monitor reports when new images differ from those.
# triage.R does the same.
import argparse
from pathlib import Path

import numpy as np
from scipy import stats

import mcdropout as mcd

options = argparse.ArgumentParser()
options.add_argument("--epochs", type=int, default=8)
options.add_argument("--draws", type=int, default=50)
arguments = options.parse_args()

# Fashion-MNIST: images of clothes. Every third image is held out from training. On images of the training the network
# makes fewer errors than on new ones, so a policy learnt on them would accept too many.
data = mcd.mc_sample_data()
held_out = np.arange(len(data.x_train)) % 3 == 0
x_train, y_train = data.x_train[~held_out], data.y_train[~held_out]
x_calibration, y_calibration = data.x_train[held_out], data.y_train[held_out]

net = mcd.mc_cnn((28, 28, 1), labels=data.labels)
net = mcd.mc_fit(net, x_train, y_train, epochs=arguments.epochs, batch_size=128, seed=1, progress=True)
calibration = mcd.mc_predict(net, x_calibration, n_samples=arguments.draws, seed=1, progress=True)
test = mcd.mc_predict(net, data.x_test, n_samples=arguments.draws, seed=1, progress=True)

# Scores of the predictions, and of their uncertainty as a detector of errors.
scores = mcd.mc_scores(test, data.y_test)
print(scores)

# The error rate among the accepted images is at most 10 %, with a confidence of 95 %.
policy = mcd.mc_triage(calibration, y_calibration, max_error=0.10, confidence=0.95)
print()
print(policy)

# The result on the test images, which were not used so far.
decisions = mcd.mc_decide(policy, test)
accepted = (decisions["tier"] == "accept").to_numpy()
wrong = decisions["predicted"].to_numpy() != data.y_test
print(f"\nOf {len(test)} test images {accepted.sum()} ({accepted.mean():.0%}) are accepted.")
print(f"Error rate of all images: {wrong.mean():.1%}; of the accepted: {wrong[accepted].mean():.1%}.")
low, high = stats.binomtest(int(wrong[accepted].sum()), int(accepted.sum())).proportion_ci()
print(f"The bound of 10.0% holds for future images; the 95% interval from these images is {low:.1%} to {high:.1%}.")
print(f"Error rate of the referred: {wrong[~accepted].mean():.1%}.")

# The data change: after the test images come images that are transposed, as from a camera that was turned.
monitor = mcd.mc_monitor(calibration, measure="mutual_information", false_alarm_rate=0.01)
for first in range(0, len(test), 250):
    monitor.update(test[first : first + 250], name="upright")
turned = mcd.mc_predict(net, data.x_test[:250].transpose(0, 2, 1, 3), n_samples=arguments.draws, seed=1, progress=True)
monitor.update(turned, name="turned")
print()
print(monitor)

# Files: the policy, which both languages open; plots; a report with every image, the most uncertain first.
Path("output").mkdir(exist_ok=True)
mcd.mc_save(policy, "output/triage_policy_python.json")
mcd.mc_plot_reliability(scores, path="output/triage_reliability_python.png")
mcd.mc_plot_risk_coverage(scores, path="output/triage_risk_coverage_python.png")
mcd.mc_plot_uncertainty(test, data.y_test, path="output/triage_uncertainty_python.png")
mcd.mc_plot_drift(monitor, path="output/triage_drift_python.png")
mcd.mc_report(test, data.x_test, data.y_test, policy, monitor=monitor, path="output/triage_report_python.html")
print("\nWritten to output/: triage_report_python.html (open it in a browser), the policy and four plots")
