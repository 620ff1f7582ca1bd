"""The validation worker: a generator in training in, its metrics on held-out cases out.

Owns: one frozen backbone, and the held-out cases with their states.
Receives: configuration and weights of a generator. Returns: a `ValidationReport`.
When it dies: nothing is lost. It is restarted, reads or encodes the states again, and repeats the
    validation with the same numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from torch import Tensor

from liveedit_core.backbones.protocol import Backbone
from liveedit_core.method.config import GeneratorConfig
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.schema import Case
from liveedit_core.training.validation import ValidationReport, Validator
from workers.failures import converted_failures
from workers.models import CacheNames, limit_threads, open_states


class ValidationWorker:
    """Validates with a backbone held in memory."""

    @converted_failures
    def __init__(
        self,
        load_backbone: Callable[[], Backbone],
        held_out: Sequence[Case],
        *,
        cache: CacheNames | None = None,
        num_threads: int = 0,
        **options: Any,
    ) -> None:
        """Load the model; see `limit_threads`. `options` are those of `Validator`."""
        limit_threads(num_threads)
        backbone = load_backbone()
        source = open_states(backbone, cache)
        self._validator = Validator(backbone, held_out, source=source, **options)

    @converted_failures
    def validate(
        self, config: GeneratorConfig, weights: Mapping[str, Tensor], first_norm: float
    ) -> ValidationReport:
        """Validate a generator; `first_norm` is the median norm of the first one's experts, 0 for
        the first."""
        generator = LiveEditGenerator(config)
        generator.load_state_dict(dict(weights))
        self._validator.first_norm = first_norm
        return self._validator(generator)


ValidationActor = ray.remote(ValidationWorker)
