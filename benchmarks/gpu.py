"""One NVIDIA GPU: memory bandwidth, the networks in every runtime, the cross-layer sums.

    python benchmarks/gpu.py [--models delugenet38,delugenet146,delugenet92] [--rounds 9]
    python benchmarks/gpu.py --device cpu

Without a GPU, or with `--device cpu`, only the sums are measured, on the CPU. Needs the extra
`export`. TensorRT, TensorRT-RTX and onnxruntime-gpu are measured if they are installed.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import common
import cross_layer_sums as sums
import numpy as np
import onnxruntime
import torch
from torch import Tensor

from delugeserve.artifacts.interface import INPUT, LOGITS, PROBABILITIES, FloatType, Infer
from delugeserve.errors import ParityError, UsageError
from delugeserve.networks.classifier import network_classifier, normalise
from delugeserve.networks.inference import FoldedDelugeNet, fold
from delugeserve.runtimes import BACKENDS
from delugeserve.runtimes.base import Backend, BuildOptions
from delugeserve.system import hardware
from delugeserve.verification.parity import BUDGETS, compare
from delugeserve.zoo import ModelSpec, find_model
from delugeserve_export.graph import build_graph
from delugeserve_export.samples import sample_images
from delugeserve_export.source import load_source, untrained_source

METHOD = """Memory: a copy of 256 MiB within the GPU's memory; bytes read and written both count.
Networks: every contestant takes uint8 images in host memory and returns logits and probabilities
there, so the time includes the copies to the GPU and back; 'copies only' is the time of those. A
contestant is measured if its logit error is within the exporter's budget for its precision. PyTorch
runs the folded network in channels-last format, eagerly and compiled with CUDA graphs. Plans are
built and loaded as the exporter does. In each round a contestant runs one batch that is not timed,
then whole batches until its time is up, at least two; the result is their mean.
Sums: the blocks of DelugeNet-92, batch 32, in bf16. Forward: L outputs are summed. Backward: an
output gets its gradient from the R sums that read it, and their weights get theirs. GB/s count
every input and result once, whatever a contestant really moves. 'plain' is the chain of addcmul,
'autograd' its backward pass, 'compiled' the fused kernels. Tensors are used in turn, so that none
is in a cache. A GPU is timed by CUDA events, with its work queued beforehand. The ratio to the
copy's GB/s in the same round is the fraction of the memory roofline."""

NETWORK = "delugenet92"
BATCH = 32
BATCHES = (1, 8, 32)
COPY, COPIES = "copy", "copies only"
PACKAGES = ("onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "triton")

Result = TypeVar("Result")


def missing_gpu() -> str | None:
    """Return why PyTorch cannot use a GPU here; None if it can."""
    if not hardware.usable_gpus():
        return "this machine has no NVIDIA GPU that CUDA may use"
    if not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} cannot use the GPU"
    return None


def attempt(name: str, action: Callable[[], Result], left_out: dict[str, str]) -> Result | None:
    """Return the result of an action; if it fails, record the reason and return None."""
    try:
        return action()
    except Exception as error:  # a failure of one runtime must not stop the others
        left_out[name] = f"{error}".strip().partition("\n")[0] or type(error).__name__
        common.out.print(f"{name}: skipped. {left_out[name]}", highlight=False, markup=False)
        return None


def measure_memory(chosen: Any) -> dict[str, Any]:
    found, gpu = torch.cuda.get_device_properties(0), hardware.usable_gpus()[0]
    facts = {
        "GPU": found.name,
        "driver": gpu.driver,
        "CUDA": torch.version.cuda,
        "compute capability": f"{found.major}.{found.minor}",
        "multiprocessors": found.multi_processor_count,
        "memory": f"{found.total_memory >> 20} MiB",
    }
    for key, value in facts.items():
        common.out.print(f"{key}: {value}", highlight=False, markup=False)
    work = sums.copy_work("cuda", sums.SPAN)
    run = partial(sums.gigabytes_per_s, work, sums.CLOCKS["cuda"], chosen.seconds)
    samples = common.interleave("memory", {COPY: run}, chosen.rounds)
    common.out.print(f"memory, read and written: {common.spread(samples[COPY], ',.0f')} GB/s")
    return {"gpu": facts, "unit": "GB/s", "samples": samples}


def torch_engine(folded: FoldedDelugeNet, spec: ModelSpec, *, compiled: bool) -> Infer:
    network: Any = copy.deepcopy(folded).to("cuda", torch.float16)
    network = network.to(memory_format=torch.channels_last)
    mean = torch.tensor(spec.task.mean, device="cuda")
    std = torch.tensor(spec.task.std, device="cuda")

    def forward(images: Tensor) -> tuple[Tensor, Tensor]:
        logits = network(normalise(images, mean, std).half()).float()
        return logits, logits.softmax(dim=1)

    if compiled:
        # PyTorch compiles a function at most eight times, so discard those of other models.
        torch.compiler.reset()
        # Compile for each batch size, as if it were the only one.
        forward = torch.compile(forward, mode="reduce-overhead", dynamic=False)

    def infer(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            logits, probabilities = forward(torch.from_numpy(images).cuda())
        return logits.cpu().numpy(), probabilities.cpu().numpy()

    return infer


def onnxruntime_engine(folded: FoldedDelugeNet, spec: ModelSpec) -> Infer:
    provider = "CUDAExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise UsageError(
            f"The installed onnxruntime has no {provider}.",
            "Install onnxruntime-gpu instead.",
        )
    graph = build_graph(folded, spec.task, float_type="fp16")
    options = onnxruntime.SessionOptions()
    # Otherwise operators that CUDA cannot run, or all of them, run on the CPU.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = onnxruntime.InferenceSession(
        graph, options, providers=[provider], enable_fallback=False
    )

    def infer(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, probabilities = session.run([LOGITS, PROBABILITIES], {INPUT: images})
        return logits, probabilities

    return infer


def plan_engine(
    folded: FoldedDelugeNet, spec: ModelSpec, backend: Backend, precision: FloatType, folder: Path
) -> Infer:
    graph = build_graph(folded, spec.task, sum_form=backend.sum_form, float_type=precision)
    place = folder / f"{spec.name}-{backend.name}-{precision}"
    place.mkdir()
    plan = backend.build(graph, place, BuildOptions(max_batch_size=max(BATCHES)))
    return backend.load(plan, precision)


def loaders(
    folded: FoldedDelugeNet, spec: ModelSpec, folder: Path
) -> Iterator[tuple[str, FloatType, Callable[[], Infer]]]:
    """Yield name, precision and loading function of every contestant."""
    for title, compiled in (("eager", False), ("compiled", True)):
        load = partial(torch_engine, folded, spec, compiled=compiled)
        yield f"PyTorch {title} fp16", "fp16", load
    yield "ONNX Runtime CUDA fp16", "fp16", partial(onnxruntime_engine, folded, spec)
    precisions: tuple[FloatType, ...] = ("fp16", "bf16")
    for backend in (BACKENDS["tensorrt"], BACKENDS["tensorrt_rtx"]):
        for precision in precisions:
            load = partial(plan_engine, folded, spec, backend, precision, folder)
            yield f"{backend.title} {precision}", precision, load


def load_engines(
    spec: ModelSpec, images: np.ndarray, folder: Path, left_out: dict[str, str]
) -> tuple[dict[str, Infer], dict[str, float]]:
    """Return the contestants that run here, and their logit errors."""
    source = load_source(spec, None) or untrained_source(spec, images)
    reference = network_classifier(source.network, spec.task)(images)

    def prove(load: Callable[[], Infer], precision: FloatType) -> tuple[Infer, float]:
        infer, budget = load(), BUDGETS[precision]
        allowed = budget.error if source.trained else budget.untrained_error
        error = compare(infer, images, reference, 8, precision).relative_error
        if not error <= allowed:
            raise ParityError(
                f"The relative logit error is {error:.2g}; at most {allowed:g} is allowed.",
                "Report this with the versions printed above.",
            )
        return infer, error

    proved = {
        name: pair
        for name, precision, load in loaders(fold(source.network), spec, folder)
        if (pair := attempt(f"{spec.name}, {name}", partial(prove, load, precision), left_out))
    }
    return (
        {name: infer for name, (infer, _) in proved.items()},
        {name: error for name, (_, error) in proved.items()},
    )


def copies_alone(images: np.ndarray, num_classes: int) -> Callable[[np.ndarray], Any]:
    answers = torch.zeros(2, len(images), num_classes, device="cuda")

    def run(images: np.ndarray) -> Any:
        torch.from_numpy(images).cuda()
        return [answer[: len(images)].cpu() for answer in answers]

    return run


def measure_networks(chosen: Any) -> Iterator[dict[str, Any]]:
    for spec in map(find_model, chosen.models):
        images, _ = sample_images(spec.task, max(BATCHES))
        left_out: dict[str, str] = {}
        with tempfile.TemporaryDirectory() as folder:
            engines, errors = load_engines(spec, images, Path(folder), left_out)
            engines[COPIES] = copies_alone(images, spec.task.num_classes)
            for batch in BATCHES:
                title = f"{spec.name}, batch {batch}"
                contestants = {
                    name: partial(common.milliseconds, infer, images[:batch], chosen.seconds)
                    for name, infer in engines.items()
                    # The first batch of a size allocates memory, may compile, and may not fit.
                    if attempt(f"{title}, {name}", partial(infer, images[:batch]), left_out)
                }
                samples = common.interleave(title, contestants, chosen.rounds)
                show_networks(title, batch, samples, errors)
                yield {
                    "model": spec.name,
                    "batch": batch,
                    "unit": "ms",
                    "samples": samples,
                    "logit_errors": errors,
                    "left_out": left_out,
                }


def show_networks(
    title: str, batch: int, samples: common.Samples, errors: Mapping[str, float]
) -> None:
    base = next(iter(samples))
    rows = [
        (
            name,
            common.spread(samples[name], ".3f"),
            f"{1e3 * batch / common.median_of(samples, name):,.0f}",
            common.ratio(samples, base, name),
            f"{errors[name]:.2g}" if name in errors else "",
        )
        for name in samples
    ]
    columns = ("", "ms a batch", "images/s", f"speed over {base}", "logit error")
    common.show(title, columns, rows)


def measure_sums(chosen: Any, device: str) -> Iterator[dict[str, Any]]:
    kernels, clock = sums.available_kernels(device), sums.CLOCKS[device]
    span, batch = (1 << 22, 2) if chosen.quick else (sums.SPAN, BATCH)
    copying = sums.copy_work(device, span)
    shapes = list(sums.block_shapes(find_model(NETWORK), batch))
    for shape, outputs in shapes[-1:] if chosen.quick else shapes:
        tensors = sums.draw_tensors(shape, outputs + 1, span, device)
        # The sums of a block read 2, 3, ... and finally all of its outputs. Its outputs are read by
        # all of these sums, by all but one, ... and finally by one.
        for symbol, make, numbers in (
            ("L", sums.forward_work, range(2, outputs + 1)),
            ("R", sums.backward_work, range(1, outputs)),
        ):
            direction = make.__name__.partition("_")[0]
            title = f"{direction}, {' x '.join(map(str, shape))}"
            found: dict[int, common.Samples] = {}
            for number in (numbers[0], numbers[-1]) if chosen.quick else numbers:
                works = {COPY: copying, **make(tensors, number, kernels)}
                contestants = {
                    name: partial(sums.gigabytes_per_s, work, clock, chosen.seconds)
                    for name, work in works.items()
                }
                label = f"{title}, {symbol} {number}"
                found[number] = common.interleave(label, contestants, chosen.rounds)
                yield {
                    "direction": direction,
                    "shape": shape,
                    symbol: number,
                    "unit": "GB/s",
                    "samples": found[number],
                }
            show_sums(title, symbol, found)


def show_sums(title: str, symbol: str, found: Mapping[int, common.Samples]) -> None:
    names = [name for name in next(iter(found.values())) if name != COPY]
    rows = [
        (
            f"{number}",
            *(f"{common.median_of(samples, name):,.1f}" for name in (COPY, names[-1])),
            *(common.ratio(samples, name, COPY) for name in names),
            common.ratio(samples, names[-1], names[0]),
        )
        for number, samples in found.items()
    ]
    columns = (symbol, "copy, GB/s", f"{names[-1]}, GB/s", *names, f"over {names[0]}")
    common.show(f"{title}: fractions of the copy's GB/s", columns, rows)


def main() -> None:
    parser = common.options(
        __doc__, models=["delugenet38", "delugenet146", "delugenet92"], rounds=9, seconds=0.2
    )
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), help="default: cuda if PyTorch can use it"
    )
    chosen = common.start(parser, METHOD, PACKAGES)
    hardware.order_gpus()
    missing = missing_gpu()
    if missing and chosen.device == "cuda":
        parser.error(f"{missing}; use --device cpu")
    device = chosen.device or ("cpu" if missing else "cuda")
    results: list[dict[str, Any]] = []
    try:
        if device == "cuda":
            results.append(measure_memory(chosen))
            results.extend(measure_networks(chosen))
        else:
            why = missing or "--device cpu was given"
            common.out.print(f"GPU memory: skipped, as {why}", highlight=False)
            common.out.print(f"networks on the GPU: skipped, as {why}", highlight=False)
        results.extend(measure_sums(chosen, device))
    finally:  # keep what was measured before a failure
        common.finish(chosen, results)


if __name__ == "__main__":
    main()
