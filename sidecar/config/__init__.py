"""The configuration: one YAML file over the built-in defaults, under environment variables and flags (`docs/configuration.md`)."""

from sidecar.config.model import Config
from sidecar.config.reading import read
from sidecar.config.schema import json_schema

__all__ = ["Config", "json_schema", "read"]
