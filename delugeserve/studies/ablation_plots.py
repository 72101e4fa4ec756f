"""The plot of an ablation: errors by network with their spread, and learning curves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from delugeserve.plotting import new_figure
from delugeserve.studies.ablation import Ablation
from delugeserve.studies.trials import is_run_of
from delugeserve.training.curves import epoch_marker, set_scales

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_ablation(ablation: Ablation) -> Figure:
    """Draw each seed's error, the mean with its standard deviation, and the mean learning curves.

    A line joins the runs of one seed. The band around a curve spans the best to the worst seed.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = new_figure(10, 4.5)
    axes: Any
    curves: Any
    axes, curves = figure.subplots(1, 2)
    _draw_errors(axes, ablation)
    _draw_curves(curves, ablation)
    for panel, title in ((axes, "final test error"), (curves, "test error by epoch")):
        panel.set_title(f"{title} in percent", loc="left", fontsize=10)
        panel.grid(alpha=0.3)
        panel.set_axisbelow(True)
    recipe = ablation.settings["recipe"]
    figure.suptitle(
        f"{ablation.networks[0].name} on {Path(ablation.settings['data']).name}, "
        f"{recipe['name']}, {recipe['epochs']} epochs",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    return figure


def _draw_errors(axes: Any, ablation: Ablation) -> None:
    networks = ablation.networks
    for seed in sorted({seed for network in networks for seed in network.errors}):
        joined = [network.errors.get(seed, np.nan) for network in networks]
        axes.plot(range(len(networks)), joined, color="0.8", linewidth=1, zorder=1)
    for place, network in enumerate(networks):
        errors = list(network.errors.values())
        axes.plot([place] * len(errors), errors, "o", color=f"C{place}", alpha=0.6)
        if network.mean is not None:
            # Next to the points, so that neither hides the other.
            axes.errorbar(
                place + 0.15,
                network.mean,
                yerr=network.deviation,
                fmt="_",
                markersize=14,
                capsize=4,
                color=f"C{place}",
            )
    names = [network.name.replace("_cifar", "\n_cifar") for network in networks]
    axes.set_xticks(range(len(networks)), names, fontsize=9)
    axes.set_xlim(-0.5, len(networks) - 0.5)


def _draw_curves(axes: Any, ablation: Ablation) -> None:
    for place, network in enumerate(ablation.networks):
        logs = [run.epochs for run in ablation.finished if is_run_of(run.name, network.name)]
        if not logs:
            continue
        # All have the same number of epochs.
        errors = np.array([[epoch.val_error for epoch in log] for log in logs])
        epochs = range(1, errors.shape[1] + 1)
        axes.plot(
            epochs,
            errors.mean(axis=0),
            marker=epoch_marker(len(epochs)),
            markersize=4,
            color=f"C{place}",
            label=network.name,
        )
        low, high = errors.min(axis=0), errors.max(axis=0)
        axes.fill_between(epochs, low, high, color=f"C{place}", alpha=0.2, linewidth=0)
    set_scales(axes)
    axes.set_xlabel("epoch")
    axes.legend()
