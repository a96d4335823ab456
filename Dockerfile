# The Penstock server, without torch, for any user and a read-only root.
#
#   docker build -t penstock .                              on the CPU
#   docker build -t penstock:gpu --build-arg RUNTIME=gpu .  on NVIDIA GPUs (CUDA 13)
#   docker run -p 8001:8001 -p 8002:8002 -v "$PWD/models:/models:ro" penstock
#
# One model in place of a repository, as KServe mounts it: serve /mnt/models --model-name NAME.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG RUNTIME=cpu
WORKDIR /src
COPY pyproject.toml constraints.txt ./
COPY tools/image_requirements.py tools/
# Dependencies before the code, so that a change of the code builds in seconds.
RUN python3 tools/image_requirements.py "${RUNTIME}" > requirements.txt \
    && python3 -m venv --without-pip /opt/penstock \
    && python3 -m pip --python /opt/penstock/bin/python install --no-cache-dir --no-compile \
        --constraint constraints.txt --requirement requirements.txt
# The native transport, if `make native` built it; without it the server uses the threaded one.
COPY README.md LICENSE dist/penstock_transport-*.whl ./wheels/
RUN python3 -m pip --python /opt/penstock/bin/python install --no-cache-dir --no-compile \
        --no-index --find-links wheels penstock-transport \
    || echo "no native transport for this platform in dist/: the image runs on the threaded one"
COPY README.md LICENSE ./
COPY service/ service/
COPY exporter/ exporter/
RUN python3 -m pip --python /opt/penstock/bin/python install --no-cache-dir --no-compile --no-deps . \
    && find /opt/penstock/lib -type d \( -name tests -o -name __pycache__ -o -name exporter \
        -o -path '*/onnxruntime/transformers' -o -path '*/onnxruntime/quantization' \
        -o -path '*/onnxruntime/tools' -o -path '*/onnxruntime/datasets' \
        -o -path '*/onnxruntime/backend' -o -path '*/numpy/f2py' \) -prune -exec rm -rf {} + \
    # The runtime once more, for programs in C; the Python module holds all of it itself.
    && rm -f /opt/penstock/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime.so.* \
    && find /opt/penstock/bin -type f ! -name penstock -delete

# The system without what only builds and installs.
FROM ${PYTHON_IMAGE} AS system
RUN rm -rf /usr/local/lib/python3*/site-packages/* /usr/local/lib/python3*/ensurepip \
        /usr/local/lib/python3*/idlelib /usr/local/lib/python3*/lib2to3 \
        /usr/local/lib/python3*/tkinter /usr/local/lib/python3*/turtledemo \
        /usr/local/lib/python3*/test /usr/local/include /usr/local/bin/pip* \
        /usr/local/bin/idle* /usr/local/bin/2to3* /usr/local/bin/pydoc* \
        /var/cache/apt/* /var/lib/apt/lists/* /var/log/* /root/.cache \
    && find / -xdev -type d -name __pycache__ -prune -exec rm -rf {} +

# Bytecode of the modules that the server imports, and of no others: with it the server is up in a
# quarter of the time, and each health check costs little. In a tree of its own, away from the base.
FROM system AS compiled
COPY --from=build /opt/penstock /opt/penstock
RUN ORT_DISABLE_TELEMETRY=1 PYTHONPYCACHEPREFIX=/opt/penstock/bytecode /opt/penstock/bin/python -c "\
from importlib import import_module; from pkgutil import walk_packages; import service; \
names = [module.name for module in walk_packages(service.__path__, 'service.')]; \
[import_module(name) for name in names if not name.endswith('.__main__')]"

# From scratch, because what a later layer deletes would still be shipped in the earlier one.
FROM scratch
# hadolint ignore=DL3067
COPY --from=system / /
COPY --from=compiled /opt/penstock /opt/penstock
ENV PATH=/opt/penstock/bin:/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    PYTHONPYCACHEPREFIX=/opt/penstock/bytecode \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 65532:65532
EXPOSE 8001 8002
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["penstock", "health"]
ENTRYPOINT ["penstock"]
CMD ["serve", "/models", "--host", "0.0.0.0", "--allow-insecure"]
