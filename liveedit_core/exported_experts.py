"""Experts as one safetensors file for other runtimes.

`reference_reader.py` reads it and routes as in the paper. A generator with any other routing, such
as the committed one, can be exported, but that reader refuses the file: it lacks the image tower,
the sentence encoders and the gates of such a routing. Textual edits and forms have no place in it:
experts are exported without them where that is asked for.

    down, up          float32 [L, D]   rank slots of all experts, one expert after another
    rank              int64   [N]      slots of each expert; their sum is L
    visual, prompt    float32 [N, K]   routing features of each expert, K = Q * M (Eq. 3 and 4)
    norm.*            float32          LayerNorm of the hidden states at l_e before `down` (Eq. 6)
    router.*          float32          what makes the features of a question: `input_extractor`,
                                       `visual_key` and `prompt_key` of the generator

The metadata holds texts: `format` ("liveedit-experts"), `version` ("1"), `edit_ids` (a JSON list
in the order of the experts), `config` (that of the generator, JSON: edit layer, gain, routing),
`backbone_digest` (which weights they belong to) and `offset` (of the visual filter).
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from liveedit_core.errors import ConfigError
from liveedit_core.method.calibration import calibrate
from liveedit_core.method.generator import LiveEditGenerator
from liveedit_core.method.prompt_key import form_slots
from liveedit_core.method.repository import ExpertRepository, dense
from liveedit_core.whole_files import write_whole, writing_to

FORMAT, VERSION = "liveedit-experts", "1"
_ROUTER = ("input_extractor", "visual_key", "prompt_key")


def export_experts(
    file: Path | str,
    generator: LiveEditGenerator,
    repository: ExpertRepository,
    backbone_digest: str,
    *,
    is_partial: bool = False,
) -> int:
    """Write the experts of a repository that are held; returns their number.

    Textual edits, and what experts answer beside their facts, are an error; with `is_partial` they
    are left out.
    """
    textual = set(repository.textual_positions.tolist())
    left_out = textual if is_partial else set()
    held = repository.take([n for n in repository.held_positions.tolist() if n not in left_out])
    if not len(held):
        raise ConfigError("there is no edit to export")
    if not is_partial and (textual or held.forms):
        raise ConfigError(
            f"this layout holds no edits without an image ({len(textual)} here), and nothing that "
            f"follows from facts (refine.derived; of {len(held.forms)} edits here): --partial "
            "(is_partial=True) leaves these out"
        )
    ranks = held.ranks_N.tolist()
    plain = [
        form_slots(held.forms[n], rank)[0] if n in held.forms else rank
        for n, rank in enumerate(ranks)
    ]
    down_LD, up_LD = (
        torch.cat([part[:number] for part, number in zip(factor.split(ranks), plain, strict=True)])
        for factor in held.matrices(torch.arange(len(held)))
    )
    tensors = {
        "down": down_LD,
        "up": up_LD,
        "rank": torch.tensor(plain),
        "visual": dense(held.visual),
        "prompt": dense(held.prompt),
    }
    tensors |= {f"norm.{name}": t for name, t in generator.hidden_norm.state_dict().items()}
    tensors |= _router(generator)
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "edit_ids": json.dumps(held.edit_ids),
        "config": generator.config.model_dump_json(),
        "backbone_digest": backbone_digest,
        "offset": repr(calibrate(generator, held).offset),
    }
    stored = {name: t.detach().cpu() for name, t in tensors.items()}
    stored = {
        n: (t.float() if t.is_floating_point() else t).contiguous() for n, t in stored.items()
    }
    with writing_to(file) as place:
        write_whole(place, save(stored, metadata))
    return len(held)


def _router(generator: LiveEditGenerator) -> dict[str, Tensor]:
    """The names of `input_extractor` are shortened, as nearly all files have only that."""
    tensors: dict[str, Tensor] = {}
    for part in _ROUTER:
        prefix = "router." if part == "input_extractor" else f"router.{part}."
        if hasattr(generator, part):
            own = getattr(generator, part).state_dict()
            tensors |= {f"{prefix}{name}": tensor for name, tensor in own.items()}
    return tensors
