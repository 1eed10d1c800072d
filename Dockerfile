# syntax=docker/dockerfile:1
# Image of the project, made with the same Makefile and lock file as on a host. It runs the pipeline by default.
#
#   docker build -t alpro .                                          # CPU
#   docker build -t alpro --build-arg BASE=gpu .                     # CUDA toolkit, Horovod with NCCL
#   docker run --rm --shm-size=2g -v alpro-work:/home/alpro/work alpro             # make repro
#   docker run --rm --shm-size=2g -v alpro-work:/home/alpro/work alpro make test
#
# Not tested: this file has not been built with a Docker engine, and the GPU variant has not run on a GPU.
ARG BASE=cpu
ARG CPU_IMAGE=debian:12-slim
ARG GPU_BUILD_IMAGE=nvidia/cuda:13.0.1-devel-ubuntu24.04
ARG GPU_RUN_IMAGE=nvidia/cuda:13.0.1-base-ubuntu24.04

# --- CPU and GPU variants: images, torch, Horovod
FROM ${CPU_IMAGE} AS build-cpu
# An index with CPU builds of torch saves 4 GB: --build-arg TORCH_INDEX=URL
ARG TORCH_INDEX=""
ENV PIP_EXTRA_INDEX_URL=${TORCH_INDEX} HOROVOD_TARGET=horovod
FROM ${GPU_BUILD_IMAGE} AS build-gpu
ENV HOROVOD_TARGET=horovod-gpu
FROM ${CPU_IMAGE} AS run-cpu
FROM ${GPU_RUN_IMAGE} AS run-gpu

# --- the environment; compiler and headers are only in this stage
# hadolint ignore=DL3006
FROM build-${BASE} AS build
ARG DEBIAN_FRONTEND=noninteractive
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates g++ git make python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --shell /bin/bash alpro \
    && install -d -o alpro -g alpro /home/alpro/work
USER 10001
WORKDIR /home/alpro/work
# only the inputs of the environment, so that a change of the code does not install everything again
COPY --chown=alpro:alpro Makefile pyproject.toml requirements.lock LICENSE README.md ./
COPY --chown=alpro:alpro tools tools
COPY --chown=alpro:alpro alpro/__init__.py alpro/__init__.py
COPY --chown=alpro:alpro flows/__init__.py flows/__init__.py
RUN make "${HOROVOD_TARGET}"

# --- the final image: no compiler, not root
# hadolint ignore=DL3006
FROM run-${BASE} AS run
ARG DEBIAN_FRONTEND=noninteractive
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git make openssh-client python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --shell /bin/bash alpro \
    && install -d -o alpro -g alpro /home/alpro/work
ENV LANG=C.UTF-8 PYTHONUNBUFFERED=1
USER 10001
WORKDIR /home/alpro/work
COPY --from=build --chown=alpro:alpro /home/alpro/work/.venv .venv
COPY --from=build --chown=alpro:alpro /home/alpro/work/.make .make
COPY --chown=alpro:alpro . .
# DVC needs git; an image built from an archive gets its own repository
RUN git config --global user.name alpro \
    && git config --global user.email alpro@localhost \
    && if ! git rev-parse --git-dir >/dev/null 2>&1; then \
        rm -f .git && git init -q . && git add -A && git commit -q -m "The image's sources"; \
    fi
VOLUME ["/home/alpro/work"]
# web pages of MLflow and Prefect, if they are started in the container
EXPOSE 5000 4200
HEALTHCHECK NONE
CMD ["make", "repro"]
