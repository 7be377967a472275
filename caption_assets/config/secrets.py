"""Secrets of the pipeline file: named there, never written there."""

from __future__ import annotations

import os
import re

from pydantic import field_validator

from caption_assets.config.datasets import Strict
from caption_assets.config.errors import ConfigError

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,100}")


class EnvironmentSecret(Strict):
    """A secret by reference: the name of the environment variable that holds it."""

    env: str

    @field_validator("env")
    @classmethod
    def _is_a_variable(cls, value: str) -> str:
        if not _VARIABLE.fullmatch(value):  # perhaps the secret itself: it must not be shown
            raise ValueError("must be the name of an environment variable (letters, digits, '_'), never the key itself")
        return value

    def read(self, field: str) -> str:
        """The secret. Raises ConfigError, naming the field and the variable, where the variable is not set."""
        value = os.environ.get(self.env, "").strip()
        if not value:
            raise ConfigError(f"{field}: the environment variable {self.env} is not set; set it to the key")
        if not (value.isascii() and value.isprintable()):
            raise ConfigError(f"{field}: the environment variable {self.env} holds no usable key; set it to one line")
        return value


def by_reference(value: object) -> object:
    """Return what may become an EnvironmentSecret. Raises ValueError for a secret written out, without showing it."""
    if value is not None and not isinstance(value, dict | EnvironmentSecret):
        raise ValueError("a key must not stand in the pipeline file; write {env: NAME} and set that variable")
    return value
