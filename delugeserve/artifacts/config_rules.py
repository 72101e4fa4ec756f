"""Which settings of a ``config.pbtxt`` the new artefact determines, whatever a person wrote."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from delugeserve.artifacts import labels
from delugeserve.artifacts.config_message import copy, field_text
from delugeserve.artifacts.interface import LOGITS, PROBABILITIES
from delugeserve.artifacts.manifest import ARTIFACT
from delugeserve.artifacts.serving_config import THREADS
from delugeserve.system.imports import require

_OWN_LABELS = re.compile(rf"\d+/{re.escape(labels.FILE_NAME)}")
_OWN_WARMUP = re.compile(r"batch of \d+")


@dataclass(frozen=True)
class ReplacedSetting:
    """A setting of the file that contradicts the new artefact.

    Attributes:
        field: its place, such as ``max_batch_size``.
        found: its value in text format; empty for a field that was removed by hand.
        written: the value that replaces it; empty if there is none.
        reason: why, in a sentence without its full stop.
    """

    field: str
    found: str
    written: str
    reason: str


@dataclass(frozen=True)
class Artefact:
    """What a merged configuration must agree with, apart from what is generated.

    Attributes:
        fixed_parameters: keys of ``parameters`` that set how the artefact computes or how images
            are preprocessed.
        label_files: the label files, relative to the model's folder, that fit the classes.
        versions: numbers of all other versions.
        servable: those of ``versions`` that can be served with the new configuration.
    """

    fixed_parameters: frozenset[str] = frozenset()
    label_files: frozenset[str] = frozenset()
    versions: frozenset[int] = frozenset()
    servable: frozenset[int] = frozenset()


def apply_rules(
    merged: Any, before: Any | None, found: Any, new: Any, artefact: Artefact
) -> tuple[ReplacedSetting, ...]:
    """Correct a merged configuration where it contradicts the new artefact.

    Args:
        merged: the configuration to correct, Triton's protobuf message like the next three. A
            value that differs from ``new`` was written by hand, if ``before`` is known.
        before: what the last export generated; None if that is not known.
        found: the file.
        new: what this export generates.
        artefact: what the result must agree with.

    Returns:
        What was written by hand and had to be replaced.
    """
    rules = _Rules(merged, before, found, new, artefact)
    rules.check_names()
    rules.check_batch_size()
    rules.check_tensors("input")
    rules.check_tensors("output")
    rules.check_labels()
    rules.check_versions()
    rules.check_parameters()
    rules.check_devices()
    rules.check_warmup()
    return tuple(rules.replaced)


def lower_warmup(config: Any, largest: int) -> None:
    """Let a generated configuration warm up no larger batches than a person allows."""
    for warmup in config.model_warmup:
        if warmup.batch_size > largest:
            warmup.batch_size, warmup.name = largest, f"batch of {largest}"
    if largest == 1:
        del config.model_warmup[1:]


class _Rules:
    """The rules; each corrects ``merged`` and records what it replaced."""

    def __init__(
        self, merged: Any, before: Any | None, found: Any, new: Any, artefact: Artefact
    ) -> None:
        self._merged, self._before, self._found, self._new = merged, before, found, new
        self._artefact = artefact
        self.replaced: list[ReplacedSetting] = []

    def _record(
        self, field: str, found: Any, written: Any, reason: str, *, generated: bool = False
    ) -> None:
        """Record a replacement.

        Args:
            field: its place.
            found: the value replaced.
            written: the value written instead.
            reason: why.
            generated: every export writes such a value. Where it is not known what the last one
                wrote, it is taken for that.
        """
        if not (generated and self._before is None):
            self.replaced.append(ReplacedSetting(field, _text(found), _text(written), reason))

    def _take_new(self, field: str, reason: str) -> None:
        """Replace a scalar by the generated value."""
        found, new = getattr(self._merged, field), getattr(self._new, field)
        if found != new:
            setattr(self._merged, field, new)
            self._record(field, found, new, reason, generated=True)

    @property
    def _other_backend(self) -> bool:
        found = self._found.backend or self._found.platform.partition("_")[0]
        return bool(found != self._new.backend)

    def check_names(self) -> None:
        """The model's name, its backend, and the file that the backend loads."""
        self._take_new("name", "it must be the name of the model's folder")
        self._take_new("backend", "the artefact is for this backend")
        self._take_new("platform", "the artefact is for the backend that 'backend' names")
        self._take_new("default_model_filename", "it must be the artefact's file")
        if self._new.runtime or self._other_backend:
            self._take_new("runtime", f"the backend {self._new.backend} needs its own")
        if self._new.HasField("ensemble_scheduling"):
            self._merged.ensemble_scheduling.CopyFrom(self._new.ensemble_scheduling)
        elif self._merged.HasField("ensemble_scheduling"):
            found = self._merged.ensemble_scheduling
            self._record("ensemble_scheduling", found, "", "the artefact is not an ensemble")
            self._merged.ClearField("ensemble_scheduling")

    def check_batch_size(self) -> None:
        """Batches are no larger than those that were verified."""
        largest = self._new.max_batch_size
        found = self._merged.max_batch_size
        if not 1 <= found <= largest:
            reason = f"the artefact was verified for batches of 1 to {largest}"
            self._record("max_batch_size", found, largest, reason)
            self._merged.max_batch_size = largest
        batching = self._merged.dynamic_batching
        preferred = list(batching.preferred_batch_size)
        fitting = [size for size in preferred if size <= self._merged.max_batch_size]
        if fitting != preferred:
            reason = f"max_batch_size is {self._merged.max_batch_size}"
            field = "dynamic_batching.preferred_batch_size"
            self._record(field, preferred, fitting or "", reason)
            batching.preferred_batch_size[:] = fitting

    def check_tensors(self, field: str) -> None:
        """Inputs and outputs have the artefact's names, types and shapes.

        An output may be left out by hand, an input may not.
        """
        tensors = getattr(self._merged, field)
        artefacts = {tensor.name: tensor for tensor in getattr(self._new, field)}
        if field == "output" and PROBABILITIES in artefacts and not self._new.platform:
            # The artefact has logits as well, whether or not they are offered.
            logits = copy(artefacts[PROBABILITIES])
            logits.name = LOGITS
            artefacts.setdefault(LOGITS, logits)
        given = {tensor.name: tensor for tensor in tensors}
        final = []
        for name, tensor in given.items():
            place = f'{field}["{name}"]'
            if name not in artefacts:
                reason = f"the artefact has no {field} of this name"
                self._record(place, tensor, "", reason, generated=True)
                continue
            final.append(self._fit_tensor(place, tensor, artefacts[name]))
        missing = [one for one in getattr(self._new, field) if one.name not in given]
        if field == "input" or not final:
            for tensor in missing:
                reason = f"the artefact has this {field}"
                self._record(f'{field}["{tensor.name}"]', "", tensor, reason, generated=True)
            final += missing
        copies = [copy(tensor) for tensor in final]
        del tensors[:]
        tensors.extend(copies)

    def _fit_tensor(self, place: str, tensor: Any, artefacts: Any) -> Any:
        fitted = copy(tensor)
        fitted.data_type = artefacts.data_type
        fitted.dims[:] = artefacts.dims
        if fitted != tensor:
            fitted.ClearField("reshape")  # it is of the other shape
            reason = "the artefact has this type and shape"
            self._record(place, tensor, fitted, reason, generated=True)
        return fitted

    def check_labels(self) -> None:
        """Label files name the new classes; those of a version are this version's."""
        generated = {output.name: output.label_filename for output in self._new.output}
        for output in self._merged.output:
            found = output.label_filename
            new = generated.get(output.name, generated.get(PROBABILITIES, ""))
            own = _OWN_LABELS.fullmatch(found)  # of a version; it follows the version
            if not found or found == new or (found in self._artefact.label_files and not own):
                continue
            output.label_filename = new
            if not own:
                place = f'output["{output.name}"].label_filename'
                self._record(place, found, new, "it does not hold the names of these classes")

    def check_versions(self) -> None:
        """The new version is served; others beside it only where they can be."""
        policy = self._merged.version_policy
        if policy == self._new.version_policy:
            return
        (number,) = self._new.version_policy.specific.versions
        others = self._artefact.versions
        kind = policy.WhichOneof("policy_choice")
        if kind == "specific":
            self._check_specific(number)
            return
        if kind == "all":
            shown = others
        else:  # without a policy, Triton serves the newest version
            count = policy.latest.num_versions or 1
            shown = frozenset(sorted({*others, number})[-count:]) - {number}
        stuck = sorted(shown - self._artefact.servable)
        if max(others, default=0) > number:
            reason = f"version {number} would not be the newest"
        elif stuck:
            reason = f"version {_listed(stuck)} cannot be served with this configuration"
        else:
            return
        self._take_new_policy(reason)

    def _check_specific(self, number: int) -> None:
        generated = self._before.version_policy.specific.versions if self._before else ()
        found = set(self._merged.version_policy.specific.versions)
        if found.isdisjoint(generated) and (self._before or len(found) == 1):
            # The file went back to an older version; an export serves its own.
            self._take_new_policy(f"the export serves version {number}")
            return
        added = found.difference(generated) & self._artefact.versions
        served = added & self._artefact.servable
        self._merged.version_policy.specific.versions[:] = sorted({*served, number})
        if stuck := sorted(added - served):
            written = self._merged.version_policy
            reason = f"version {_listed(stuck)} cannot be served with this configuration"
            self._record("version_policy", self._found.version_policy, written, reason)

    def _take_new_policy(self, reason: str) -> None:
        new = self._new.version_policy
        generated = self._found.version_policy.WhichOneof("policy_choice") == "specific"
        found = self._found.version_policy if self._found.HasField("version_policy") else ""
        self._record("version_policy", found, new, reason, generated=generated)
        self._merged.version_policy.CopyFrom(new)

    def check_parameters(self) -> None:
        """The parameters of precision and preprocessing are the artefact's."""
        found, new = self._merged.parameters, self._new.parameters
        for key in sorted(self._artefact.fixed_parameters.union(new).difference(THREADS.values())):
            had = found[key].string_value if key in found else ""
            has = new[key].string_value if key in new else ""
            if had == has and (key in found) == (key in new):
                continue
            if key in new:
                found[key].CopyFrom(new[key])
            else:
                del found[key]
            if key == ARTIFACT:  # nobody writes it by hand, and older releases left it out
                continue
            place = f'parameters["{key}"]'
            self._record(place, had, has, "it is a property of the artefact", generated=True)

    def check_devices(self) -> None:
        """Instances are on the device that the artefact is for."""
        groups = self._merged.instance_group
        known = {group.kind for group in self._new.instance_group}
        pb = require("tritonclient.grpc.model_config_pb2", "export")
        known.add(pb.ModelInstanceGroup.KIND_AUTO)
        if self._other_backend and any(group.kind not in known for group in groups):
            new = self._new.instance_group
            reason = f"the backend {self._new.backend} runs on another device"
            self._record("instance_group", list(groups), list(new), reason)
            del groups[:]
            groups.extend(new)

    def check_warmup(self) -> None:
        """Warm-up requests fit the inputs and the largest batch."""
        largest = self._merged.max_batch_size
        tensors = {one.name: (one.data_type, list(one.dims)) for one in self._new.input}
        final: list[Any] = []
        self._remove_largest_warmup()
        for warmup in self._merged.model_warmup:
            inputs = {name: (one.data_type, list(one.dims)) for name, one in warmup.inputs.items()}
            if warmup.batch_size > largest:
                reason = f"max_batch_size is {largest}"
            elif inputs != tensors:
                reason = "its input is not the artefact's"
            elif warmup in self._new.model_warmup and _has_size(final, warmup.batch_size):
                continue
            else:
                final.append(warmup)
                continue
            place = f'model_warmup["{warmup.name}"]'
            known = bool(_OWN_WARMUP.fullmatch(warmup.name))
            self._record(place, warmup, "", reason, generated=known)
        copies = [copy(warmup) for warmup in final]
        del self._merged.model_warmup[:]
        self._merged.model_warmup.extend(copies)

    def _remove_largest_warmup(self) -> None:
        """Leave out the warm-up of the largest batch if the last one was removed by hand."""
        before, found, new = (
            [warmup.batch_size for warmup in config.model_warmup] if config else []
            for config in (self._before, self._found, self._new)
        )
        # A person who lowered max_batch_size may have lowered the warm-up with it.
        lowered = max(found, default=0) == self._found.max_batch_size
        if before and new and max(before) not in found and not lowered:
            left = [one for one in self._merged.model_warmup if one.batch_size != max(new)]
            del self._merged.model_warmup[:]
            self._merged.model_warmup.extend(left)


def _has_size(warmups: Sequence[Any], size: int) -> bool:
    return any(warmup.batch_size == size for warmup in warmups)


def _text(value: Any) -> str:
    """Return a value in text format, on one line."""
    if isinstance(value, (list, tuple)):
        if value and not hasattr(value[0], "DESCRIPTOR"):
            return str(list(value))
        return " ".join(map(_text, value))
    if not hasattr(value, "DESCRIPTOR"):
        return str(value)
    return field_text(value)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
