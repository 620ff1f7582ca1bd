"""Where the built-in generator checkpoint lives."""

from pathlib import Path


def builtin_generator_folder() -> Path:
    """Folder with `generator.safetensors`, `config.json`, its recipe and training curve."""
    return Path(__file__).parent / "assets" / "generator"
