"""Step 1 of the how-to of a trained editor: MEND without its networks, the learned rates alone."""

from collections.abc import Sequence

from torch import Tensor, nn

from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.baselines.trained.mend import RATE_GAIN, Mend, MendEditor
from liveedit_core.baselines.trained.rival import CaseBatch
from liveedit_core.baselines.trained.settings import MendTraining


class LearnedRates(Mend):
    """A rate for each of the last feed-forward matrices, on the plain gradient of an edit."""

    name = "rates"

    def __init__(self, config: MendTraining, backbone: VisionLanguageBackbone) -> None:
        super().__init__(config, backbone)
        self.transforms = nn.ModuleDict()

    def observe(self, batch: CaseBatch) -> None:
        """Nothing is standardised."""

    def transformed(
        self, gradients: Sequence[tuple[Tensor, Tensor]]
    ) -> list[tuple[Tensor, Tensor]]:
        rates = self.config.initial_rate * (RATE_GAIN * self.log_rate_M).exp()
        return [
            (inner, delta * rate) for (inner, delta), rate in zip(gradients, rates, strict=True)
        ]


class LearnedRatesEditor(MendEditor):
    """A backbone whose last feed-forward matrices every edit changes by its scaled gradient."""

    name = "rates"
