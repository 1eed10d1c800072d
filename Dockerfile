# syntax=docker/dockerfile:1
# Images of the project, made with the same Makefile and lock file as on a host (`make image`, tools/image.py).
#
#   run    the whole pipeline with its tools; runs `make repro` by default
#   serve  the library with `alpro serve` and `alpro app` only
#
# Both run as user 10001. The build needs no secret, and settings of the machine (mirrors, certificates, folders of wheels) are mounted
# for the build, not copied: see docs/deployment.md.
ARG BUILD_IMAGE=debian:12-slim
ARG RUN_IMAGE=debian:12-slim

# --- compiler, headers and the project's packaging files: only for the builds below
# hadolint ignore=DL3006
FROM ${BUILD_IMAGE} AS tools
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
COPY --chown=10001:10001 Makefile pyproject.toml requirements.lock LICENSE README.md ./
COPY --chown=10001:10001 tools/build_horovod.py tools/file_lock.py tools/horovod_cmake.py tools/make_venv.py tools/pip_settings.py \
    tools/processes.py tools/python.sh tools/setup.sh tools/slim_environment.sh tools/
COPY --chown=10001:10001 alpro/__init__.py alpro/__init__.py
COPY --chown=10001:10001 flows/__init__.py flows/__init__.py

# --- the environment of the pipeline
FROM tools AS build
# horovod (CPU), horovod-gpu or horovod-none
ARG HOROVOD_TARGET=horovod
# an index with CPU builds of torch saves 4 GB
ARG TORCH_INDEX=""
RUN export ${TORCH_INDEX:+"PIP_EXTRA_INDEX_URL=${TORCH_INDEX}"} LANG=C.UTF-8 \
    && make "${HOROVOD_TARGET}" \
    && sh tools/slim_environment.sh .venv \
    && rm -rf /home/alpro/.cache .make/*.lock

# --- the environment of `alpro serve` and `alpro app`, at the versions of the lock
FROM tools AS build-serve
ARG TORCH_INDEX=""
RUN export ${TORCH_INDEX:+"PIP_EXTRA_INDEX_URL=${TORCH_INDEX}"} LANG=C.UTF-8 \
    && python3 -m venv /home/alpro/serve \
    && /home/alpro/serve/bin/pip install --quiet --no-cache-dir --constraint requirements.lock \
        ".[serve,app]" mlflow-skinny sqlalchemy alembic setuptools \
    && sh tools/slim_environment.sh /home/alpro/serve
COPY --chown=10001:10001 alpro alpro
COPY --chown=10001:10001 flows flows
# bytecode only of what the services import: that of all packages would be a sixth of the image
RUN /home/alpro/serve/bin/pip install --quiet --no-cache-dir --no-deps --no-build-isolation --force-reinstall . \
    && /home/alpro/serve/bin/pip uninstall --quiet --yes setuptools pip \
    && find /home/alpro/serve -name __pycache__ -prune -exec rm -rf {} + \
    && cd /home/alpro && serve/bin/python -c "import alpro.api.service, alpro.app.page, alpro.registry.evaluate, gradio, uvicorn" \
    && serve/bin/python -c "import mlflow.store.model_registry.sqlalchemy_store, mlflow.store.tracking.sqlalchemy_store"

# --- image `serve`: no compiler, no git, not root
# hadolint ignore=DL3006
FROM ${RUN_IMAGE} AS serve
ARG DEBIAN_FRONTEND=noninteractive
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && useradd --uid 10001 --create-home --shell /bin/bash alpro \
    && install -d -o alpro -g alpro /home/alpro/work
ENV LANG=C.UTF-8 PYTHONUNBUFFERED=1 PATH=/home/alpro/serve/bin:/usr/local/bin:/usr/bin:/bin
USER 10001
WORKDIR /home/alpro/work
COPY --from=build-serve --chown=10001:10001 /home/alpro/serve /home/alpro/serve
COPY --chown=10001:10001 LICENSE params.yaml ./
COPY --chown=10001:10001 recipes recipes
EXPOSE 8080
# other addresses than loopback need ALPRO_API_TOKEN
CMD ["alpro", "serve", "--videos", "/home/alpro/work/videos", "--host", "0.0.0.0"]

# --- image `run`: no compiler, not root
# hadolint ignore=DL3006
FROM ${RUN_IMAGE} AS run
ARG DEBIAN_FRONTEND=noninteractive
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates git make openssh-client python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && useradd --uid 10001 --create-home --shell /bin/bash alpro \
    && install -d -o alpro -g alpro /home/alpro/work /home/alpro/.cache /home/alpro/.cache/alpro /home/alpro/.cache/alpro/pool
ENV LANG=C.UTF-8 PYTHONUNBUFFERED=1
USER 10001
WORKDIR /home/alpro/work
COPY --from=build --chown=10001:10001 /home/alpro/work/.venv .venv
COPY --from=build --chown=10001:10001 /home/alpro/work/.make .make
COPY --chown=10001:10001 . .
# DVC needs git; the image gets a repository of its own, without the settings and the history of the one it was made from
RUN git config --global user.name alpro \
    && git config --global user.email alpro@localhost \
    && rm -rf .git && git init -q -b main . && git add -A && git commit -q -m "The image's sources"
# web pages of MLflow and Prefect, if they are started in the container
EXPOSE 5000 4200
CMD ["make", "repro"]
