"""Section of `gpu_run.py`: inference with PyTorch and AOTInductor against the roofline.

The folded networks take uint8 images on the device and return logits there. `eager` is PyTorch in
channels-last format, `compiled` torch.compile for one batch size, `aot` an AOTInductor package for
all of them. `graph` replays the same call from a CUDA graph, without the host's time.

The floor is the sum over all operations of the larger of two times: its floating-point operations
at the rate of a large matrix product, and the bytes that it reads and writes at the rate of a large
copy, both measured at the start. A convolution or a cross-layer sum with the ReLU after it is one
operation. Tensors that fit the L2 cache are faster than that: at batch 1 the floor is not strict.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import onnxruntime
import torch
from gpu import onnxruntime_engine
from gpu_job import Job, first_line, synchronise
from roofline import Ceilings, measure_ceilings, operations
from torch import Tensor, nn

from delugeserve.networks.classifier import normalise
from delugeserve.networks.inference import FoldedDelugeNet, fold
from delugeserve.zoo import ModelSpec, find_model
from delugeserve_export.samples import default_source, sample_images
from delugeserve_export.source import load_source, untrained_source

Call = Callable[[Tensor], Tensor]
"""Maps uint8 images ``[N, H, W, 3]`` to float32 logits, both on the device."""

MODELS = ("delugenet146", "delugenet92")
BATCHES, SMOKE_BATCHES = (1, 8, 32), (1, 2)
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LONGEST = 60.0  # seconds of a compilation, before the first was measured
SECONDS = 0.1  # of a measurement


class Served(nn.Module):
    """A folded network with its preprocessing.

    Args:
        folded: the network; it is copied.
        spec: gives mean and standard deviation.
        dtype: what the copy computes in.
        device: where it computes.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, folded: FoldedDelugeNet, spec: ModelSpec, dtype: torch.dtype, device: str
    ) -> None:
        super().__init__()
        network: Any = copy.deepcopy(folded).to(device, dtype)
        self.network = network.to(memory_format=torch.channels_last)
        self.dtype = dtype
        self.register_buffer("mean", torch.tensor(spec.task.mean, device=device))
        self.register_buffer("std", torch.tensor(spec.task.std, device=device))

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 images ``[N, H, W, 3]`` to float32 logits ``[N, classes]``."""
        logits: Tensor = self.network(normalise(images, self.mean, self.std).to(self.dtype))
        return logits.float()


@dataclass(frozen=True)
class Subject:
    """A network to measure.

    Attributes:
        spec: its numbers.
        folded: its folded form in float32, on the CPU.
        trained: whether it has trained weights.
        images: uint8 images on the device, of the largest batch.
        reference: their logits in float32.
    """

    spec: ModelSpec
    folded: FoldedDelugeNet
    trained: bool
    images: Tensor
    reference: Tensor


@torch.no_grad()
def measure_inference(job: Job) -> None:
    # fp32 is fp32: PyTorch lets cuDNN round the inputs of convolutions to TF32.
    torch.backends.cudnn.allow_tf32 = False
    sizes = SMOKE_BATCHES if job.smoke else BATCHES
    ceilings = {}
    for name, dtype in DTYPES.items():
        found = measure_ceilings(
            job.device, dtype, partial(seconds_per_call, job.device), small=job.smoke
        )
        ceilings[name] = found
        job.add(
            {"ceilings": name, **vars(found)},
            f"{name} matrix product {found.flops_per_s / 1e12:,.2f} TFLOP/s, "
            f"copy {found.bytes_per_s / 1e9:,.0f} GB/s",
        )
    subjects = [load_subject(job, name) for name in MODELS[: 1 if job.smoke else None]]
    for subject in subjects:
        for precision, dtype in DTYPES.items():
            served = Served(subject.folded, subject.spec, dtype, job.device)
            for batch in sizes:
                measure_call(job, subject, "eager", precision, batch, served, ceilings[precision])
    longest = 1.0 if job.smoke else LONGEST
    for title, subject, batches, build in compilations(subjects, sizes):
        name = f"{subject.spec.name}, {title}, {'any batch' if title == 'aot' else batches}"
        if job.left() < longest + 5:
            job.skip(name, f"{max(0, job.left()):.0f} s are left")
            continue
        start = time.monotonic()
        try:
            call = build(Served(subject.folded, subject.spec, torch.float16, job.device))
        except Exception as error:  # one runtime must not stop the others
            job.skip(name, first_line(error))
            continue
        taken = time.monotonic() - start
        longest = taken if longest == LONGEST else max(longest, taken)
        job.add({"compilation": name, "seconds": taken}, f"{name}: compiled in {taken:.0f} s")
        for batch in batches:
            measure_call(job, subject, title, "fp16", batch, call, ceilings["fp16"])
    measure_onnxruntime(job, subjects, sizes)


def compilations(
    subjects: Sequence[Subject], sizes: Sequence[int]
) -> Iterator[tuple[str, Subject, Sequence[int], Callable[[Served], Call]]]:
    """Yield what to compile, the most interesting first."""
    for subject in subjects:
        yield "aot", subject, sizes, partial(ahead_of_time, subject.images)
    for batch in (sizes[-1], sizes[0]):
        for subject in subjects:
            yield "compiled", subject, (batch,), partial(just_in_time, subject.images[:batch])


def ahead_of_time(images: Tensor, served: Served) -> Call:
    """Export with PyTorch, and compile with AOTInductor for all batch sizes."""
    batch = torch.export.Dim("batch", min=1, max=len(images))
    program = torch.export.export(served, (images,), dynamic_shapes=({0: batch},))
    package = torch._inductor.aoti_compile_and_package(program)
    call: Call = torch._inductor.aoti_load_package(package)
    return call


def just_in_time(images: Tensor, served: Served) -> Call:
    """Compile for one batch size."""
    torch.compiler.reset()  # PyTorch compiles a function at most eight times
    call: Call = torch.compile(served, dynamic=False)
    call(images)
    return call


def load_subject(job: Job, name: str) -> Subject:
    """Load the network that this run has trained, or the shipped one, or make an untrained one."""
    spec = find_model(name)
    if job.smoke:
        architecture = replace(spec.architecture, widths=(8, 16), layers=(2, 2))
        spec = replace(spec, name="smoke", architecture=architecture)
    batch = max(SMOKE_BATCHES if job.smoke else BATCHES)
    images, _ = sample_images(spec.task, batch, default_source(spec.task))
    trained = job.folder / f"{spec.name}.safetensors"
    source = load_source(spec, trained if trained.is_file() else None)
    source = source or untrained_source(spec, images)
    folded = fold(source.network)
    on_device = torch.from_numpy(images).to(job.device)
    reference = Served(folded, spec, torch.float32, job.device)(on_device)
    return Subject(spec, folded, source.trained, on_device, reference)


def measure_call(
    job: Job,
    subject: Subject,
    title: str,
    precision: str,
    batch: int,
    call: Call,
    ceilings: Ceilings,
) -> None:
    """Check a call, time it and its CUDA graph, and compare the times with the floor."""
    images, reference = subject.images[:batch], subject.reference[:batch]
    name = f"{subject.spec.name}, batch {batch}, {title} {precision}"
    try:
        logits = call(images)
        times = {"call": seconds_per_call(job.device, partial(call, images))}
        if job.device == "cuda":
            times["graph"] = seconds_per_call(job.device, captured(call, images))
    except Exception as error:  # one runtime must not stop the others
        job.skip(name, first_line(error))
        return
    parts = operations(subject.folded, (batch, *subject.spec.input_shape))
    size = DTYPES[precision].itemsize
    floor = sum(part.seconds(ceilings.flops_per_s, ceilings.bytes_per_s, size) for part in parts)
    best = min(times.values())
    error = ((logits - reference).norm() / reference.norm()).item()
    agreement = (logits.argmax(1) == reference.argmax(1)).float().mean().item()
    job.add(
        {
            "model": subject.spec.name,
            "trained": subject.trained,
            "batch": batch,
            "engine": title,
            "precision": precision,
            "ms": {key: round(1e3 * value, 4) for key, value in times.items()},
            "images_per_s": round(batch / best),
            "gflops": sum(part.flops for part in parts) / 1e9,
            "megabytes": sum(part.numbers for part in parts) * size / 1e6,
            "floor_ms": round(1e3 * floor, 4),
            "of_roofline": round(floor / best, 3),
            "logit_error": error,
            "agreement": agreement,
        },
        f"{name}: {', '.join(f'{key} {1e3 * value:.3f} ms' for key, value in times.items())}, "
        f"{batch / best:,.0f} images/s, {floor / best:.0%} of the roofline, "
        f"error {error:.1e}, same class {agreement:.0%}",
    )


def captured(call: Call, images: Tensor) -> Callable[[], Any]:
    """Record a call in a CUDA graph, and return what replays it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call(images)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call(images)
    return graph.replay


def seconds_per_call(device: str, call: Callable[[], Any]) -> float:
    """Return the median time of a call, of five runs of several calls each."""
    for _ in range(2):
        call()
    synchronise(device)
    start = time.perf_counter()
    call()
    synchronise(device)
    once = time.perf_counter() - start
    count = max(1, min(1000, round(SECONDS / 5 / once)))
    return statistics.median(_seconds(device, call, count) for _ in range(5)) / count


def _seconds(device: str, call: Callable[[], Any], count: int) -> float:
    if device == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(count):
            call()
        end.record()
        torch.cuda.synchronize()
        return 1e-3 * begin.elapsed_time(end)
    start = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - start


def measure_onnxruntime(job: Job, subjects: Sequence[Subject], sizes: Sequence[int]) -> None:
    """Time ONNX Runtime's CUDA provider, with the copies of images and logits."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        job.skip("ONNX Runtime CUDA", f"onnxruntime {onnxruntime.__version__} has no CUDA provider")
        return
    for subject in subjects:
        name = f"{subject.spec.name}, ONNX Runtime CUDA fp16, host to host"
        try:
            infer = onnxruntime_engine(subject.folded, subject.spec)
            images = subject.images.cpu().numpy()
            for batch in sizes:
                seconds = seconds_per_call("cpu", partial(infer, images[:batch]))
                job.add(
                    {"model": subject.spec.name, "batch": batch, "engine": "onnxruntime"}
                    | {"precision": "fp16", "ms": {"host": round(1e3 * seconds, 4)}},
                    f"{name}, batch {batch}: {1e3 * seconds:.3f} ms",
                )
        except Exception as error:
            job.skip(name, first_line(error))
