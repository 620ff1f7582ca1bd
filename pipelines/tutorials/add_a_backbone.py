# %% [markdown]
# # Add a backbone
#
# LiveEdit cuts a vision-language model at one decoder layer. For a family that it does not know, it
# must be told where the layers are and how a prompt looks: one `Family`. Here the family is
# ViP-LLaVA, the model a tiny one with random weights, so that everything runs in seconds.
#
# Run it as a script, or open it as a notebook (VS Code and Jupytext read the cells). The text below
# a cell is what the cell prints; a test runs all of it.

# %%
from pathlib import Path

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)

from liveedit_core.backbones.families import Family, PromptFormat, register_family
from liveedit_core.backbones.load_options import LoadOptions
from liveedit_core.backbones.loading import load_backbone
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.baselines.fine_tuning import FineTuning
from liveedit_core.baselines.settings import FineTuningConfig
from liveedit_core.errors import ConfigError
from liveedit_core.inputs.images import encoded
from liveedit_core.method.editor import edit_input
from liveedit_core.schema import EditRequest
from liveedit_core.states import pad_hidden

# %% [markdown]
# ## A checkpoint
#
# Take the folder of a real one. This cell writes a tiny one, with a tokenizer of single bytes.

# %%
letters = {
    letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))
}
bytewise = Tokenizer(models.BPE(vocab=letters, merges=[]))
bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
bytewise.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=bytewise,
    bos_token="<s>",
    eos_token="</s>",
    pad_token="<pad>",
    additional_special_tokens=["<image>"],
)
torch.manual_seed(0)
config = VipLlavaConfig(
    vision_config=CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        initializer_range=0.3,
    ),
    text_config=LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        initializer_range=0.15,
        eos_token_id=tokenizer.eos_token_id,
    ),
    image_token_index=tokenizer.vocab["<image>"],
    vision_feature_layer=[-1, -2],
)
folder = Path("tiny-vip-llava")
VipLlavaForConditionalGeneration(config).save_pretrained(folder)
LlavaProcessor(
    image_processor=CLIPImageProcessor(size={"height": 28, "width": 28}, do_center_crop=False),
    tokenizer=tokenizer,
    patch_size=14,
    vision_feature_select_strategy="default",
    num_additional_image_tokens=1,
).save_pretrained(folder)

# %% [markdown]
# An unknown family is refused, not guessed:

# %%
try:
    load_backbone(str(folder))
except ConfigError as error:
    print(str(error).partition(";")[0])

# %% [markdown]
# ```
# backbone family 'vipllava' is not known
# ```
#
# ## The family
#
# `print(model)` shows where the decoder layers are (`decoder`), and which module takes token ids
# and pixels and ends before the head (`trunk`); for most families of transformers the defaults of
# `Family` are right. The prompt format is used where the processor has no chat template. Further
# fields say how positions are made and how images are cut: `liveedit_core/backbones/families.py`.

# %%
register_family(
    "vipllava",
    Family(
        prompt_format=PromptFormat(
            with_image="USER: {image}\n{prompt} ASSISTANT:", text_only="USER: {prompt} ASSISTANT:"
        )
    ),
)
backbone = load_backbone(str(folder), LoadOptions(edit_layer=1))
print("cut after layer", backbone.edit_layer, "of", len(backbone.decoder.layers))

# %% [markdown]
# ```
# cut after layer 1 of 4
# ```
#
# ## Prove it
#
# Both halves together must give the whole model's numbers, and a batch what its members give alone.
# The tests of this repository ask more (padding, cache, beams, gradients): with an entry in
# `tests/tiny_families.py` they run on the new family too.

# %%
photos = [Image.effect_noise((56, 56), sigma).convert("RGB") for sigma in (20.0, 90.0)]
asked = [
    BackboneInput(prompt=prompt, target="a kettle", image_bytes=encoded(photo))
    for prompt, photo in zip(("What is shown?", "And what is this here?"), photos, strict=True)
]
with torch.no_grad():
    states = backbone.encode(asked)
    both = backbone.target_logits(states, pad_hidden(states).values_BSD)
    for item, photo, half in zip(asked, photos, both, strict=True):
        text = backbone.reader.format.with_image.replace("{image}", "<image>")
        text = text.replace("{prompt}", item.prompt)
        done = backbone.processor(images=photo, text=text + " " + item.target, return_tensors="pt")
        whole = backbone.model(**done).logits[0, -len(half) - 1 : -1]
        print("the same:", torch.allclose(half, whole, atol=1e-4))

# %% [markdown]
# ```
# the same: True
# the same: True
# ```
#
# ## Edit it
#
# Editors that need no training work at once, on any family. LiveEdit needs a generator for the
# backbone: `python pipelines/train_generator.py --backbone tiny-vip-llava --find-layer` chooses the
# layer, and without `--find-layer` trains it. The actors of the jobs are other processes: for them
# the same `Family` goes into `FAMILIES` in `liveedit_core/backbones/families.py`.

# %%
editor = FineTuning(backbone, FineTuningConfig(max_steps=80, learning_rate=3e-2))
request = EditRequest(image_bytes=encoded(photos[0]), prompt="What is shown?", target="x")
editor.teach([request], backbone.encode([edit_input(request)]))
print(editor.answer([edit_input(request)], 2))
editor.restore()

# %% [markdown]
# ```
# ['x']
# ```
