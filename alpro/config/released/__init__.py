"""Conversion of configuration files of the released code (salesforce/ALPRO) to params.yaml."""

from alpro.config.released.configs import Imported, import_configs

__all__ = ["Imported", "import_configs"]
