"""What users of the released code (salesforce/ALPRO) bring along: its configuration files, turned into our parameters."""

from alpro.config.released.configs import Imported, import_configs

__all__ = ["Imported", "import_configs"]
