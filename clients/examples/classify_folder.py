"""Classify every image of a folder: python classify_folder.py FOLDER [MODEL] [URL]."""

import sys
from pathlib import Path

from delugeserve_client import Classifier

folder = Path(sys.argv[1])
model = sys.argv[2] if len(sys.argv) > 2 else "delugenet38"
url = sys.argv[3] if len(sys.argv) > 3 else "localhost:8001"

files = sorted(path for path in folder.iterdir() if path.is_file())
with Classifier(url, model) as classifier:
    for result in classifier.stream(files, top_k=1, on_error="return"):
        if result.error is not None:
            print(result.error, file=sys.stderr)
        else:
            print(f"{result.source}\t{result.top.label}\t{result.top.probability:.3f}")
