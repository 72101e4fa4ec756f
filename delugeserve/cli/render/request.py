"""What ``train`` is about to do: network, data, classes, splits and recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from delugeserve.cli.render.console import err_console
from delugeserve.cli.render.recipe import print_recipe
from delugeserve.data.labels import list_names

if TYPE_CHECKING:
    from delugeserve.data.catalogue import Catalogue
    from delugeserve.training.config import RunConfig
    from delugeserve.training.request import Request


def print_request(request: Request, processes: int) -> None:
    """Print what is trained, on what and how.

    Args:
        request: the run.
        processes: number of processes that train together.
    """
    config, spec = request.config, request.spec
    size = f"{spec.task.image_size}x{spec.task.image_size}"
    name = "" if spec.name == config.model else f"[bold]{escape(spec.name)}[/]: "
    several = f", {processes} processes" if processes > 1 else ""
    limit = f", {config.limit:,} training images at most" if config.limit else ""
    resumed = f", resumed in {escape(str(request.output))}" if request.resume else ""
    err_console.print(
        f"{name}[bold]{config.model}[/] on {escape(config.data)}, {size} pixels, "
        f"{config.precision}, seed {config.seed}{limit}{several}{resumed}"
    )
    if config.task is not None:
        _print_task(request)
    if request.catalogue is not None and (config.val_fraction or config.task is not None):
        err_console.print(f"  {'validation':<15}  {_validation(request.catalogue, config)}")
    if config.freeze:
        err_console.print(f"  {'frozen':<15}  all weights but the classifier's")
    print_recipe(config)


def _print_task(request: Request) -> None:
    task = request.spec.task
    chosen = request.task
    origin = f" ({chosen.normalised_by})" if chosen is not None else ""
    mean, std = (" ".join(f"{value:g}" for value in values) for values in (task.mean, task.std))
    side = task.image_size
    resize = f"shorter side resized to {task.resize_size}, " if task.resize_size != side else ""
    rows = {
        "classes": f"{task.num_classes}: {list_names(task.class_names)}",
        "images": f"{resize}centre of {side}x{side} pixels",
        "normalised by": f"mean {mean}, standard deviation {std}{origin}",
    }
    for name, text in rows.items():
        err_console.print(f"  {name:<15}  {escape(text)}")
    if chosen is not None and chosen.note:
        err_console.print(f"  {'note':<15}  {escape(chosen.note)}")


def _validation(catalogue: Catalogue, config: RunConfig) -> str:
    own = catalogue.held_out is None
    part = f"{100 * config.val_fraction:g} % of the training images, held out"
    what = "the validation split" if own else part
    if "test" not in catalogue.splits:
        return f"{what}; there is no test split"
    return f"{what}; the test split is read once, at the end"
