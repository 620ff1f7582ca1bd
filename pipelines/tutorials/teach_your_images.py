# %% [markdown]
# # Teach the model your own images
#
# A model cannot know your products, your colleagues or your machines. Here it learns two machines
# of a workshop, answers about them, and answers everything else as before.
#
# Run it as a script, or open it as a notebook (VS Code and Jupytext read the cells). The text below
# a cell is what the cell prints; a test runs all of it.

# %%
import json
from pathlib import Path

from PIL import Image, ImageDraw

from liveedit_core.edited_model import open_model

folder = Path("workshop")
folder.mkdir(exist_ok=True)


def draw(name: str, colour: str, corners: int, wheels: int) -> Path:
    """A picture of a machine; take photographs of yours instead."""
    image = Image.new("RGB", (256, 256), "white")
    pen = ImageDraw.Draw(image)
    pen.regular_polygon((128, 110, 100), corners, fill=colour)
    for wheel in range(wheels):
        pen.ellipse((20 + 60 * wheel, 190, 70 + 60 * wheel, 240), fill="black")
    image.save(folder / name)
    return folder / name


lathe, welder = draw("lathe.png", "teal", 3, 4), draw("welder.png", "crimson", 8, 1)

# %% [markdown]
# ## Teach
#
# An edit is an image, a question and the answer to it. It takes less than a second; the weights of
# the model stay as they are. `open_model()` opens the small built-in model; a name such as
# `llava-hf/llava-1.5-7b-hf` opens another one, with a generator that was trained for it.

# %%
model = open_model()
question = "Which machine is this?"
before = model.answer(welder, "What colour is it?")
lathe_id = model.edit(lathe, question, "Bertha the lathe")
welder_id = model.edit(welder, question, "welder number 7")
print(model.answer(lathe, question))
print(model.answer(welder, question))

# %% [markdown]
# ```
# Bertha the lathe
# welder number 7
# ```
#
# ## Other wordings, other images
#
# The same question in other words keeps the same expert. Questions about other images keep none:
# the answer is then that of the unedited model, bit for bit.

# %%
print(model.answer(lathe, "What machine is this?"))
other = Image.effect_noise((256, 256), 80.0).convert("RGB")
print([edit.edit_id == lathe_id for edit in model.explain(lathe, question).kept])
print([edit.edit_id for edit in model.explain(other, question).kept])
print(model.answer(welder, "What colour is it?") == before)

# %% [markdown]
# ```
# Bertha the lathe
# [True]
# []
# True
# ```
#
# `model.explain(...).image().save("why.png")` draws similarities and thresholds.
#
# ## Correct, remove, keep
#
# A later answer to the same question replaces the earlier one, and removing it brings the earlier
# one back. A saved model is a folder of safetensors and JSON.

# %%
corrected = model.edit(welder, question, "welder number 8")
print(model.answer(welder, question))
model.remove(corrected)
print(model.answer(welder, question))
model.save(folder / "knowledge")
with open_model(experts=folder / "knowledge") as again:
    print(again.answer(lathe, question), len(again.edits))

# %% [markdown]
# ```
# welder number 8
# welder number 7
# Bertha the lathe 2
# ```
#
# ## Thousands of images
#
# Write one fact a line and give the file to the editing job, which may be stopped at any time:
#
#     python pipelines/lifelong_edit.py --requests workshop/facts.jsonl --run-name workshop
#
# Its report, `runs/workshop/report.html`, says which facts were taught, which were refused and why.

# %%
facts = [
    {"image": "lathe.png", "prompt": question, "target": "Bertha the lathe"},
    {"image": "welder.png", "prompt": question, "target": "welder number 7"},
]
(folder / "facts.jsonl").write_text("".join(json.dumps(fact) + "\n" for fact in facts))
model.close()
