# %% [markdown]
# # Compare editors on your cases
#
# Which editor suits your images and questions? A *case* is an edit with probes: what must change
# with it, and what must stay. Here four cases are written, three editors learn them, and one page
# compares the editors over the number of edits.
#
# Run it as a script, or open it as a notebook (VS Code and Jupytext read the cells). The text below
# a cell is what the cell prints; a test runs all of it.

# %%
import csv
import json
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from pipelines.compare_editors import main

folder = Path("badges")
folder.mkdir(exist_ok=True)

# %% [markdown]
# ## Cases
#
# A line of the file holds an edit and its probes. The kinds that matter most: `text_generality`
# (the question in other words), `modal_generality` (another picture of the same thing), and the
# localities, whose answer must stay that of the unedited model: `image_swap_locality` (the question
# about another thing), `modal_locality` (another image and question), `text_locality` (no image).
# Give each case its `entity`: intervals are over entities.


# %%
def badge(colour: str, corners: int) -> Image.Image:
    """A picture; take yours instead."""
    image = Image.new("RGB", (224, 224), "white")
    ImageDraw.Draw(image).regular_polygon((112, 112, 90), corners, fill=colour)
    ImageDraw.Draw(image).ellipse((84, 84, 140, 140), fill="white")
    return image


names = {"Anna Keller": "teal", "Boris Novak": "crimson", "Chen Li": "gold", "Dana Roth": "navy"}
question = "Whose badge is this?"
for number, colour in enumerate(names.values()):
    badge(colour, number + 3).save(folder / f"{number}.png")
    ImageOps.mirror(badge(colour, number + 3).rotate(12, fillcolor="white")).save(
        folder / f"{number}-turned.png"
    )
badge("gray", 8).save(folder / "other.png")
lines = [
    {
        "edit": {"image": f"{number}.png", "prompt": question, "target": name},
        "entity": name,
        "probes": [
            {
                "kind": "text_generality",
                "image": f"{number}.png",
                "prompt": "Who does this badge belong to?",
                "target": name,
            },
            {
                "kind": "modal_generality",
                "image": f"{number}-turned.png",
                "prompt": question,
                "target": name,
            },
            {"kind": "image_swap_locality", "image": "other.png", "prompt": question},
            {"kind": "modal_locality", "image": "other.png", "prompt": "What is shown here?"},
            {"kind": "text_locality", "prompt": "The capital of France is"},
        ],
    }
    for number, name in enumerate(names)
]
cases = folder / "cases.jsonl"
cases.write_text("".join(json.dumps(line) + "\n" for line in lines))

# %% [markdown]
# ## Compare
#
# Each editor learns groups of N cases, is asked all probes, and is restored; a case that is not
# taught tells what else has changed. On the command line:
#
#     python pipelines/compare_editors.py --cases badges/cases.jsonl \
#         --editors liveedit,ft-l,unedited --edits 1,3 --groups 1 --run-name badges \
#         cold_edits=1 free_cases=1
#
# Finished groups are kept in the run's folder, so a command that was interrupted goes on. Leave
# `--editors` out to compare all of them.

# %%
status = main(
    [
        f"--cases={cases}",
        "--editors=liveedit,ft-l,unedited",
        "--edits=1,3",
        "--groups=1",
        "--run-name=badges",
        "cold_edits=1",
        "free_cases=1",  # answers in words take longest
    ]
)
run = Path("runs/badges")
print("exit code", status)
print(*sorted(file.name for file in run.glob("comparison.*")))

# %% [markdown]
# ```
# exit code 0
# comparison.csv comparison.html comparison.json comparison.png comparison.tex
# ```
#
# ## Read
#
# `comparison.html` shows every measure over N with its interval: the metrics, each edit right after
# it was taught and after all N, the scope of the edits, and how many answers to unrelated questions
# changed. Its figures lie beside it as SVG, its numbers as CSV and as LaTeX tables. Here, after
# three edits, with the 95 % interval that three entities allow:

# %%
with (run / "comparison.csv").open() as file:
    for row in csv.DictReader(file):
        is_wanted = row["measure"] == "reliability" and row["protocol"] == "teacher_forced"
        if is_wanted and row["num_edits"] == "3" and row["editor"] != "FT-L":
            print(row["editor"], *(f"{float(row[name]):.2f}" for name in ("value", "low", "high")))

# %% [markdown]
# ```
# LiveEdit 1.00 0.29 1.00
# unedited 0.00 0.00 0.71
# ```
#
# Three cases show how it works, not which editor is better: the intervals say so. Pages of several
# runs, of editors that were compared one after the other, are joined by `--page`.
