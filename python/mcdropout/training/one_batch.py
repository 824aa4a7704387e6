"""`mc_train_on_batch()`: one training step on a batch of the caller."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn
from torch.optim import Optimizer

from ..checks import check_number
from ..data.rows import columns_of
from ..networks.frozen import FrozenNetwork
from ..networks.network import MCNetwork
from ..variational.layer import variational_layers
from .examples import Examples, examples, set_scales
from .fit import ModelState, device_of, on_device
from .losses import Objective, objective_of
from .optimizers import make_optimizer
from .recipes import are_equal, recipe_of
from .settings import MakeOptimizer
from .step import Learner, all_finite


def mc_train_on_batch(
    model: nn.Module,
    x: object,
    y: object,
    *,
    optimizer: str | MakeOptimizer | Optimizer | None = None,
    kl_weight: float | None = None,
) -> dict[str, float]:
    """Train for one step on one mini-batch, for loops of your own.

    Dropout depends on the network's seed and on the number of its steps so far, with any optimizer. An untrained
    network for tables or values takes its units from this batch.

    Args:
        model: As in `mc_fit()`.
        x: The inputs of the batch.
        y: Their labels or values.
        optimizer: As in `mc_fit()` (Adam with rate 0.001 by default), or a torch optimizer. The model keeps it from
            call to call, until a different one is passed. A function is called once; it counts as different if its
            code, or a value that it uses, differs.
        kl_weight: The weight of the KL divergence, which a network with Bayesian layers needs: one over the number of
            inputs of all batches of an epoch.

    Returns:
        The loss, and the accuracy or rmse, of the batch; with Bayesian layers also nll and kl.

    Raises:
        ValueError: For arguments that cannot be used.
        FloatingPointError: When the loss, a gradient or a weight is not finite. The step does not change the model,
            unless its learning rate is so large that it makes finite weights infinite.

    Examples:
        >>> import mcdropout as mcd
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(32, 4))
        >>> sorted(mcd.mc_train_on_batch(mcd.mc_mlp(4, task="regression"), x, x[:, 0]))
        ['loss', 'rmse']
    """
    objective = objective_of(model)
    if isinstance(model, FrozenNetwork):
        model, x = model.head, model.extract(x)
    variational = bool(variational_layers(model))
    if variational and kl_weight is None:
        raise ValueError(
            "`kl_weight` must be given for a network with variational layers; use one over the number of all training "
            "inputs."
        )
    weight = 0.0 if kl_weight is None else check_number(kl_weight, "kl_weight", at_least=0)
    rows, targets = examples(model, x, y, "x", "y")
    before = ModelState.of(model, weights="stepper" not in vars(model))
    try:
        if isinstance(model, MCNetwork):
            set_scales(model, rows, targets, np.arange(len(targets)))
            model.columns = model.columns or columns_of(rows)
        stepper = _stepper(model, objective, optimizer)
        device = stepper.learner.device
        seed = model.spec["seed"] if isinstance(model, MCNetwork) else 0
        batch = Examples.of(model, rows, targets, device)
        with on_device(model, device):
            stepper.learner.seed(seed, stepper.steps)
            model.train()
            stepper.learner.kl_weight = weight
            [(inputs, loss_targets)] = batch.batches(None, len(batch))
            result = stepper.learner.step(batch.prepared(inputs), loss_targets, check=True)
            quality = float(objective.quality(result.out, loss_targets))
            if not all_finite(model.parameters()):
                raise FloatingPointError(
                    "The weights of `model` must stay finite; they did not in this step. Use a smaller learning rate, "
                    "and start from a network whose weights are finite."
                )
    except BaseException:
        before.restore()
        raise
    stepper.steps += 1
    parts = {} if result.kl is None else {"nll": float(result.nll), "kl": float(result.kl)}
    return {"loss": float(result.loss), objective.metric: objective.shown_quality(quality), **parts}


@dataclass
class _Stepper:
    """The state that `mc_train_on_batch()` keeps on a model from call to call; files do not contain it."""

    argument: object  # `optimizer`, as the caller passed it
    recipe: object
    learner: Learner
    steps: int = 0


def _stepper(model: nn.Module, objective: Objective, optimizer: object) -> _Stepper:
    previous = getattr(model, "stepper", None)
    previous = previous if isinstance(previous, _Stepper) else None
    if optimizer is None:
        if previous is not None:
            return previous
        optimizer = "adam"
    if previous is not None and (optimizer is previous.argument or are_equal(recipe_of(optimizer), previous.recipe)):
        return previous
    learner = Learner(model, objective, make_optimizer(model, optimizer), None, "float32", device_of(model))
    steps = 0 if previous is None else previous.steps  # a new optimizer must not repeat the masks of earlier steps
    stepper = _Stepper(optimizer, recipe_of(optimizer), learner, steps)
    model.stepper = stepper  # type: ignore[assignment]  # a plain attribute, outside the state dict
    return stepper
