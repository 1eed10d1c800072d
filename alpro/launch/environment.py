"""The environment variables that ranks get; all others, such as the password of the Prefect server, stay with the launcher."""

from __future__ import annotations

import os
from collections.abc import Mapping

from alpro.launch.start import kept

EXTRA = "ALPRO_RANK_VARIABLES"  # further names or patterns, separated by commas

# Each host has its own values of these.
OF_THE_HOST = (
    "HOME", "USER", "LOGNAME", "SHELL", "HOSTNAME", "TMPDIR", "TEMP", "TMP", "TZ", "LANG", "LANGUAGE", "LC_*", "XDG_*_HOME",
    "CUDA_*", "NVIDIA_*", "LD_LIBRARY_PATH", "LD_PRELOAD", "SYSTEMROOT",
)  # fmt: skip
# These are sent to every rank: paths, threads, libraries, and what reaching the tracking store and the data needs.
SENT = (
    "PATH", "LD_LIBRARY_PATH", "LANG", "LC_*", "TZ", "PYTHON*", "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV",
    "OMP_*", "MKL_*", "OPENBLAS_*", "KMP_*", "GOMP_*", "NUMEXPR_*", "MALLOC_*", "TOKENIZERS_PARALLELISM", "DECORD_*",
    "HOROVOD_*", "GLOO_*", "NCCL_*", "CUDA_*", "CUBLAS_*", "CUDNN_*", "NVIDIA_*", "TORCH*", "PYTORCH_*", "ATEN_*",
    "ALPRO_*", "DVC_*", "GIT_*", "MLFLOW_*", "GX_*", "HF_*", "TRANSFORMERS_*", "COLUMNS", "NO_COLOR", "FORCE_COLOR", "TERM",
    "AWS_*", "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_*", "SSL_CERT_*", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
)  # fmt: skip


def sent_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """Return those of the launcher's variables that every rank gets."""
    extra = [name.strip() for name in variables.get(EXTRA, "").split(",") if name.strip()]
    return kept(variables, [*SENT, *extra])


def host_variables() -> list[str]:
    """Return the names and patterns of the variables that a rank keeps from its own host."""
    return [*OF_THE_HOST, *(name.strip() for name in os.environ.get(EXTRA, "").split(",") if name.strip())]
