"""The registered model as MLflow loads it: this file is its code (no pickle), the checkpoint and alpro travel with it.

    table = pandas.DataFrame({"video": ["videos/video1.mp4"], "question": ["what is shown?"]})
    mlflow.pyfunc.load_model("models:/alpro-msvd_qa@champion").predict(table)

`model_config` (an argument of `load_model`) can set `media_root`, the folder in which videos are looked for; a server is
told by the environment variable ALPRO_MEDIA_ROOT.
"""

import logging
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from pandas import DataFrame


class VideoTextModel(PythonModel):
    """Scores of captions, or answers to questions, for a table of videos."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the checkpoint that was packed with this code."""
        from alpro.serving.registered import alias_warning
        from alpro.serving.service import Service

        config = context.model_config or {}
        checkpoint = Path(context.artifacts["checkpoint"])
        if said := alias_warning(checkpoint.parents[1], config.get("registered")):
            logging.getLogger("alpro.serving").warning(said)
        self.service = Service.load(checkpoint, config["frames"], config["max_text_tokens"], config.get("media_root"))

    def predict(self, context: PythonModelContext, model_input: DataFrame, params: dict[str, Any] | None = None) -> DataFrame:
        """A row of results for each row of the table (see `Service.ask`); what a caller did wrong is a bad request."""
        from alpro.errors import DataError

        try:
            return self.service.ask(model_input)
        except DataError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None


set_model(VideoTextModel())
