"""Validation of a job: as the plain validator does it, in whichever process."""

import torch

from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.training.recipe import DiagnosticsRecipe
from liveedit_core.training.validation import Validator
from pipelines.job.sections import StatesSection
from pipelines.training.recipe import TrainRecipe, ValidationSection
from pipelines.training.records import recipe_digest
from pipelines.training.validation import Validation
from tests.tiny_backbone import OUR_CONFIG, case, tiny_backbone

HELD_OUT = [case(number) for number in range(20, 24)]


def recipe(**changes: object) -> TrainRecipe:
    validation = ValidationSection(num_cases=2, bank_edits=4)
    return TrainRecipe(validation=validation, states=StatesSection(is_cached=False)).with_changes(
        **changes
    )


def test_a_job_validates_as_the_plain_validator_does() -> None:
    torch.manual_seed(3)
    first, second = LiveEditGenerator(OUR_CONFIG), LiveEditGenerator(OUR_CONFIG)
    plain = Validator(tiny_backbone(), HELD_OUT, num_cases=2, limits=DiagnosticsRecipe())
    validation = Validation(recipe(), tiny_backbone(), HELD_OUT)
    for generator in (first, second):
        expected, found = plain(generator), validation(generator)
        assert found.figures == expected.figures
        assert found.results == expected.results
        assert validation.first_norm == plain.first_norm


def test_where_a_run_validates_may_change_when_it_is_resumed() -> None:
    elsewhere = ValidationSection(num_cases=2, bank_edits=4, num_gpus=1.0, node_resource="gpus")
    assert recipe_digest(recipe(validation=elsewhere)) == recipe_digest(recipe())
    other = ValidationSection(num_cases=3, bank_edits=4)
    assert recipe_digest(recipe(validation=other)) != recipe_digest(recipe())
