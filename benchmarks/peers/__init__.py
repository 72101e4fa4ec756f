"""The same artefact behind other Python servers, under the same load.

    python -m benchmarks.peers --repository model_repository --model delugenet38 --output peers

Needs the extras `server`, `export`, `benchmark` and `demo`. Each peer gets a virtual environment of
its own under a cache folder, from ``requirements/NAME.txt``.
"""
