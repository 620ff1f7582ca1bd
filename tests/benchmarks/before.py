#!/usr/bin/env python
"""The same work by this checkout and by an older one, in turn: how many times faster it has become.

    python -m tests.benchmarks.before --before ../older [--claims scan,teaching] [--rounds 5]
        [--at-least cold_edit.float32=1.35 ...] [--output tests/benchmarks/before.json]

cold_edit        an edit of an image that was never seen (`EditedModel.edit`)
scan             one question routed over all of a large bank, keys of images and noisy copies
rescoring        cases that a process scored before, scored against a bank that lacks other edits
free_generation  free answers to the questions of an evaluation, in its units; texts are compared
lifelong         `lifelong_edit.py` edits cases and evaluates them once, per case; a quarter freely
teaching         `lifelong_edit.py` teaches requests, almost without evaluation, per edit

Both get the same cases of EmblemEdit's `validation`: the first four in a process for each checkout,
with one thread; the last two, which are jobs, with few and with many cases. Times are CPU seconds
with those of descendants; ratios are medians of rounds, without the first of a process. Rows are
sizes of a bank; or `float32` and `bfloat16`, without verifying and refining, and `default`, with
it, against what the older commit does by default. An output file keeps claims of earlier calls.
"""

import hashlib
import inspect
import json
import operator
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from liveedit_core import edited_model
from liveedit_core.backbones.load_options import LoadOptions
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.builtin.benchmark import load_builtin_cases
from liveedit_core.evaluation.probes import TEACHER_FORCED
from liveedit_core.inputs.datasets import load_cases
from liveedit_core.method import config as method_config
from liveedit_core.method.editor import Editor
from liveedit_core.method.repository import ExpertRepository
from liveedit_core.schema import Case, EditRequest, Probe
from pipelines.evaluation.bank_evaluation import UNIT_CASES, EvaluationSettings, plan_evaluation
from tests.benchmarks import quickstart
from tests.benchmarks.frame import commit_of, machine, parser_of, publish
from workers.evaluation_worker import EvaluationWorker
from workers.messages import SharedRepository
from workers.models import CacheNames, ModelNames

ROOT = Path(__file__).parents[2]
CASES, REQUESTS = "cases.jsonl", "requests.jsonl"
CHILD = """
import sys, tests
tests.__path__ = [sys.argv[1]]
from tests.benchmarks.before import child
child(*sys.argv[2:])
"""
"""The older packages, with these benchmarks."""
AT_ONCE = 20_000
KEYS, RESCORED, ANSWERED, BYTES_PER_EDIT = 100, 16, 8, 18_000
"""Edits that fill the bank which is scanned; cases of a round; memory of both banks."""


class Row(NamedTuple):
    """What both are asked for; the older one computes in float32."""

    name: str
    dtype: str = "float32"
    refine: str = "off"
    size: int = 0


class Claim(NamedTuple):
    """Some work in several rows: rounds of a process, or jobs."""

    rows: tuple[Row, ...]
    rounds: int
    work: Any = None
    """Gives a `Step` for a row and a folder."""
    settings: tuple[str, ...] = ()
    sizes: tuple[int, int] = (0, 0)
    """Numbers of cases of two jobs."""


Step = Callable[[int], dict[str, Any]]
PLAIN, DEFAULT = Row("float32"), Row("default", refine="auto")
BFLOAT16 = Row("bfloat16", dtype="bfloat16")
ALL = (PLAIN, BFLOAT16, DEFAULT, Row("bfloat16_default", dtype="bfloat16", refine="auto"))


def write_cases(folder: Path) -> None:
    """Cases with their images, as both checkouts and their jobs read them; requests alone too."""

    def written(item: EditRequest | Probe) -> dict[str, str]:
        content = {"prompt": item.prompt, "target": item.target}
        if item.image_bytes is not None:
            content["image"] = hashlib.sha256(item.image_bytes).hexdigest()
            (folder / content["image"]).write_bytes(item.image_bytes)
        return content

    with (folder / CASES).open("w") as cases, (folder / REQUESTS).open("w") as requests:
        for case in load_builtin_cases("validation"):
            edit = written(case.edit)
            probes = [{"kind": probe.kind.value, **written(probe)} for probe in case.probes]
            print(json.dumps(edit), file=requests)
            print(json.dumps({"edit": edit, "probes": probes, "entity": case.entity}), file=cases)


def read_cases(folder: Path) -> list[Case]:
    return [case for case in load_cases(folder / CASES) if isinstance(case, Case)]


def cpu_of(work: Callable[[], object]) -> float:
    """CPU seconds of this process and its descendants."""
    others_s, start_s = _others_s(), time.process_time()
    work()
    own_s = time.process_time() - start_s
    return own_s + _others_s() - others_s


def _others_s() -> float:
    total = 0
    for pid in set(quickstart.family_of(os.getpid())) - {os.getpid()}:
        with suppress(OSError):  # it has ended
            total += int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
    return total / 1e9


def options_of(row: Row) -> LoadOptions:
    known = {"compute_dtype": row.dtype} if "compute_dtype" in LoadOptions.model_fields else {}
    return LoadOptions.model_validate(known)


def opened(row: Row) -> edited_model.EditedModel:
    """A model, with those of the settings that a commit knows."""
    settings: dict[str, Any] = {"options": options_of(row), "weak": "commit", "index": "off"}
    if hasattr(method_config, "RefineSection"):
        settings["refine"] = method_config.RefineSection.model_validate({"mode": row.refine})
    known = set(settings) & set(inspect.signature(edited_model.open_model).parameters)
    return edited_model.open_model(**{name: settings[name] for name in known})


def cold_edit(row: Row, folder: Path) -> Step:
    model, cases = opened(row), read_cases(folder)

    def teach(number: int) -> dict[str, Any]:
        edit = cases[number].edit
        return {"cpu_s": cpu_of(lambda: model.edit(edit.image_bytes, edit.prompt, edit.target))}

    return teach


def large_bank(editor: Editor, cases: Sequence[Case], size: int) -> ExpertRepository:
    """Keys of images and noisy copies of them, in the numbers that keys of a commit have."""
    experts = editor.write_experts([case.edit for case in cases])
    visual = torch.stack([expert.visual_feature_QM.flatten() for expert in experts])
    prompt = torch.stack([expert.prompt_feature_QM.flatten() for expert in experts])
    width, rank = _used(visual), editor.generator.config.visual_rank
    shape, draw = (width // rank, rank), torch.Generator().manual_seed(size)
    copied = torch.randint(len(experts), (size,), generator=draw)
    rows = torch.empty(size, visual.shape[1])
    for start in range(0, size, AT_ONCE):
        chosen = visual[copied[start : start + AT_ONCE]]
        part = chosen[:, : shape[0] * rank].unflatten(1, shape)
        noise = functional.normalize(torch.randn(part.shape, generator=draw), dim=-1)
        share = 0.5 + 1.5 * torch.rand(len(part), 1, 1, generator=draw)
        beside = functional.normalize(functional.normalize(part, dim=-1) + share * noise, dim=-1)
        chosen[:, : shape[0] * rank] = (beside * part.norm(dim=-1, keepdim=True)).flatten(1)
        rows[start : start + AT_ONCE] = chosen
    rows[: len(visual)] = visual
    empty = ExpertRepository.empty(editor.generator.config)
    columns: dict[str, Any] = {"edit_ids": tuple(f"edit {number}" for number in range(size))}
    if hasattr(empty, "ranks_N"):
        from liveedit_core.method.growing import SegmentedRows

        prompts = prompt[:, : _used(prompt)].contiguous()[copied]
        columns["prompt"] = SegmentedRows([prompts], size, width=prompt.shape[1])
        columns |= {"visual": rows, "ranks_N": torch.zeros(size, dtype=torch.int64)}
    else:  # one rank for all, prompts as wide as they may be
        columns |= {"visual_features_NK": rows, "prompt_features_NK": prompt[copied]}
        for name in ("down", "up"):
            columns[name] = getattr(empty, name).new_zeros(1, 1, 1).expand(size, 1, 1)
    return replace(empty, **columns)


def _used(features: torch.Tensor) -> int:
    """Numbers in front of those that are zero for all."""
    return int(features.any(0).nonzero().max()) + 1


def scan(row: Row, folder: Path) -> Step:
    editor, cases = opened(row).editor, read_cases(folder)
    editor = editor.with_repository(large_bank(editor, cases[:KEYS], row.size))

    def route(number: int) -> dict[str, Any]:
        asked = cases[number if number % 2 else KEYS + number].all_probes()[0]  # half taught
        states = editor.backbone.encode([_input(asked)])
        return {"cpu_s": statistics.median(cpu_of(lambda: editor.route(states)) for _ in range(3))}

    return route


def rescoring(row: Row, folder: Path) -> Step:
    cases = read_cases(folder)[:RESCORED]
    editor = opened(row).editor
    experts = editor.write_experts([case.edit for case in cases])
    bank = ExpertRepository.from_experts(editor.generator.config, experts)
    uri = f"{folder}/cache-{os.getpid()}"
    cache = CacheNames(store_uri=uri, dtype="float16")
    models = ModelNames(options=options_of(row))
    worker = EvaluationWorker(models, cache=cache, answers_uri=uri)
    units = plan_evaluation(cases, EvaluationSettings(protocols=(TEACHER_FORCED,))).units

    def rescore(number: int) -> dict[str, Any]:
        places = [place for place in range(len(bank)) if (place + number) % 10]
        shared = SharedRepository.of(bank.take(places))

        def score() -> None:
            for unit in units:
                worker.score(number, worker.prepare(unit), shared, unit)

        return {"cpu_s": cpu_of(score) / len(cases)}

    return rescore


def free_generation(row: Row, folder: Path) -> Step:
    backbone, cases = opened(row).editor.backbone, read_cases(folder)

    def answer(number: int) -> dict[str, Any]:
        chosen = cases[ANSWERED * number : ANSWERED * (number + 1)]
        texts: list[str] = []

        def generate() -> None:
            for start in range(0, len(chosen), UNIT_CASES):
                unit = chosen[start : start + UNIT_CASES]
                inputs = [_input(probe) for case in unit for probe in case.all_probes()]
                texts.extend(backbone.generate(inputs, None, max_new_tokens=32))

        return {"cpu_s": cpu_of(generate) / len(chosen), "texts": texts}

    return answer


LIFELONG = (f"requests.cases={{folder}}/{CASES}", "evaluation.free_generation_cases={quarter}")
TEACHING = (f"requests.path={{folder}}/{REQUESTS}", "evaluation.max_cases=1")
CLAIMS = {
    "cold_edit": Claim(ALL, 10, cold_edit),
    "scan": Claim((Row("100_000", size=100_000), Row("1_000_000", size=1_000_000)), 10, scan),
    "rescoring": Claim((PLAIN, DEFAULT), 4, rescoring),
    "free_generation": Claim((PLAIN, BFLOAT16), 2, free_generation),
    "lifelong": Claim(ALL, 1, settings=LIFELONG, sizes=(8, 32)),
    "teaching": Claim(ALL, 1, settings=TEACHING, sizes=(25, 125)),
}


def _input(probe: Probe) -> BackboneInput:
    return BackboneInput(prompt=probe.prompt, image_bytes=probe.image_bytes)


def child(claim: str, row: str, folder: str) -> None:
    """Do a round for each line of input; answers go to the first standard output."""
    answers, sys.stdout = sys.stdout, sys.stderr
    torch.set_num_threads(1)
    step: Step = CLAIMS[claim].work(Row(*json.loads(row)), Path(folder))
    for line in sys.stdin:
        print(json.dumps(step(int(line))), file=answers, flush=True)


class Process:
    """Works with the code of a checkout, one round at a time."""

    num_warm_up = 1

    def __init__(self, checkout: Path, claim: str, row: Row, folder: Path) -> None:
        given = (str(ROOT / "tests"), claim, json.dumps(row), str(folder))
        command = [sys.executable, "-c", CHILD, *given]
        own = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        self._process = Popen(command, cwd=checkout, env=own, stdin=PIPE, stdout=PIPE, text=True)

    def round(self, number: int) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        print(number, file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.communicate()


class Jobs:
    """Runs two jobs of a checkout in a round: what more cases cost is free of their start."""

    num_warm_up = 0

    def __init__(self, checkout: Path, claim: str, row: Row, folder: Path) -> None:
        self._checkout, self._claim, self._folder = checkout, CLAIMS[claim], folder
        self._settings = [*self._claim.settings, "requests.limit={size}", "evaluation.at=[{size}]"]
        if has_refining(checkout):
            self._settings += [f"refine.mode={row.refine}", "edits.weak=commit"]
            for stage in ("generator", "evaluation"):
                self._settings.append(f"{stage}.compute_dtype={row.dtype}")

    def round(self, number: int) -> dict[str, Any]:
        runs = []
        for size in self._claim.sizes:
            values = {"folder": self._folder, "size": size, "quarter": size // 4}
            settings = [text.format(**values) for text in self._settings]
            with tempfile.TemporaryDirectory() as root:
                runs.append(quickstart.measure(self._checkout, settings, Path(root)))
        added = self._claim.sizes[1] - self._claim.sizes[0]
        fields = {"cpu_s": "whole_cpu_s", "wall_s": "whole_s"}
        return {key: (runs[1][name] - runs[0][name]) / added for key, name in fields.items()}


def in_turn(name: str, before: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """The rows of a claim: what a round costs, and the ratios."""
    kind = Jobs if CLAIMS[name].settings else Process
    rows = [row for row in CLAIMS[name].rows if is_possible(row)]
    older = {row: row._replace(name="", dtype="float32") for row in rows}
    if not has_refining(before):
        older = {row: plain._replace(refine="off") for row, plain in older.items()}
    sides = {row: kind(before, name, row, folder) for row in dict.fromkeys(older.values())}
    sides |= {row: kind(ROOT, name, row, folder) for row in rows}
    done = []
    for number in range(rounds + kind.num_warm_up):
        order = list(sides) if number % 2 else list(sides)[::-1]
        done.append({side: sides[side].round(number) for side in order})
    for side in sides.values():
        if isinstance(side, Process):
            side.close()
    counted = done[kind.num_warm_up :]
    return {row.name: compared([(one[older[row]], one[row]) for one in counted]) for row in rows}


def compared(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """Medians of both, and of the ratios round by round."""
    result: dict[str, Any] = {}
    for unit, ratio in (("cpu_s", "times_faster"), ("wall_s", "times_faster_by_the_clock")):
        if unit in pairs[0][0]:
            older, now = ([one[side][unit] for one in pairs] for side in (0, 1))
            result[f"before_{unit}"] = float(f"{statistics.median(older):.3g}")
            result[f"now_{unit}"] = float(f"{statistics.median(now):.3g}")
            ratios = [one / other for one, other in zip(older, now, strict=True)]
            result[ratio] = round(statistics.median(ratios), 2)
    older_texts, texts = ([t for one in pairs for t in one[n].get("texts", ())] for n in (0, 1))
    if texts:
        equal = sum(map(operator.eq, older_texts, texts))
        result |= {"texts": len(texts), "identical_texts": round(equal / len(texts), 4)}
    return result


def has_refining(checkout: Path) -> bool:
    return (checkout / "liveedit_core/method/refine.py").exists()


def is_possible(row: Row) -> bool:
    """Whether both banks fit into memory, and the processor multiplies bfloat16 itself."""
    memory = Path("/proc/meminfo").read_text().partition("MemAvailable:")[2]
    has_room = row.size * BYTES_PER_EDIT < 1024 * int(memory.split()[0])
    cpu = Path("/proc/cpuinfo").read_text()
    return has_room and (row.dtype == "float32" or "avx512_bf16" in cpu)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and compare with `--at-least`."""
    parser = parser_of(__doc__)
    parser.add_argument("--before", type=Path, required=True, help="another checkout")
    parser.add_argument("--claims", default=",".join(CLAIMS), help="all, by default")
    parser.add_argument("--rounds", type=int, default=0, help="of each; 0: as many as it needs")
    parser.add_argument("--at-least", nargs="*", default=[], metavar="CLAIM.ROW=RATIO")
    options = parser.parse_args(arguments)
    result: dict[str, Any] = {**machine(), "before": commit_of(options.before), "claims": {}}
    if options.output and options.output.exists():
        older = json.loads(options.output.read_text())
        result["claims"] = older["claims"] if older["before"] == result["before"] else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cases(folder)
        for claim in options.claims.split(","):
            load = round(os.getloadavg()[0], 1)
            rounds = options.rounds or CLAIMS[claim].rounds
            rows = in_turn(claim, options.before.resolve(), folder, rounds)
            result["claims"][claim] = {"load_average": load, **rows}
            publish(result, options.output)
    bars = [bar.replace("=", ".", 1).split(".", 2) for bar in options.at_least]
    ratios = [result["claims"][claim][row]["times_faster"] for claim, row, _ in bars]
    return int(any(r < float(bar[2]) for r, bar in zip(ratios, bars, strict=True)))


if __name__ == "__main__":
    sys.exit(main())
