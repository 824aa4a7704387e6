"""The outputs of a model and their meaning: class probabilities, or means with their noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checks import as_whole_number, check_choice, listed, shown
from ..data.labels import Label, as_label_set
from .prediction import SUM_TOLERANCE

OUTPUTS = ("logits", "probabilities", "values", "mean_log_variance")

Select = str | int | Callable[[Any], Tensor]


class CountedFromOne(int):
    """The position of a part, counted from 0, that messages show counted from 1 as in R."""

    def __repr__(self) -> str:
        return str(self + 1)


@dataclass
class Outputs:
    """The meaning of a model's outputs, checked once on a few inputs."""

    kind: str
    labels: tuple[Label, ...] = ()  # () for values, and until the number of labels is known from the first output
    select: Select | None = None
    label_axis: int = 1
    callers: Callable[[Tensor], Tensor] | None = None  # converts standardised values into the caller's units

    @classmethod
    def declared(
        cls, kind: str | None, labels: Iterable[Label] | None, select: Select | None, known: Outputs | None
    ) -> Outputs:
        """The meaning as the caller declares it, checked against the model's own (`known`), if it has one."""
        if known is not None and kind is not None and not (isinstance(kind, str) and kind == known.kind):
            raise ValueError(f'`outputs` is known for this model, "{known.kind}"; got {shown(kind)}.')
        if known is None and kind is None:
            words = ", ".join(f'"{kind}"' for kind in OUTPUTS)
            raise ValueError(f"`outputs` must say what `model` returns, one of {words}; got none.")
        named = known.labels if known is not None else ()
        if labels is not None:
            declared = as_label_set(labels)
            named = declared if known is None else _known_labels(declared, named)
        return cls(check_choice(known.kind if known else kind, "outputs", OUTPUTS), named, select)

    @property
    def task(self) -> str:
        """What is predicted: "classification" or "regression"."""
        return "classification" if self.kind in ("logits", "probabilities") else "regression"

    def tensor(self, result: Any) -> Tensor:
        """The selected tensor of the model's result."""
        if callable(self.select):
            result = self.select(result)
        elif self.select is not None:
            result = self._selected(result)
        elif self.kind == "logits" and isinstance(result, Mapping) and "logits" in result:
            result = result["logits"]  # the name that Hugging Face gives them
        if not isinstance(result, (Mapping, tuple, list)) and hasattr(result, "ndim"):  # a tensor of torch or Keras
            if "complex" in str(result.dtype):
                raise ValueError(
                    "`model` must return real numbers; got complex ones, of which `select` can take parts."
                )
            return result[..., None] if result.ndim == 1 else result  # one number for each input
        parts = _parts(result)
        if not parts:
            raise TypeError(f"`model` must return a tensor; got {shown(type(result).__name__)}.")
        raise TypeError(f"`model` returns several parts ({parts}); say which with `select`.")

    def _selected(self, result: Any) -> Any:
        number = as_whole_number(self.select)
        if isinstance(result, Mapping) and self.select in result:
            return result[self.select]
        if number is not None and isinstance(result, (tuple, list)) and 0 <= number < len(result):
            return result[number]
        if number is not None and isinstance(result, Mapping) and 0 <= number < len(result):
            return list(result.values())[number]
        parts = _parts(result) or "a tensor alone"
        raise ValueError(f"`select` must name a part of what `model` returns ({parts}); got {shown(self.select)}.")

    def check(self, result: Any, n_inputs: int) -> None:
        """Check that the outputs for `n_inputs` inputs fit the declared meaning."""
        out = self.tensor(result).float()
        if out.ndim < 2 or len(out) != n_inputs:
            raise ValueError(
                f"`model` must return (input, output) or more axes, one row for each input; got shape "
                f"{tuple(out.shape)} for {n_inputs} inputs; inputs lie along the first axis of `x`, and what belongs "
                "together, as a pair, is one input."
            )
        if out.numel() == 0:
            raise ValueError(f"`model` must return at least one number for an input; got shape {tuple(out.shape)}.")
        if self.task == "classification":
            self.label_axis = self._find_label_axis(out)
            unsound = (out.isnan() | out.isposinf()).flatten(1).any(dim=1)  # the draws will be checked for these
            if not bool(unsound.all()):
                self._check_meaning(out[~unsound].movedim(self.label_axis, -1))
            n_labels = max(2, out.shape[self.label_axis])
            self.labels = self.labels or tuple(range(n_labels))
            if len(self.labels) != n_labels:
                raise ValueError(
                    f"`labels` must name the {n_labels} outputs of `model`; got {len(self.labels)} labels."
                )
        elif self.kind == "mean_log_variance" and out.shape[-1] % 2:
            raise ValueError(
                f"`model` must return as many log variances as means; got {out.shape[-1]} columns, an odd number."
            )

    def _find_label_axis(self, out: Tensor) -> int:
        """The axis of the labels: the second of two axes, else the one axis that is as long as `labels`.

        With two labels, a single channel (the second axis or the last) holds the second label.
        """
        if out.ndim == 2:
            return 1
        fitting = [axis for axis in range(1, out.ndim) if out.shape[axis] == len(self.labels)]
        if len(self.labels) == 2:
            fitting += [axis for axis in (1, out.ndim - 1) if out.shape[axis] == 1]
        if len(fitting) == 1:
            return fitting[0]
        raise ValueError(
            f"`labels` must tell the axis of the classes in outputs of shape {tuple(out.shape)}; {len(self.labels)} "
            f"labels fit {len(fitting)} axes. Name all labels (two for a single channel), or give `select` a function "
            "that returns (input, label), or the labels along the one axis that is as long."
        )

    def _check_meaning(self, out: Tensor) -> None:
        """Refuse declared logits that are all probabilities, and declared probabilities that are none."""
        sums = out.sum(dim=-1)
        between = bool(((out >= 0) & (out <= 1)).all())
        single = out.shape[-1] == 1
        proper = between and (single or bool(torch.allclose(sums, torch.ones_like(sums), atol=SUM_TOLERANCE)))
        if self.kind == "logits" and proper and not single:
            raise ValueError(
                '`outputs` is "logits", but `model` returned probabilities (in [0, 1], summing to 1); '
                'set it to "probabilities".'
            )
        if self.kind == "probabilities" and not proper:
            if between:
                raise ValueError(
                    '`outputs` is "probabilities", but those of `model` do not sum to 1, as where several labels may '
                    'hold at once; take one label at a time by `select`, or set `outputs` to "values".'
                )
            raise ValueError(
                '`outputs` is "probabilities", but `model` returned numbers that are not (in [0, 1], summing to 1); '
                'set it to "logits" if they come before the softmax.'
            )

    def draws(self, out: Tensor) -> tuple[Tensor, Tensor | None]:
        """Probabilities (draw, input, ..., label) or means of raw outputs (draw, input, ...), and the noise variance.

        The noise variance is None if the model does not return one.
        """
        out = out.float() if self.callers is None else self.callers(out.double())
        if self.kind == "mean_log_variance":
            mean, log_variance = out.chunk(2, dim=-1)
            return mean, log_variance.exp()
        if self.kind == "values":
            return out, None
        # in memory (draw, label, input, ...), because summaries work on many inputs at once
        out = out.movedim(self.label_axis + 1, 1).contiguous()
        if out.shape[1] == 1:
            out = self._two_labels(out)
        elif self.kind == "logits":
            out = out.softmax(dim=1)
        return out.movedim(1, -1), None

    def _two_labels(self, out: Tensor) -> Tensor:
        if self.kind == "logits":
            return torch.cat([torch.sigmoid(-out), torch.sigmoid(out)], dim=1)
        return torch.cat([1 - out, out], dim=1)


def _known_labels(declared: tuple[Label, ...], known: tuple[Label, ...]) -> tuple[Label, ...]:
    """The labels of the network. The caller may repeat them in their order, as any type with the same text."""
    if [str(label) for label in declared] == [str(label) for label in known]:
        return known
    if not known:
        raise ValueError(f"`labels` must be left out where `model` is a network for values; got {listed(declared)}.")
    raise ValueError(
        f"`labels` must be left out, or be those of `model` in their order, {listed(known)}; got {listed(declared)}."
    )


def _parts(result: Any) -> str:
    """The parts of a model's result in words; "" if it has no parts."""
    if isinstance(result, Mapping):
        return ", ".join(f'"{name}"' for name in result)
    if isinstance(result, (tuple, list)):
        return f"{len(result)} without names"
    return ""
