# NVIDIA's Triton with our Python-based backends, the packages of the decoder of images and the supervisor, for GPUs.
# A TensorRT plan needs the TensorRT that built it: `delugeserve serve --launcher docker --dry-run` prints the tag.
# Build it in the checkout:
#   docker build -f deploy/docker/nvidia.Dockerfile --build-arg TRITON_TAG=25.10-py3 -t delugeserve:0.1.0-triton25.10 .
ARG TRITON_TAG=25.10-py3

FROM nvcr.io/nvidia/tritonserver:${TRITON_TAG}
# Another runtime of plans: --build-arg EXTRAS=container,tensorrt-rtx
ARG EXTRAS=container
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY delugeserve/ delugeserve/
COPY export/ export/
COPY clients/ clients/
# Into the image's own Python, because tritonserver's Python backend runs models with it.
RUN PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --no-cache-dir --disable-pip-version-check \
       --constraint constraints.txt ".[${EXTRAS}]" \
    && rm -rf /source \
    && groupadd --gid 10001 delugeserve \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp delugeserve
WORKDIR /tmp
ENV HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
# gRPC, HTTP (with /classify, /healthz and /readyz), metrics.
EXPOSE 8001 8000 8002
STOPSIGNAL SIGTERM
# /readyz answers 200 when every model has answered a real request. No proxy is asked.
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 \
    CMD ["python3", "-c", "from urllib.request import ProxyHandler, build_opener; build_opener(ProxyHandler({})).open('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["delugeserve"]
CMD ["serve", "--repository", "/models", "--host", "0.0.0.0", "--insecure", "--metrics-host", "0.0.0.0", "--tritonserver", "/opt/tritonserver/bin/tritonserver"]
