"""Model code of a registered version (no pickle). MLflow packs the checkpoint and the alpro package with it.

    table = pandas.DataFrame({"video": ["videos/video1.mp4"], "question": ["what is shown?"]})
    mlflow.pyfunc.load_model("models:/alpro-msvd_qa@champion").predict(table)

`model_config`, an argument of `load_model`, can set `media_root`, the folder with the videos. For a server it is set by the
environment variable ALPRO_MEDIA_ROOT; without it, a server reads no videos.
"""

import json
import logging
import os
from pathlib import Path
from typing import Any

from mlflow.environment_variables import _MLFLOW_IS_IN_SERVING_ENVIRONMENT
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext
from pandas import DataFrame


class BadRequest(MlflowException):
    """An invalid input. The server answers with status 400 and this message alone, without a copy of the input."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, error_code=INVALID_PARAMETER_VALUE)
        self.sentence = sentence

    def serialize_as_json(self) -> str:
        """Return the server's answer; MLflow changes `message` to one that contains the whole input."""
        return json.dumps({"error_code": self.error_code, "message": self.sentence})


class VideoTextModel(PythonModel):
    """Scores captions or answers questions for a table of videos."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the checkpoint that is packed with this code."""
        from alpro.registry.alias_warning import alias_warning
        from alpro.serving.service import MEDIA_ROOT, Service

        config = context.model_config or {}
        self.confined = bool(config.get("media_root") or os.environ.get(MEDIA_ROOT))
        checkpoint = Path(context.artifacts["checkpoint"])
        if warning := alias_warning(checkpoint.parents[1], config.get("registered")):
            logging.getLogger("alpro.serving").warning(warning)
        self.service = Service.load(checkpoint, config["frames"], config["max_text_tokens"], config.get("media_root"))

    def predict(self, context: PythonModelContext, model_input: DataFrame, params: dict[str, Any] | None = None) -> DataFrame:
        """Return one row of results per input row (see `Service.predict`). Invalid input is reported as a bad request."""
        from alpro.errors import DataError
        from alpro.serving.service import MEDIA_ROOT

        if _MLFLOW_IS_IN_SERVING_ENVIRONMENT.get() and not self.confined:  # a client must not read any file
            message = f"this server has no folder of videos and reads none; restart it with {MEDIA_ROOT} set"
            raise BadRequest(message)
        try:
            return self.service.predict(model_input)
        except DataError as error:
            raise BadRequest(" ".join(str(error).split())) from None


set_model(VideoTextModel())
