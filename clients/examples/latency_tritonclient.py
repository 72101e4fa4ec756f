"""Measure the latency of single random images with tritonclient alone, one request at a time."""

import argparse
import sys
import time

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--url", default="localhost:8001", help="server's gRPC address (%(default)s)")
parser.add_argument("--model", default="delugenet38", help="model name (%(default)s)")
parser.add_argument("--requests", type=int, default=1000, help="number of requests (%(default)s)")
arguments = parser.parse_args()

client = triton.InferenceServerClient(arguments.url)
try:
    (image,) = client.get_model_metadata(arguments.model).inputs
except InferenceServerException as error:
    sys.exit(f"error: {error.message()}")
shape = [1, *image.shape[1:]]
tensor = triton.InferInput(image.name, shape, image.datatype)
tensor.set_data_from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))

for _ in range(100):  # the first requests are slower
    client.infer(arguments.model, [tensor])

latencies = []
for _ in range(arguments.requests):
    start = time.perf_counter()
    client.infer(arguments.model, [tensor])
    latencies.append(1e3 * (time.perf_counter() - start))

for percentile in (50, 90, 95, 99):
    print(f"p{percentile}: {np.percentile(latencies, percentile):.2f} ms")
client.close()
