"""Classify an image file with tritonclient alone; the server decodes it."""

import argparse
import sys
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("image")
parser.add_argument("--url", default="localhost:8001", help="server's gRPC address (%(default)s)")
parser.add_argument("--model", default="delugenet38", help="model name (%(default)s)")
parser.add_argument("--top-k", type=int, default=3, help="number of classes (%(default)s)")
arguments = parser.parse_args()

try:
    content = Path(arguments.image).read_bytes()
    images = np.array([[content]], dtype=object)  # dtype=bytes would cut trailing zeros
    tensor = triton.InferInput("image", list(images.shape), "BYTES")
    tensor.set_data_from_numpy(images)
    wanted = triton.InferRequestedOutput("probabilities", class_count=arguments.top_k)
    with triton.InferenceServerClient(arguments.url) as client:
        result = client.infer(f"{arguments.model}_image", [tensor], outputs=[wanted])
except (InferenceServerException, OSError) as error:
    sys.exit(f"error: {error}")
for text in result.as_numpy("probabilities")[0]:
    probability, _, label = text.decode().split(":", 2)
    print(f"{label}\t{float(probability):.3f}")
