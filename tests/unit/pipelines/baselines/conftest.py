"""One comparison for all tests of this folder: it takes some seconds."""

import pytest

from pipelines.baselines.compare import Comparison
from tests.unit.pipelines.baselines.tiny_comparison import RECIPE, compared


@pytest.fixture(scope="package")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return compared(RECIPE, tmp_path_factory.mktemp("run"))
