"""The proof that a replica answers as its versions did when they were exported."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from delugeserve.artifacts.interface import INPUT, LOGITS, PROBABILITIES, Outputs
from delugeserve.artifacts.manifest import Manifest, find_manifest
from delugeserve.artifacts.preprocessing import preprocessing_of
from delugeserve.artifacts.remedies import serve_another
from delugeserve.errors import DelugeServeError, ServerError
from delugeserve.serving.fleet.release import FrozenModel, Release
from delugeserve.serving.triton.inference import connect, smallest_inputs
from delugeserve.serving.triton.log import tidy
from delugeserve.verification.evidence import Evidence, read_evidence
from delugeserve.verification.gate import describe_failure, verify
from delugeserve.verification.served import centred_evidence, centred_logits, encode_exactly
from delugeserve_client.preprocessing import Preprocessing

_IMAGES = 8
_TIMEOUT = 60.0  # seconds of a request


def prove(url: str, release: Release) -> None:
    """Compare a replica's answers with those recorded when its versions were exported.

    Every model answers a real request. A version with a manifest also repeats the recorded logits
    within its precision's tolerance, keeps the rows of a batch apart, and names its own classes.

    Args:
        url: ``host:port`` of the replica's gRPC endpoint.
        release: what it serves.

    Raises:
        ServerError: a model does not answer, or answers otherwise.
    """
    from tritonclient.utils import InferenceServerException

    with contextlib.closing(connect(url)) as client:
        for model in release.models:
            try:
                inputs = smallest_inputs(client, model.name, _TIMEOUT)
                client.infer(model.name, inputs, client_timeout=_TIMEOUT)
                _prove_model(client, model)
            except InferenceServerException as error:
                raise _unproved(model, tidy(error.message() or "")) from None
            except ServerError:
                raise
            except DelugeServeError as error:
                raise _unproved(model, str(error)) from error


def _prove_model(client: Any, model: FrozenModel) -> None:
    stored = model.stored
    # A companion answers as its model does, and has no evidence of its own.
    folder = stored.folder.with_name(stored.companion_of or stored.name)
    manifest = find_manifest(folder, stored.version)
    config = model.config
    if manifest is None or not {LOGITS, PROBABILITIES} & config.outputs.keys():
        return
    _check_labels(client, model, manifest)
    probe = read_evidence(folder / str(stored.version), manifest.evidence).probe
    evidence = Evidence(probe.images[:_IMAGES], probe.logits[:_IMAGES], probe.description)
    encoding = None
    if stored.companion_of:
        encoding = preprocessing_of(manifest.network.task)
        encoded = config.inputs[INPUT].dtype == "TYPE_STRING"
        if not encoded or encode_exactly(evidence.images, encoding) is None:
            return  # DALI's pixels are not the client's, nor those of a crop between pixels
    infer = _Served(client, model.name, logits=LOGITS in config.outputs, encoding=encoding)
    if not infer.logits:
        evidence = centred_evidence(evidence)
    verification = verify(
        {manifest.precision: infer},
        evidence,
        precision=manifest.precision,
        sizes=[min(_IMAGES, config.max_batch_size or 1)],
        trained=manifest.trained,
        class_names=manifest.network.task.class_names,
    )
    if verification.failures:
        raise _unproved(model, describe_failure(verification))


class _Served:
    """Runs a served model on images; see :data:`~delugeserve.artifacts.interface.Infer`.

    Args:
        client: of the server.
        model: name of the model.
        logits: the model offers logits.
        encoding: the preprocessing of a model that takes encoded images; None for one that takes
            pixels.
    """

    def __init__(
        self, client: Any, model: str, *, logits: bool, encoding: Preprocessing | None
    ) -> None:
        self._client, self._model, self.logits = client, model, logits
        self._encoding = encoding

    def __call__(self, images: NDArray[np.uint8]) -> Outputs:
        names = [LOGITS, PROBABILITIES] if self.logits else [PROBABILITIES]
        result = self._infer(images, names)
        probabilities = result.as_numpy(PROBABILITIES)
        if self.logits:
            return result.as_numpy(LOGITS), probabilities
        return centred_logits(probabilities), probabilities

    def _infer(self, images: NDArray[np.uint8], outputs: list[str]) -> Any:
        import tritonclient.grpc as grpc

        if self._encoding is not None:
            files = [[file] for file in encode_exactly(images, self._encoding) or ()]
            tensor = grpc.InferInput(INPUT, [len(files), 1], "BYTES")
            tensor.set_data_from_numpy(np.array(files, np.object_))
        else:
            tensor = grpc.InferInput(INPUT, images.shape, "UINT8")
            tensor.set_data_from_numpy(images)
        wanted = [grpc.InferRequestedOutput(name) for name in outputs]
        return self._client.infer(self._model, [tensor], outputs=wanted, client_timeout=_TIMEOUT)


def _check_labels(client: Any, model: FrozenModel, manifest: Manifest) -> None:
    """Check that the classification extension names the classes of the version served."""
    import tritonclient.grpc as grpc

    names = manifest.network.task.class_names
    for output in (LOGITS, PROBABILITIES):
        if output not in model.config.labels:
            continue
        inputs = smallest_inputs(client, model.name, _TIMEOUT)
        wanted = [grpc.InferRequestedOutput(output, class_count=len(names))]
        result = client.infer(model.name, inputs, outputs=wanted, client_timeout=_TIMEOUT)
        for entry in result.as_numpy(output).reshape(-1):
            # A class name may contain a colon.
            _, index, label = entry.decode().split(":", 2)
            if int(index) >= len(names) or label != names[int(index)]:
                raise _unproved(
                    model,
                    f"Class {index} of output '{output}' is labelled '{label}', but version "
                    f"{model.stored.version} has other labels.",
                )


def _unproved(model: FrozenModel, reason: str) -> ServerError:
    version = model.stored.version
    folder = model.stored.folder.with_name(model.stored.companion_of or model.name)
    return ServerError(
        f"Model '{model.name}', version {version}, does not answer as it was exported: {reason}",
        serve_another(folder, version, find_manifest(folder, version)),
        reasons={model.name: reason},
    )
