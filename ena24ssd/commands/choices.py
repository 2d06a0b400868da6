"""Which config do the words of a command line make?"""

from __future__ import annotations

from collections.abc import Sequence

from ena24ssd.config import ConfigError, RunConfig, read_config


def choose_config(words: Sequence[str]) -> RunConfig:
    """The config of a preset file, if one is among ``words``, with the ``section.field=value`` among them laid over it.

    Raises ConfigError.
    """
    return read_config(preset_of(words), [word for word in words if "=" in word])


def preset_of(words: Sequence[str]) -> str | None:
    """The file among ``words``, or None. Raises ConfigError for two."""
    files = [word for word in words if "=" not in word]
    if len(files) > 1:
        raise ConfigError(f"one config file at most, not {' and '.join(files)}; overrides are section.field=value")
    return files[0] if files else None
