#!/bin/bash
# Classify an image file with curl:
#
#     bash clients/examples/classify.sh cat.jpg http://localhost:8000 delugenet38
#
# The request is KServe's open inference protocol with Triton's binary data: a header in JSON,
# followed by the content of the file, in the form of a BYTES tensor.
set -euo pipefail
file=$1 url=${2:-http://localhost:8000} model=${3:-delugenet38}

size=$(stat --format %s "$file")
# The length of each value, in four bytes, little endian, comes before it.
printf -v length '\\x%02x\\x%02x\\x%02x\\x%02x' \
  $((size & 255)) $((size >> 8 & 255)) $((size >> 16 & 255)) $((size >> 24 & 255))
header='{"inputs": [{"name": "image", "shape": [1, 1], "datatype": "BYTES",
  "parameters": {"binary_data_size": '$((size + 4))'}}],
  "outputs": [{"name": "probabilities", "parameters": {"classification": 3, "binary_data": false}}]}'

{ printf '%s' "$header"; printf "$length"; cat "$file"; } |
  curl --silent --show-error --fail-with-body --data-binary @- \
    --header "Inference-Header-Content-Length: ${#header}" \
    "$url/v2/models/${model}_image/infer"
echo
