"""Tensor names of the authors' implementation, translated to ours (and back).

Their checkpoint is a dict `train_modules` of five state dicts; here a tensor is
`<module>.<name in that state dict>`.
"""

from torch import Tensor

ATTENTION = {"q_mlp": "q_proj", "k_mlp": "k_proj", "v_mlp": "v_proj"}
EXTRACTOR = {
    "eqe1": "phi",
    "eqe2": "psi",
    "vis_rep_prot": "sentinel",
    "ca_query_info_ext1": "phi_prompt_attention",
    "ca_vision_info_ext": "phi_image_attention",
    "ca_query_info_ext2": "psi_attention",
    "layer_norm1": "visual_norm",
    "layer_norm2": "prompt_norm",
}
GENERATOR = {"phi": "query", "ca_lora": "attention", "layer_norm": "norm"}
MODULES: dict[str, tuple[str, dict[str, str]]] = {
    "edit_extractor": ("edit_extractor", EXTRACTOR),
    "inpt_extractor": ("input_extractor", EXTRACTOR),
    "moegen_c": ("down_generator", GENERATOR),
    "moegen_r": ("up_generator", GENERATOR),
    "instant_reps_norm": ("hidden_norm", {}),
}
_REVERSED: dict[str, tuple[str, dict[str, str]]] = {
    ours: (theirs, {value: key for key, value in (ATTENTION | table).items()})
    for theirs, (ours, table) in MODULES.items()
}


def our_name(name: str) -> str:
    """Our name of one of their tensors; a word that is not in the tables stays as it is."""
    module, _, rest = name.partition(".")
    ours, table = MODULES[module]
    parts = [table.get(part, ATTENTION.get(part, part)) for part in rest.split(".")]
    return ".".join([ours, *parts])


def their_name(name: str) -> str:
    """Their name of one of our tensors: the inverse of `our_name`."""
    module, _, rest = name.partition(".")
    theirs, table = _REVERSED[module]
    return ".".join([theirs, *(table.get(part, part) for part in rest.split("."))])


def from_authors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors under our names."""
    return {our_name(name): tensor for name, tensor in tensors.items()}


def to_authors(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Our tensors as their five state dicts."""
    modules: dict[str, dict[str, Tensor]] = {module: {} for module in MODULES}
    for name, tensor in tensors.items():
        module, _, rest = their_name(name).partition(".")
        modules[module][rest] = tensor
    return modules
