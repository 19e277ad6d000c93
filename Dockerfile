# Images of both roles: `docker build --target gateway .` and `docker build --target expert .`
#
#   BASE_IMAGE    Debian or Ubuntu with python3 (3.11 or newer) and venv
#   BASE_DIGEST   its digest, sha256:..., so that it is this image and no other of that name; empty takes what has the name
#   LOCK          what is installed, by hashes; `make lock` writes it
#   TORCH_INDEX   index that torch comes from beside PyPI, if LOCK was written with it, such as that of PyTorch's CPU builds
#   PIP_INDEX     a mirror in place of PyPI; hashes are the same
ARG BASE_IMAGE=docker.io/library/python:3.12.11-slim-bookworm
ARG BASE_DIGEST=""

FROM ${BASE_IMAGE}${BASE_DIGEST:+@${BASE_DIGEST}} AS build
ARG LOCK=docker/locks/image.txt
ARG TORCH_INDEX=""
ARG PIP_INDEX=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev python3-dev \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/expertmesh/venv
ENV PATH=/opt/expertmesh/venv/bin:$PATH
# Dependencies first: a change of our own code does not install them again. Those of both roles, as a gateway needs nearly
# all of them: nodes that run both pull them once.
COPY ${LOCK} /src/image.txt
RUN pip install --require-hashes ${PIP_INDEX:+--index-url "$PIP_INDEX"} \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} --requirement /src/image.txt
COPY docker /src/docker
# Triton would compile the module with which it loads the CUDA driver at run time, where there is no compiler.
RUN sh /src/docker/compile_triton_driver.sh /opt/expertmesh/venv/share/expertmesh/triton-cache
COPY pyproject.toml README.md LICENSE /src/
COPY protos/gen /src/protos/gen
COPY kernels /src/kernels
COPY services /src/services
RUN pip install --no-deps --no-build-isolation /src && python -m expertmesh.kernels.native.prebuilt
RUN sh /src/docker/write_sbom.sh /opt/expertmesh/venv /opt/expertmesh/sbom.cdx.json ${PIP_INDEX:+"$PIP_INDEX"}
COPY examples/tiny-mixtral/awq /opt/expertmesh/tiny-mixtral

FROM ${BASE_IMAGE}${BASE_DIGEST:+@${BASE_DIGEST}} AS runtime
ARG BASE_IMAGE
ARG BASE_DIGEST
LABEL org.opencontainers.image.base.name=${BASE_IMAGE} org.opencontainers.image.base.digest=${BASE_DIGEST}
COPY --from=build /opt/expertmesh /opt/expertmesh
ENV PATH=/opt/expertmesh/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp XDG_CACHE_HOME=/tmp/cache TRITON_CACHE_DIR=/tmp/cache/triton
USER 65532:65532
ENTRYPOINT []

FROM runtime AS gateway
ENV EXPERTMESH_LISTEN=0.0.0.0:50051 EXPERTMESH_HTTP_LISTEN=0.0.0.0:8000
EXPOSE 50051 8000
CMD ["expertmesh", "gateway"]

FROM runtime AS expert
ENV EXPERTMESH_LISTEN=0.0.0.0:50052
EXPOSE 50052
CMD ["expertmesh", "expert"]
