"""Classify every image of a folder and print one line per image: path, class, probability."""

import argparse
import sys

from delugeserve_client import Classifier, ClientError, find_images

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder")
parser.add_argument("--url", default="localhost:8001", help="server address (%(default)s)")
parser.add_argument("--model", help="model name (the server's only model)")
arguments = parser.parse_args()

try:
    images = find_images(arguments.folder).images
    with Classifier(arguments.url, arguments.model) as classifier:
        for result in classifier.stream(images, top_k=1, on_error="return"):
            if result.error is not None:
                print(result.error, file=sys.stderr)
            else:
                print(f"{result.source}\t{result.top.label}\t{result.top.probability:.3f}")
except (ClientError, OSError) as error:
    sys.exit(f"error: {error}")
