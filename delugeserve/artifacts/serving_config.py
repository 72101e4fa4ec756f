"""How a server runs a model: instances, queue, warm-up, cache. What ``configure`` can change.

An export sets the preferred batch sizes (:func:`even_batches`) and leaves the rest of the queue at
Triton's defaults; ``delugeserve configure`` changes single settings in place. The fields are
Triton's, described in its model configuration protocol:
https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from delugeserve.errors import UsageError
from delugeserve.system.imports import require

TimeoutAction = Literal["reject", "delay"]

THREADS = {"onnxruntime": "intra_op_thread_count", "openvino": "INFERENCE_NUM_THREADS"}
"""The parameter with the number of threads of an instance, by backend."""

PINNING = {"openvino": "ENABLE_CPU_PINNING"}
"""The parameter that pins an instance's threads to cores, by backend."""

QUEUE = (
    "preferred_batch_sizes",
    "queue_delay_us",
    "queue_size",
    "queue_timeout_us",
    "timeout_action",
    "client_timeout",
    "priority_levels",
    "default_priority",
)
"""The settings of the dynamic batcher."""

_OPTIONS = {
    "warmup_batches": "--warm-up",
    "preferred_batch_sizes": "--preferred-batches",
    "priority_levels": "--priorities",
}
_QUEUE_BYTES = 2 << 30
_FEWEST_REQUESTS, _MOST_REQUESTS = 256, 1024
_IMAGES_PER_CORE = 8
_SHORTEST_BATCH = 20.0  # milliseconds


@dataclass(frozen=True)
class ServingConfig:
    """Settings of a model's server; None leaves a setting as it is.

    Attributes:
        instances: number of instances, on each device.
        threads: threads of an instance; 0 lets the backend choose.
        cpu_pinning: each thread stays on one core.
        preferred_batch_sizes: the batch sizes that the dynamic batcher aims at; empty for none.
        queue_delay_us: how long it waits for more requests, in microseconds.
        queue_size: most requests that wait; more are refused with UNAVAILABLE. 0 for no limit.
        queue_timeout_us: how long a request may wait, in microseconds; 0 for no limit.
        timeout_action: what happens to a request that has waited longer: ``reject`` refuses it with
            UNAVAILABLE, ``delay`` runs it after all others.
        client_timeout: a request may state a shorter timeout of its own.
        priority_levels: number of priorities, 1 is the highest; 0 for none.
        default_priority: of a request that states none.
        warmup_batches: batch sizes to run before the model is ready; empty for none.
        response_cache: answer equal requests from the server's cache.
        rate_limit: resources that an instance takes while it runs, with their amounts; empty for
            none. The server needs ``--rate-limit execution_count``.
        rate_priority: weight of an instance among those that wait for resources; 0 for Triton's
            default.
    """

    instances: int | None = None
    threads: int | None = None
    cpu_pinning: bool | None = None
    preferred_batch_sizes: tuple[int, ...] | None = None
    queue_delay_us: int | None = None
    queue_size: int | None = None
    queue_timeout_us: int | None = None
    timeout_action: TimeoutAction | None = None
    client_timeout: bool | None = None
    priority_levels: int | None = None
    default_priority: int | None = None
    warmup_batches: tuple[int, ...] | None = None
    response_cache: bool | None = None
    rate_limit: Mapping[str, int] | None = None
    rate_priority: int | None = None

    @property
    def stated(self) -> dict[str, Any]:
        """The settings that are not None."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def even_batches(cores: int, max_batch_size: int, image_ms: float = math.inf) -> tuple[int, ...]:
    """Return the preferred batch sizes of a model that runs on a CPU.

    Triton's batcher joins all requests that wait, so under load many images and few take turns:
    with 32 in flight, a batch of 31 is followed by one of 1. A request that comes between waits for
    the larger one, and the smaller one leaves cores idle. With a preferred size and no queue delay,
    a batch is complete as soon as it has that many images, and fewer never wait for more.

    Args:
        cores: of the machine.
        max_batch_size: most images in a batch.
        image_ms: time of an image in a batch on this machine, in milliseconds; infinite if it is
            not known.

    Returns:
        Eight images a core, enough for two parts of four (see
        :mod:`delugeserve.runtimes.openvino_engine`), or a multiple that takes 20 ms, as each batch
        costs one or two more; and the largest batch, so that requests whose sizes do not add up to
        the first are still joined. Empty if the first is more than half of the second.
    """
    size = _IMAGES_PER_CORE * cores
    size *= max(1, math.ceil(_SHORTEST_BATCH / (size * image_ms)))
    return (size, max_batch_size) if 2 * size <= max_batch_size else ()


def leaves_cores_idle(settings: ServingConfig, cores: int) -> bool:
    """Return whether batches of the preferred sizes are too small for a machine's cores."""
    smallest = min(settings.preferred_batch_sizes or (), default=0)
    return 0 < 2 * smallest < _IMAGES_PER_CORE * cores


def requests_to_hold(request_bytes: int) -> int:
    """Return how many requests a server may hold; with more, it might grow until it is killed.

    The front refuses the others. A limit in ``config.pbtxt`` would slow the server down: where the
    queue has a size or a timeout, Triton's batcher waits for an idle instance, and can miss that
    there is one. Then the server pauses until the next request, or for half a second. See
    https://github.com/triton-inference-server/server/issues/8870.

    Args:
        request_bytes: size of the largest request.
    """
    return max(_FEWEST_REQUESTS, min(_MOST_REQUESTS, _QUEUE_BYTES // max(1, request_bytes)))


def stops_prefetching(settings: ServingConfig) -> bool:
    """Return whether Triton's batcher waits for an idle instance, see :func:`requests_to_hold`.

    Otherwise it prepares the next batches while the instances are busy.
    """
    return bool(
        settings.queue_size
        or settings.queue_timeout_us
        or settings.client_timeout
        or settings.priority_levels
    )


def read_serving(message: Any) -> ServingConfig:
    """Return the settings of a configuration, Triton's protobuf message; none is None."""
    batching = message.dynamic_batching
    queue = batching.default_queue_policy
    group = message.instance_group[0] if message.instance_group else None
    threads = _parameter(message, THREADS)
    return ServingConfig(
        instances=sum(one.count or 1 for one in message.instance_group) or 1,
        threads=int(threads) if threads.isdecimal() else 0,
        cpu_pinning=_parameter(message, PINNING).upper() == "YES",
        preferred_batch_sizes=tuple(batching.preferred_batch_size),
        queue_delay_us=batching.max_queue_delay_microseconds,
        queue_size=queue.max_queue_size,
        queue_timeout_us=queue.default_timeout_microseconds,
        timeout_action="delay" if queue.timeout_action == queue.DELAY else "reject",
        client_timeout=queue.allow_timeout_override,
        priority_levels=batching.priority_levels,
        default_priority=batching.default_priority_level,
        warmup_batches=tuple(one.batch_size or 1 for one in message.model_warmup),
        response_cache=message.response_cache.enable,
        rate_limit={one.name: one.count for one in group.rate_limiter.resources} if group else {},
        rate_priority=group.rate_limiter.priority if group else 0,
    )


def _parameter(message: Any, keys: Mapping[str, str]) -> str:
    key = keys.get(_backend(message))
    if key is None or key not in message.parameters:
        return ""
    value: str = message.parameters[key].string_value
    return value


def _backend(message: Any) -> str:
    name: str = message.backend or message.platform.partition("_")[0]
    return name


def read_queue(message: Any) -> ServingConfig:
    """Return the settings of a configuration's queue that are not Triton's defaults."""
    found = read_serving(message)
    default = read_serving(type(message)())
    return ServingConfig(
        **{
            name: getattr(found, name)
            for name in QUEUE
            if getattr(found, name) != getattr(default, name)
        }
    )


def apply_serving(settings: ServingConfig, message: Any) -> None:
    """Change a configuration, Triton's protobuf message, to the settings that are stated.

    Raises:
        UsageError: a setting does not fit the model or another setting.
    """
    if message.HasField("ensemble_scheduling"):
        raise UsageError(
            f"'{message.name}' is an ensemble, which has no queue and no instances of its own.",
            "Configure the models that it runs: "
            f"{', '.join(step.model_name for step in message.ensemble_scheduling.step)}.",
        )
    _Edit(settings, message).apply()


class _Edit:
    """Changes of one configuration."""

    def __init__(self, settings: ServingConfig, message: Any) -> None:
        self._settings, self._message = settings, message

    def apply(self) -> None:
        self._check_ranges()
        self._instances()
        self._threads()
        self._batching()
        self._warmup()
        if self._settings.response_cache is not None:
            if self._settings.response_cache:
                self._message.response_cache.enable = True
            else:
                self._message.ClearField("response_cache")

    def _check_ranges(self) -> None:
        for name, value in self._settings.stated.items():
            least = 1 if name in ("instances", "warmup_batches", "preferred_batch_sizes") else 0
            values = value if isinstance(value, tuple) else (value,)
            for one in values:
                if isinstance(one, int) and not isinstance(one, bool) and one < least:
                    raise _unfit(name, one, f"at least {least}")
            if name in ("warmup_batches", "preferred_batch_sizes"):
                largest = max(1, self._message.max_batch_size)
                for one in values:
                    if one > largest:
                        raise _unfit(name, one, f"at most max_batch_size, which is {largest}")

    def _group(self) -> Any:
        groups = self._message.instance_group
        if len(groups) > 1:
            raise UsageError(
                f"'{self._message.name}' has {len(groups)} instance groups.",
                "Change them in its config.pbtxt.",
            )
        return groups[0] if groups else groups.add()

    def _instances(self) -> None:
        settings = self._settings
        if settings.instances is not None:
            self._group().count = settings.instances
        if settings.rate_limit is not None:
            limiter = self._group().rate_limiter
            del limiter.resources[:]
            for name, count in settings.rate_limit.items():
                limiter.resources.add(name=name, count=count)
        if settings.rate_priority is not None:
            self._group().rate_limiter.priority = settings.rate_priority
        for group in self._message.instance_group:
            if group.HasField("rate_limiter") and not group.rate_limiter.ByteSize():
                group.ClearField("rate_limiter")

    def _threads(self) -> None:
        threads, pinning = self._settings.threads, self._settings.cpu_pinning
        if threads is not None:
            self._set_parameter(THREADS, str(threads) if threads else "", "number of threads")
        if pinning is not None:
            self._set_parameter(PINNING, "YES" if pinning else "", "threads to pin")

    def _set_parameter(self, keys: Mapping[str, str], value: str, what: str) -> None:
        backend = _backend(self._message)
        key = keys.get(backend)
        if key is None:
            raise UsageError(
                f"The backend {backend} has no {what}.", f"It can be set for: {', '.join(keys)}."
            )
        if value:
            self._message.parameters[key].string_value = value
        elif key in self._message.parameters:
            del self._message.parameters[key]

    def _batching(self) -> None:
        settings, message = self._settings, self._message
        if not any(getattr(settings, name) is not None for name in QUEUE):
            return
        if message.HasField("sequence_batching"):
            raise UsageError(
                f"'{message.name}' has a sequence batcher instead of a dynamic one.",
                "Change its queue in its config.pbtxt.",
            )
        batching = message.dynamic_batching
        batching.SetInParent()
        if settings.preferred_batch_sizes is not None:
            batching.preferred_batch_size[:] = sorted(set(settings.preferred_batch_sizes))
        if settings.queue_delay_us is not None:
            batching.max_queue_delay_microseconds = settings.queue_delay_us
        self._queue(batching)
        self._priorities(batching)

    def _queue(self, batching: Any) -> None:
        settings, policies = self._settings, [batching.default_queue_policy]
        # With priorities, a level may have a policy of its own.
        policies += [batching.priority_queue_policy[one] for one in batching.priority_queue_policy]
        for policy in policies:
            if settings.queue_size is not None:
                policy.max_queue_size = settings.queue_size
            if settings.queue_timeout_us is not None:
                policy.default_timeout_microseconds = settings.queue_timeout_us
            if settings.timeout_action is not None:
                policy.timeout_action = policy.TimeoutAction.Value(settings.timeout_action.upper())
            if settings.client_timeout is not None:
                policy.allow_timeout_override = settings.client_timeout
        if not batching.default_queue_policy.ByteSize():
            batching.ClearField("default_queue_policy")

    def _priorities(self, batching: Any) -> None:
        settings = self._settings
        if settings.priority_levels is not None:
            batching.priority_levels = settings.priority_levels
            batching.default_priority_level = min(
                batching.default_priority_level or (settings.priority_levels + 1) // 2,
                settings.priority_levels,
            )
            for level in list(batching.priority_queue_policy):
                if level > settings.priority_levels:
                    del batching.priority_queue_policy[level]
        if settings.default_priority is not None:
            levels = batching.priority_levels
            if not 1 <= settings.default_priority <= levels:
                raise _unfit(
                    "default_priority",
                    settings.default_priority,
                    f"from 1 to the number of priorities, which is {levels}",
                )
            batching.default_priority_level = settings.default_priority

    def _warmup(self) -> None:
        sizes = self._settings.warmup_batches
        if sizes is None:
            return
        warmups = self._message.model_warmup
        kept = {one.batch_size or 1: one for one in warmups}
        pb = require("tritonclient.grpc.model_config_pb2", "export")
        new = []
        for size in sorted(set(sizes)):
            warmup = pb.ModelWarmup()
            if size in kept:
                warmup.CopyFrom(kept[size])
            else:
                warmup.name, warmup.batch_size = f"batch of {size}", size
                for tensor in self._message.input:
                    one = warmup.inputs[tensor.name]
                    one.data_type, one.zero_data = tensor.data_type, True
                    one.dims.extend(tensor.dims)
            new.append(warmup)
        del warmups[:]
        warmups.extend(new)


def _unfit(name: str, value: Any, must: str) -> UsageError:
    option = _OPTIONS.get(name, f"--{name.removesuffix('_us').replace('_', '-')}")
    return UsageError(f"{option} is {value}.", f"Use {must}.")
