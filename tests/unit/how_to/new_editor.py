"""An editor as liveedit_core/baselines/README.md says, beside the package: a plugin of pytest."""

from liveedit_core.baselines.settings import FineTuningConfig
from tests.unit.how_to.attention_tuning import AttentionTuning
from tests.unit.liveedit_core.baselines.learning_editors import LAYER_EDITORS


def pytest_configure() -> None:
    """Step 3: what every editor promises is tested for this one, too."""
    LAYER_EDITORS[AttentionTuning.name] = lambda backbone: AttentionTuning(
        backbone, FineTuningConfig(max_steps=120, learning_rate=3e-2)
    )
