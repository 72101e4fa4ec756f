"""Classify images with several servers; one that stops or hangs is left out until it is back."""

import argparse
import logging
import sys

from delugeserve_client import Classifier, ClientError

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("images", nargs="+", help="paths or http(s) URLs")
parser.add_argument("--url", action="append", help="server address; give it several times")
parser.add_argument("--model", help="model name (the servers' only model)")
parser.add_argument("--hedge", type=float, help="seconds until a second server is asked as well")
arguments = parser.parse_args()
logging.basicConfig(format="%(message)s")  # says which servers are left out

try:
    urls = arguments.url or ["localhost:8001"]
    with Classifier(urls, arguments.model, hedge=arguments.hedge) as classifier:
        for result in classifier.stream(arguments.images, top_k=1, on_error="return"):
            print(f"{result.source}\t{result.error or result.top.label}")
except ClientError as error:
    sys.exit(f"error: {error}")
