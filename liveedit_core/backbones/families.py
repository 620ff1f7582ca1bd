"""What differs between families of vision-language models, as data.

Everything else is read from the model and its processor. Families are known by the `model_type` of
their configuration; the README of this folder says how to add one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from liveedit_core.backbones.load_options import PromptProtocol
from liveedit_core.errors import ConfigError
from liveedit_core.schema import digest_of_parts

Positions = Literal["plain", "grid", "prefix", "blocks"]
IMAGE = "{image}"
PROMPT = "{prompt}"


@dataclass(frozen=True, kw_only=True)
class PromptFormat:
    """How prompts are worded; `{image}` is where the image tokens go."""

    with_image: str
    text_only: str

    def __post_init__(self) -> None:
        for name in ("with_image", "text_only"):
            value = getattr(self, name)
            if value.count(PROMPT) != 1:
                raise ConfigError(f"prompt format {name}: expected {PROMPT} once, got {value!r}")
        if self.with_image.count(IMAGE) != 1 or IMAGE in self.text_only:
            raise ConfigError(
                f"prompt format: expected {IMAGE} once in with_image and nowhere else, got "
                f"{self.with_image!r} and {self.text_only!r}"
            )
        if self.with_image.index(IMAGE) > self.with_image.index(PROMPT):
            raise ConfigError(
                f"prompt format with_image: expected {IMAGE} before {PROMPT}, got "
                f"{self.with_image!r}; the prompt must attend to the image"
            )


@dataclass(frozen=True, kw_only=True)
class Family:
    """Where the parts of a family's models are, and how its prompts look."""

    prompt_format: PromptFormat
    """Used where the processor has no chat template."""
    decoder: str = "model.language_model"
    """Path of the module that holds `layers`."""
    trunk: str = "model"
    """Path of the module that takes token ids and pixels and ends before the head."""
    text_trunk: str = "model"
    """Path of a module that takes embeddings alone."""
    text_generator: str = ""
    """Path of the module that generates for prompts without an image; "" is the model."""
    positions: Positions | None = "plain"
    """"plain": from the mask; "grid": they depend on the image's grid of patches (multimodal rotary
    embeddings); "prefix": prompt tokens attend in both directions, target tokens only backwards;
    "blocks": the tokens of an image attend to each other in both directions.
    None: as "plain", but no mask is passed where padding is on the right: rows never see it."""
    has_chat_template: bool = True
    """Whether the processor's chat template, if it has one, words the prompts."""
    has_special_tokens: bool = True
    """Whether the tokenizer's special tokens (bos) are added to a prompt."""
    assembles_tokens: bool = False
    """Whether image tokens are put among the text here and not by the processor."""
    image_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the processor for images."""
    least_image_tokens: int = 1
    """Smaller images are refused."""
    prompt_end: str = ""
    """What the processor appends to a prompt with an image."""
    paper_format: PromptFormat | None = None
    """Of the protocol "paper"; None where `prompt_format` adds no words."""
    layer_types: frozenset[str] = frozenset({"full_attention", "sliding_attention"})
    """Kinds of decoder layers that the tests cover; others are refused."""

    @property
    def has_plain_steps(self) -> bool:
        """Whether positions and mask of a next token follow from the length alone."""
        return self.positions in (None, "plain") and not self.text_generator


_PLAIN = PromptFormat(with_image="{image}\n{prompt}", text_only="{prompt}")
_USER = PromptFormat(
    with_image="USER: {image}\n{prompt} ASSISTANT:", text_only="USER: {prompt} ASSISTANT:"
)
_QWEN = PromptFormat(
    with_image="<|vision_start|>{image}<|vision_end|>{prompt}", text_only="{prompt}"
)
_IDEFICS = Family(
    prompt_format=_PLAIN,
    decoder="model.text_model",
    # One tile an image: its tokens are one span, and few.
    image_options={"do_image_splitting": False},
)

FAMILIES: dict[str, Family] = {
    "llava": Family(prompt_format=_USER, paper_format=_PLAIN),
    "fast_vlm": Family(prompt_format=_PLAIN),
    "llava_onevision": Family(prompt_format=_PLAIN),
    "qwen2_vl": Family(prompt_format=_QWEN, positions="grid"),
    "qwen2_5_vl": Family(prompt_format=_QWEN, positions="grid"),
    "qwen3_vl": Family(prompt_format=_QWEN, positions="grid"),
    "qwen3_5": Family(
        prompt_format=_QWEN,
        positions="grid",
        layer_types=frozenset({"full_attention", "linear_attention"}),
    ),
    "llava_next": Family(prompt_format=_PLAIN),
    "internvl": Family(prompt_format=_PLAIN),
    # transformers' projector drops the only row of an image that has one (`squeeze`).
    "mistral3": Family(prompt_format=_PLAIN, least_image_tokens=2),
    "gemma3": Family(
        prompt_format=_PLAIN, positions="blocks", image_options={"do_pan_and_scan": False}
    ),
    "gemma4": Family(prompt_format=_PLAIN, positions="blocks"),
    "idefics3": _IDEFICS,
    "smolvlm": _IDEFICS,
    "paligemma": Family(
        prompt_format=PromptFormat(with_image="{image}{prompt}", text_only="{prompt}\n"),
        positions="prefix",
        has_chat_template=False,
        prompt_end="\n",
    ),
    "blip-2": Family(
        prompt_format=PromptFormat(
            with_image="{image}Question: {prompt} Answer:", text_only="Question: {prompt} Answer:"
        ),
        decoder="language_model.model",
        trunk="",
        text_trunk="language_model.model",
        text_generator="language_model",
        has_chat_template=False,
        assembles_tokens=True,
        paper_format=PromptFormat(with_image="{image}{prompt}", text_only="{prompt}"),
    ),
}


def register_family(model_type: str, family: Family) -> None:
    """Make a family known in this process (an entry of `FAMILIES` is known to the actors of jobs as
    well); ConfigError if it is known already."""
    if model_type in FAMILIES:
        raise ConfigError(f"backbone family {model_type!r} is known already")
    FAMILIES[model_type] = family


def family_of(config: Any) -> Family:
    """The family of a model, by its transformers configuration; an encoder-decoder is refused."""
    text = config.get_text_config(decoder=True)
    kinds = [getattr(part, "is_encoder_decoder", False) for part in (config, text)]
    if any(kinds) or getattr(config, "use_decoder_only_language_model", True) is False:
        raise ConfigError(
            f"{config.model_type} with {text.model_type} is an encoder-decoder; the method edits "
            "decoder-only models, where image, prompt and answer are one sequence. Use a "
            "decoder-only variant, such as BLIP-2 with OPT instead of T5."
        )
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise ConfigError(
            f"backbone family {config.model_type!r} is not known; expected one of "
            f"{', '.join(FAMILIES)}. liveedit_core/backbones/README.md says how to add one."
        )
    if unproven := sorted(set(getattr(text, "layer_types", None) or ()) - family.layer_types):
        raise ConfigError(
            f"{config.model_type} with {text.model_type}: it has layers of {', '.join(unproven)}, "
            f"which no test covers; expected {', '.join(sorted(family.layer_types))}"
        )
    for name in ("num_kv_shared_layers", "hidden_size_per_layer_input"):
        if number := getattr(text, name, None):
            raise ConfigError(
                f"{config.model_type} with {name} = {number}: later layers read more than "
                "hidden states (keys of earlier layers, or embeddings of their own), so it cannot "
                "be cut; take a model of this family without (Gemma 4 31B or 26B-A4B)"
            )
    return family


def check_layer(config: Any, edit_layer: int, depth: int) -> None:
    """Raise ConfigError for a layer at which a decoder of this depth cannot be cut."""
    first = first_edit_layer(config)
    if not first <= edit_layer < depth - 1:
        where = f" and image features enter until layer {first - 1}" if first else ""
        raise ConfigError(
            f"edit layer {edit_layer}: the decoder has {depth} layers{where}, and at least one "
            f"must follow; expected {first} to {depth - 2}"
        )


def first_edit_layer(config: Any) -> int:
    """The first layer behind all that image features enter (DeepStack: after the first layers)."""
    vision = getattr(config, "vision_config", None)
    return len(getattr(vision, "deepstack_visual_indexes", None) or ())


def paper_format(config: Any, tokenizer: Any) -> PromptFormat:
    """Prompts as LiveEdit's authors feed them: raw, the image first, and no words added.

    LLaVA: `<image>`, a line break, the prompt. BLIP-2: the queries, then the prompt with its bos
    token. MiniGPT-4 (BLIP-2's layout with Llama): the bos token, the queries, a line break.
    """
    family = family_of(config)
    is_minigpt4 = (
        config.model_type == "blip-2" and config.get_text_config(decoder=True).model_type == "llama"
    )
    if is_minigpt4:
        bos = tokenizer.bos_token or ""
        return PromptFormat(with_image=bos + _PLAIN.with_image, text_only=_PLAIN.text_only)
    return family.paper_format or family.prompt_format


def protocol_digest(digest: str, protocol: PromptProtocol) -> str:
    """Identity of a backbone under a prompt protocol: experts and states of both never mix."""
    if protocol == "chat":
        return digest
    return digest_of_parts((digest.encode(), protocol.encode()))


def decoder_path(model: Any, path: str) -> str:
    """Path of the module that holds the decoder layers; OPT has them one level deeper."""
    inner = model.get_submodule(path)
    return path if hasattr(inner, "layers") else f"{path}.decoder"


def image_token_id(config: Any, processor: Any) -> int:
    """The placeholder of image tokens."""
    for source in (config, processor):
        if (found := getattr(source, "image_token_id", None)) is not None:
            return int(found)
    raise ConfigError(
        f"{config.model_type}: the configuration names no image_token_id; this checkpoint is "
        "older than the placeholder tokens of its family, take a newer revision"
    )


def tokens_per_image(config: Any) -> int:
    """For families that assemble tokens."""
    names = ("num_query_tokens", "image_seq_length")
    return next((int(getattr(config, name)) for name in names if hasattr(config, name)), 0)


def end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer."""
    ids = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = ids if isinstance(ids, list) else [ids]
    return frozenset(int(i) for i in [*listed, tokenizer.eos_token_id] if i is not None)
