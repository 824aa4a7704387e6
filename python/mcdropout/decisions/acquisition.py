"""`mc_acquire()`: choose the inputs to label next, those that would teach the network most. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import entr

from ..checks import check_choice, check_count, check_seed, warn
from ..predictions.prediction import Array, MCPrediction
from ..predictions.truth import check_classes
from ..predictions.uncertainty import CLASS_MEASURES, measured

N_OUTCOMES = 2_000  # a batch with more possible outcomes gets this many random ones

N_AT_ONCE = 256  # candidates whose information is computed together

TOLD_APART = 0.98  # share of the information in the draws; inputs chosen beyond it are chosen almost by chance


def mc_acquire(
    prediction: MCPrediction,
    n: int,
    *,
    by: str = "mutual_information",
    seed: int | None = 0,
) -> pd.DataFrame:
    """Choose the inputs to label next, the most useful input first.

    Where inputs resemble each other (frames of a video, copies), single measures choose many similar inputs, which may
    teach less than a random choice. "batchbald" avoids that. Where all inputs are different and all labels equally
    frequent, no method is certain to be much better than a random choice.

    Args:
        prediction: The prediction of the inputs without labels.
        n: Number of inputs to choose.
        by: A measure of uncertainty: "mutual_information" (BALD), "predictive_entropy", "variation_ratio",
            "least_confidence", "smallest_margin", "std" or "expected_entropy". Inputs with equal values keep their
            order. Or "batchbald": the inputs whose labels together tell most about the network, so that a batch does
            not contain n similar inputs. It needs the draws, with masks shared by all inputs. The information of a
            batch cannot exceed log(number of draws); a warning says from which input on the choice is made by chance.
            Use 100 draws or more for batches of ten.
        seed: Seed for "batchbald". If a batch has more than 2,000 possible outcomes, its information is estimated from
            a random sample of them.

    Returns:
        A table with columns input (position in the prediction, from 0), id (where the prediction has ids) and score:
        the measure, or for "batchbald" the information, in nats, of the batch up to this input about the network.

    Raises:
        ValueError: If `n` exceeds the number of inputs, if the prediction is of values, or if "batchbald" has no shared
            draws.

    References:
        Houlsby et al. (2011), arXiv:1112.5745 (BALD). Kirsch, van Amersfoort and Gal (2019), arXiv:1906.08158
        (BatchBALD).

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(300, 4))
        >>> y = np.where(x[:, 0] > 0, "yes", "no")
        >>> net = mcd.mc_fit(
        ...     mcd.mc_mlp(4, ["no", "yes"], seed=1), x, y, epochs=5, learning_rate=0.02, seed=1, progress=False
        ... )
        >>> prediction = mcd.mc_predict(net, x, 20, seed=1, progress=False)
        >>> len(mcd.mc_acquire(prediction, 5))
        5
    """
    prediction = check_classes(prediction, "")
    n = check_count(n, "n")
    if n > len(prediction):
        raise ValueError(f"`n` must be at most the number of inputs, {len(prediction)}; got {n}.")
    check_choice(by, "by", (*CLASS_MEASURES, "batchbald"))
    seed = check_seed(seed)
    if by == "batchbald":
        draws = _shared_draws(prediction)
        expected, single = (measured(prediction, measure) for measure in ("expected_entropy", "mutual_information"))
        chosen, scores = _batch(draws, expected, single, n, np.random.default_rng(seed))
        _warn_if_told_apart(scores, len(draws))
    else:
        uncertainty = measured(prediction, by)
        chosen = np.argsort(-uncertainty, kind="stable")[:n]
        scores = uncertainty[chosen]
    ids = {} if prediction.ids is None else {"id": prediction.ids[chosen]}
    return pd.DataFrame({"input": chosen, **ids, "score": scores})


def _warn_if_told_apart(information: Array, n_draws: int) -> None:
    """Warn if the first inputs already give nearly all information that N draws contain, which is log N."""
    enough = np.flatnonzero(information >= TOLD_APART * np.log(n_draws))
    if len(enough) and enough[0] + 1 < len(information):
        warn(
            f"Of the {len(information)} inputs the first {enough[0] + 1} already tell the {n_draws} draws apart, so "
            "the others are chosen almost by chance. Predict with a larger `n_samples`, or choose fewer inputs."
        )


def _shared_draws(prediction: MCPrediction) -> Array:
    """The draws, (draw, input, label), if each of them is the same network for all inputs."""
    if prediction.samples is None:
        raise ValueError('`prediction` must hold its draws for "batchbald"; predict with `keep_samples` set to true.')
    if prediction.masks != "shared" or np.isnan(prediction.samples).any():
        raise ValueError(
            '`prediction` must have draws that are shared by all inputs for "batchbald"; predict with `masks` '
            '"shared" and without `tolerance`.'
        )
    return prediction.samples.astype(np.float64)


def _batch(draws: Array, expected: Array, single: Array, n: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Greedy choice by joint information: the positions, and the information of the batch up to each of them.

    expected: (input,), entropy of the label if the network is known. single: (input,), information of an input alone.
    """
    candidates = np.argsort(-single, kind="stable")
    chosen: list[int] = []
    gains: list[float] = []
    outcomes = _Outcomes.none(len(draws))
    for _ in range(n):
        best, winner = -np.inf, -1
        for start in range(0, len(candidates), N_AT_ONCE):
            piece = candidates[start : start + N_AT_ONCE]
            if single[piece[0]] <= best:
                break  # the gain of an input is at most its single information, which falls along the candidates
            gain = outcomes.entropy_of(draws[:, piece]) - expected[piece]
            if gain.max() > best:
                best, winner = float(gain.max()), int(piece[gain.argmax()])
        chosen.append(winner)
        gains.append(best)
        candidates = candidates[candidates != winner]
        outcomes = outcomes.extended(draws, chosen, rng)
    # the information of labels about N draws is at most log N; an estimate of it can be larger
    return np.array(chosen), np.minimum(np.cumsum(gains), np.log(len(draws)))


@dataclass(frozen=True)
class _Outcomes:
    """Joint labels of the chosen inputs: all possible ones, or random ones from their distribution."""

    given_draw: Array  # (draw, outcome): probability under each network
    complete: bool

    @classmethod
    def none(cls, n_draws: int) -> _Outcomes:
        return cls(np.ones((n_draws, 1)), True)

    def entropy_of(self, draws: Array) -> Array:
        """Mean entropy of the label of each input if the outcome is known, (input,), in nats."""
        n_draws, n_inputs, n_labels = draws.shape
        probability = self.given_draw.mean(axis=0)
        possible = probability > 0
        posterior = self.given_draw[:, possible] / (n_draws * probability[possible])  # (draw, outcome)
        labels = (posterior.T @ draws.reshape(n_draws, -1)).reshape(-1, n_inputs, n_labels)
        entropies = entr(labels).sum(axis=2)  # (outcome, input)
        return probability[possible] @ entropies if self.complete else entropies.mean(axis=0)

    def extended(self, draws: Array, chosen: list[int], rng: np.random.Generator) -> _Outcomes:
        """The outcomes, extended by the label of the input chosen last."""
        if self.complete and self.given_draw.shape[1] * draws.shape[2] <= N_OUTCOMES:
            extended = self.given_draw[:, :, None] * draws[:, None, chosen[-1], :]
            return _Outcomes(extended.reshape(len(draws), -1), True)
        return _Outcomes.drawn(draws[:, chosen], rng)

    @classmethod
    def drawn(cls, draws: Array, rng: np.random.Generator) -> _Outcomes:
        """A random sample of the joint distribution: each network equally often, with labels drawn from it.

        draws: (draw, input, label), of the chosen inputs.
        """
        networks = np.repeat(np.arange(len(draws)), -(-N_OUTCOMES // len(draws)))
        given_draw = np.ones((len(draws), len(networks)))
        for place in range(draws.shape[1]):
            cumulative = draws[:, place].cumsum(axis=1)
            uniform = rng.random(len(networks))[:, None] * cumulative[networks, -1:]
            labels = (uniform >= cumulative[networks]).sum(axis=1)
            given_draw *= draws[:, place][:, labels]
        return cls(given_draw, False)
