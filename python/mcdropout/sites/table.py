"""The table of sites, and the sentences on what a model draws that cannot be keyed."""

from __future__ import annotations

import pandas as pd

from .probe import Probe
from .site import RATED_KINDS, Site


def sites_table(found: Probe) -> pd.DataFrame:
    """One row per site: where, what, at which rate, the mask of one input."""
    sites = [site for site in found.sites.values() if site.kind != "start"]
    return pd.DataFrame(
        {
            "site": [site.name for site in sites],
            "operation": [site.operation for site in sites],
            "rate": [site.rate for site in sites],
            "shape": [_shape_text(site) for site in sites],
        }
    )


def _shape_text(site: Site) -> str:
    """The mask of one input, without the axis that counts the inputs."""
    kept = [size for axis, size in enumerate(site.shape) if axis != site.axis or size > 1]
    return " x ".join(str(size) for size in kept) or "1"


def caveats_on(found: Probe) -> list[str]:
    """What the spread of the draws leaves out, and what else it depends on, one sentence each."""
    caveats = []
    if found.own_randomness:
        caveats.append(
            "`model` draws random numbers of its own besides dropout that cannot be keyed by input, by "
            f"{', '.join(found.own_randomness)}; they depend on `batch_size` too."
        )
    if found.training_randomness:
        caveats.append(
            "`model` draws random numbers of its own when training, besides dropout, by "
            f"{', '.join(found.training_randomness)}; they are left out."
        )
    if found.training_noise:
        caveats.append(
            f"`model` draws normal numbers when training, by {', '.join(found.training_noise)}; they are left out "
            "unless `gaussian_noise` is true."
        )
    if found.mixes_inputs:
        caveats.append(
            "`model` gives an input other numbers when other inputs come with it, so results depend on `batch_size`; "
            "leave out what looks at the whole batch."
        )
    if found.keeps_state:
        caveats.append(
            "`model` keeps something of one batch for the next, so results depend on `batch_size`; let its `forward` "
            "start anew each time."
        )
    return caveats


LOWEST, HIGHEST = 0.1, 0.7  # rates of a classifier outside of which its spread says little


def advice_on(found: Probe, classifier: bool) -> list[str]:
    """What is likely to make the spread of the draws say little, one sentence each."""
    advice = []
    before, after = found.layers
    if before > 1 and after <= 1:
        advice.append(
            "`model` has dropout before its last layer alone, so the draws differ in that layer only and uncertainty "
            "about all before it goes unseen; add dropout after the other layers and train again."
        )
    sites = [site for site in found.sites.values() if site.kind in RATED_KINDS and classifier]
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
