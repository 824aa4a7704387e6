"""The table of sites, and the warnings about a model's randomness."""

from __future__ import annotations

import pandas as pd

from .probe import Probe
from .site import RATED_KINDS, Site


def sites_table(probe: Probe) -> pd.DataFrame:
    """One row per site: its name, operation, rate, and the shape of the mask of one input."""
    sites = [site for site in probe.sites.values() if site.kind != "start"]
    return pd.DataFrame(
        {
            "site": [site.name for site in sites],
            "operation": [site.operation for site in sites],
            "rate": [site.rate for site in sites],
            "shape": [_shape_text(site) for site in sites],
        }
    )


def _shape_text(site: Site) -> str:
    """The shape of the mask of one input, without the axis of the inputs."""
    sizes = [size for axis, size in enumerate(site.shape) if axis != site.axis or size > 1]
    return " x ".join(str(size) for size in sizes) or "1"


def caveats_on(probe: Probe) -> list[str]:
    """Sentences on randomness that the spread leaves out, and on what else the draws depend on."""
    caveats = []
    if probe.own_randomness:
        caveats.append(
            "`model` draws random numbers of its own besides dropout that cannot be keyed by input, by "
            f"{', '.join(probe.own_randomness)}; they depend on `batch_size` too."
        )
    if probe.training_randomness:
        caveats.append(
            "`model` draws random numbers of its own when training, besides dropout, by "
            f"{', '.join(probe.training_randomness)}; they are left out."
        )
    if probe.training_noise:
        caveats.append(
            f"`model` draws normal numbers when training, by {', '.join(probe.training_noise)}; they are left out "
            "unless `gaussian_noise` is true."
        )
    if probe.mixes_inputs:
        caveats.append(
            "`model` gives an input other numbers when other inputs come with it, so results depend on `batch_size`; "
            "leave out what looks at the whole batch."
        )
    if probe.keeps_state:
        caveats.append(
            "`model` keeps something of one batch for the next, so results depend on `batch_size`; let its `forward` "
            "start anew each time."
        )
    return caveats


LOWEST, HIGHEST = 0.1, 0.7  # outside these rates the spread of a classifier says little


def advice_on(probe: Probe, classifier: bool) -> list[str]:
    """Sentences on properties of the model that are likely to make the spread of the draws say little."""
    advice = []
    before, after = probe.layers
    if before > 1 and after <= 1:
        advice.append(
            "`model` has dropout before its last layer alone, so the draws differ in that layer only and uncertainty "
            "about all before it goes unseen; add dropout after the other layers and train again."
        )
    sites = [site for site in probe.sites.values() if site.kind in RATED_KINDS and classifier]
    for bad, words in (
        (
            [site for site in sites if site.rate < LOWEST],
            f"under {LOWEST}, where the draws of a classifier hardly differ",
        ),
        ([site for site in sites if site.rate > HIGHEST], f"over {HIGHEST}, where little of a classifier is left"),
    ):
        if bad:
            names = ", ".join(f"{site.name} ({site.rate:g})" for site in bad[:3])
            more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
            advice.append(
                f"`model` has dropout rates {words}: {names}{more}; `mc_compare_rates()` tells which predicts best."
            )
    return advice
