"""A gRPC server that answers after a known delay, for the tests of load tests."""

from __future__ import annotations

import threading
from concurrent import futures

from benchmarks.stub_sender import ANSWER, CLASSES


def ask(sender, *requests):
    """Send requests at once, and return their answers in the order of the requests."""
    answers, landed = [None] * len(requests), threading.Semaphore(0)
    for number, sample_ids in enumerate(requests):

        def done(answer, error, number=number):
            answers[number] = (answer, error)
            landed.release()

        sender.send(sample_ids, done)
    for _ in requests:
        assert landed.acquire(timeout=20)
    return answers


class StubServer:
    """A gRPC server with one model, ``stub``, whose requests take a known time.

    Args:
        delay: seconds that a request takes.
        size: height and width of the model's images.
        fail: the gRPC status code and text of every answer; None answers.
        max_streams: most calls at once on a connection; None sets no limit.
        model: the model's name.
        tls: private key and certificate chain, in PEM; None is plaintext.
    """

    def __init__(self, delay=0.0, size=2, fail=None, max_streams=None, model="stub", tls=None):
        import grpc
        from tritonclient.grpc import service_pb2, service_pb2_grpc

        self.delay, self.size, self.fail, self.model = delay, size, fail, model
        self.requests: list = []
        self.metadata: dict = {}
        self._stopped = threading.Event()
        owner = self

        class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
            def ServerMetadata(self, request, context):  # noqa: N802
                return service_pb2.ServerMetadataResponse(name="stub", version="2.0-stub")

            def RepositoryIndex(self, request, context):  # noqa: N802
                index = service_pb2.RepositoryIndexResponse
                model = index.ModelIndex(name=owner.model, version="1", state="READY")
                return index(models=[model])

            def ModelMetadata(self, request, context):  # noqa: N802
                if request.name != owner.model:
                    context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model '{request.name}'")
                metadata = service_pb2.ModelMetadataResponse
                tensor = metadata.TensorMetadata
                return metadata(
                    name=owner.model,
                    versions=["1"],
                    inputs=[tensor(name="image", datatype="UINT8", shape=[-1, size, size, 3])],
                    outputs=[tensor(name="probabilities", datatype="FP32", shape=[-1, CLASSES])],
                )

            def ModelConfig(self, request, context):  # noqa: N802
                config = service_pb2.ModelConfigResponse()
                config.config.name = owner.model
                config.config.max_batch_size = 8
                return config

            def ModelStatistics(self, request, context):  # noqa: N802
                statistics = service_pb2.ModelStatisticsResponse()
                model = statistics.model_stats.add(name=owner.model, version="1")
                model.inference_count = model.execution_count = len(owner.requests)
                return statistics

            def ModelInfer(self, request, context):  # noqa: N802
                owner.requests.append(request)
                owner.metadata = dict(context.invocation_metadata())
                if owner.fail is not None:
                    context.abort(*owner.fail)
                if owner._stopped.wait(owner.delay):
                    context.abort(grpc.StatusCode.UNAVAILABLE, "stopped")
                count = request.inputs[0].shape[0]
                reply = service_pb2.ModelInferResponse(model_name=owner.model)
                reply.outputs.add(name="probabilities", datatype="FP32", shape=[count, CLASSES])
                reply.raw_output_contents.append(ANSWER.tobytes() * count)
                return reply

        options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)]
        if max_streams is not None:
            options.append(("grpc.max_concurrent_streams", max_streams))
        self._server = grpc.server(futures.ThreadPoolExecutor(8), options=options)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(), self._server)
        if tls is None:
            self.url = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        else:
            secrets = grpc.ssl_server_credentials([tls])
            port = self._server.add_secure_port("127.0.0.1:0", secrets)
            self.url = f"grpcs://127.0.0.1:{port}"

    def __enter__(self):
        self._server.start()
        return self

    def __exit__(self, *_):
        stopping = self._server.stop(0)  # what is in flight is not answered
        self._stopped.set()
        stopping.wait()
