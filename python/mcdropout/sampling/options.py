"""The options of a model and of a prediction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..checks import as_whole_number, check_choice, check_count, check_flag, check_number, check_seed, entries, shown
from ..data.labels import Label
from ..predictions.outputs import Select
from ..predictions.prediction import MASKS

FIRST_ROUND = 10  # draws before the first comparison with `tolerance`; each further round adds about a half


def check_ids(ids: Any) -> list[Any]:
    """The ids as a list: whole numbers of 64 bits, or words."""
    checked = entries(ids)
    if checked is None:
        raise ValueError(f"`ids` must be whole numbers or words, one per input; got {shown(ids)}.")
    for value in checked:
        number = as_whole_number(value)
        if not (isinstance(value, str) or (number is not None and -(2**63) <= number < 2**63)):
            raise ValueError(f"`ids` must be whole numbers or words, one per input; got {shown(value)}.")
    return checked


@dataclass(frozen=True)
class ModelOptions:
    """How to run a model and what its outputs mean, as the user says it; each kind of model checks them."""

    outputs: str | None = None
    labels: Iterable[Label] | None = None
    select: Select | None = None
    precision: str = "float32"
    device: str | Sequence[str] = "auto"
    constants: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class SamplingOptions:
    """The options of one prediction, checked."""

    n_samples: int
    batch_size: int
    level: float
    masks: str
    tolerance: float | None
    keep_samples: bool
    workers: int | None
    seed: int

    @classmethod
    def checked(
        cls,
        n_samples: int,
        batch_size: int,
        level: float,
        masks: str,
        tolerance: float | None,
        keep_samples: bool,
        workers: int | None,
        seed: int | None,
    ) -> SamplingOptions:
        """The options, each argument checked in turn."""
        return cls(
            check_count(n_samples, "n_samples", at_least=2),
            check_count(batch_size, "batch_size"),
            check_number(level, "level", above=0, below=1),
            check_choice(masks, "masks", MASKS),
            None if tolerance is None else check_number(tolerance, "tolerance", above=0),
            check_flag(keep_samples, "keep_samples"),
            None if workers is None else check_count(workers, "workers"),
            check_seed(seed),
        )

    def rounds(self) -> list[range]:
        """The draws of each round: all in one round, or up to 10, 15, 22, 33, ... with `tolerance`."""
        ends = [self.n_samples]
        if self.tolerance is not None:
            ends, end = [], FIRST_ROUND
            while end < self.n_samples:
                ends.append(end)
                end += end // 2
            ends.append(self.n_samples)
        return [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]


@dataclass(frozen=True)
class SiteOptions:
    """Which kinds of randomness are sampled in addition to dropout."""

    stochastic_depth: bool
    gaussian_noise: bool

    @classmethod
    def checked(cls, stochastic_depth: bool, gaussian_noise: bool) -> SiteOptions:
        """The options, each argument checked."""
        return cls(check_flag(stochastic_depth, "stochastic_depth"), check_flag(gaussian_noise, "gaussian_noise"))
