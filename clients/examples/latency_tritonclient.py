"""Latency of single images with tritonclient alone: python latency_tritonclient.py [MODEL] [URL].

Prints percentiles of 1000 requests, one after the other, in milliseconds.
"""

import sys
import time

import numpy as np
import tritonclient.grpc as triton

model = sys.argv[1] if len(sys.argv) > 1 else "delugenet38"
url = sys.argv[2] if len(sys.argv) > 2 else "localhost:8001"

client = triton.InferenceServerClient(url)
(image,) = client.get_model_metadata(model).inputs
shape = [1, *image.shape[1:]]
tensor = triton.InferInput(image.name, shape, image.datatype)
tensor.set_data_from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))

for _ in range(100):  # the first requests warm the server up
    client.infer(model, [tensor])

latencies = []
for _ in range(1000):
    start = time.perf_counter()
    client.infer(model, [tensor])
    latencies.append(1e3 * (time.perf_counter() - start))

for percentile in (50, 90, 95, 99):
    print(f"p{percentile}: {np.percentile(latencies, percentile):.2f} ms")
client.close()
