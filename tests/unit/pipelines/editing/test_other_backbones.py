"""The life of a generator for another backbone: trained, taught with, scored, opened again."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from infra.bank.expert_bank import ExpertBank
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from infra.tracking.model_registry import BANK_MODEL, ModelRegistry, ModelVersions
from infra.tracking.results import ResultsTable
from infra.tracking.tracker import Tracker, default_tracking_uri
from liveedit_core.backbones.protocol import BackboneInput
from liveedit_core.backbones.vision_language import VisionLanguageBackbone
from liveedit_core.errors import ConfigError, RepositoryMismatchError
from liveedit_core.inputs.limits import InputLimits
from liveedit_core.schema import ProbeKind
from pipelines.editing.intake import Source
from pipelines.editing.mlflow_records import RunRecords
from pipelines.editing.recipe import LifelongEditRecipe
from pipelines.editing.run import run
from pipelines.editing.writers import model_names
from pipelines.job.cases import read_case_file
from pipelines.job.recipe_loader import load_recipe
from pipelines.job.registered_models import registered_models
from pipelines.job.sections import BackboneSection
from pipelines.job.stages import bank_identity
from pipelines.operations.open_editor import open_editor
from pipelines.train_generator import main, parse_arguments, resolve_recipe
from pipelines.training.cases import load_training_backbone, training_cases
from pipelines.training.data import Material, prepare_material, vocabulary_words
from pipelines.training.loop import GeneratorTrainer
from pipelines.training.recipe import TrainRecipe
from tests.inline_evaluator import InlineEvaluator
from tests.other_backbones import TINY, cases_file, saved_family
from tests.published_files import benchmark_folder
from tests.tiny_backbone import answers, case, plain_convolutions
from tests.unit.family_parts import tiny_tokenizer
from tests.unit.tiny_editing import CheckedProgress
from tests.unit.tiny_inputs import HashEmbedder
from workers.evaluation_worker import EvaluationWorker
from workers.expert_embedding_worker import ExpertEmbeddingWorker
from workers.generator_worker import GeneratorWorker


@pytest.fixture(scope="module", params=["llava", "qwen2_vl"])
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved_family(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases_file(tmp_path_factory.mktemp("cases"))


def arguments(root: Path, backbone: str, cases: Path, *more: str) -> list[str]:
    return [
        f"--backbone={backbone}",
        f"--cases={cases}",
        f"run_root={root}",
        "--run-name=tiny",
        *TINY,
        *more,
    ]


Prepared = tuple[TrainRecipe, VisionLanguageBackbone, Material]


def prepared(root: Path, backbone: str, cases: Path, *more: str) -> Prepared:
    """All that a trainer needs, without records."""
    recipe = resolve_recipe(parse_arguments(arguments(root, backbone, cases, *more)))
    loaded = load_training_backbone(recipe)
    return recipe, loaded, prepare_material(recipe, loaded, root / "material")


def no_encoding(inputs: object) -> None:
    raise AssertionError("states must come from the cache")


def test_each_phase_learns_and_states_come_from_the_cache(
    backbone: str, cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for images on a grid, whose states need it to be placed."""
    more = ("joint.steps=0", "experts.steps=70", "experts.batch_size=6", "data.num_pairs=0")
    run = GeneratorTrainer(
        *prepared(tmp_path, backbone, cases, *more, "experts.learning_rate=0.01")
    )
    assert isinstance(run.backbone, VisionLanguageBackbone)
    monkeypatch.setattr(run.backbone, "encode", no_encoding)
    run.run()
    losses = [float(row["nll"]) for row in run.curve if row["phase"] == "experts"]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
def test_trained_taught_scored_and_opened_by_name(
    backbone: str, cases: Path, run_root: Path
) -> None:
    """Nothing but names goes from one job to the next."""
    with plain_convolutions():
        assert main(arguments(run_root, backbone, cases)) == 0
        teach_and_open(run_root, backbone, cases, run_root / "tiny" / "generator")


def teach_and_open(root: Path, backbone: str, cases: Path, folder: Path) -> None:
    config = load_recipe(
        LifelongEditRecipe,
        None,
        [
            f"backbone.name={backbone}",
            f"generator.checkpoint={folder}",
            "backbone.dtype=bfloat16",
            f"run_root={root}",
            'evaluation.protocols=["teacher_forced"]',
            "evaluation.at=[]",
        ],
    )
    models = model_names(config)
    generator = GeneratorWorker(models, InputLimits())
    embedder = ExpertEmbeddingWorker(HashEmbedder)
    store = ObjectStore(root / "banks")
    identity = bank_identity(generator.describe(), embedder.describe())
    bank = ExpertBank.open_or_create(store, "main", identity)
    tracker = Tracker(root, experiment="tests", run_name="edits")
    records = RunRecords(tracker, ModelRegistry(tracker), state_file=root / "recorded.json")
    records.started(config, {})
    records.generator(folder, identity.generator_digest)
    outcome = run(
        config,
        source=Source(name="test", digest="digest", items=read_case_file(str(cases))[0]),
        generator=generator,
        embedder=embedder,
        evaluator=InlineEvaluator(EvaluationWorker(models)),
        bank=bank,
        request_log=RequestLog(store),
        results=ResultsTable(store, "test"),
        records=records,
        progress=CheckedProgress(),
        should_stop=lambda: False,
    )
    assert outcome.num_edits == 6
    summary = outcome.evaluations[-1].summary
    assert 0 <= summary[ProbeKind.RELIABILITY, "teacher_forced"].mean <= 1
    records.register_newest(bank)

    versions = ModelVersions(default_tracking_uri(root))
    uri = f"models:/{BANK_MODEL}@challenger"
    manifest = versions.manifest(versions.find(uri))
    assert (manifest.backbone, manifest.backbone_dtype) == (backbone, "bfloat16")
    editor = open_editor(uri, tracking_uri=versions.tracking_uri).editor
    assert editor.repository.held_ids == tuple(bank.edit_ids(manifest.bank_version))
    assert isinstance(editor.backbone, VisionLanguageBackbone)
    assert editor.backbone.model.dtype == torch.bfloat16
    question = BackboneInput(prompt=case(0).edit.prompt, image_bytes=case(0).edit.image_bytes)
    (answer,) = answers(editor, [question])
    assert answer.routing is not None

    night = EvaluationWorker(registered_models(manifest, generator=str(folder)))
    assert night.describe() == generator.describe()
    exact = replace(manifest, backbone_dtype="float32")
    with pytest.raises(RepositoryMismatchError, match="this one is"):
        open_editor(
            uri, registered_models(exact).load_backbone(), tracking_uri=versions.tracking_uri
        )


def test_edit_layers_share_one_model(backbone: str, cases: Path, tmp_path: Path) -> None:
    recipe = resolve_recipe(parse_arguments(arguments(tmp_path, backbone, cases)))
    whole = load_training_backbone(recipe)
    first, second = whole.at_layer(0), whole.at_layer(2)
    assert (first.edit_layer, second.edit_layer) == (0, 2)
    assert first.digest == second.digest
    assert first.decoder is second.decoder
    search = ("layer_search.layers=[0,2]", "layer_search.num_cases=2", "layer_search.steps=1")
    assert main([*arguments(tmp_path, backbone, cases, *search), "--find-layer"]) == 0
    found = json.loads((tmp_path / "tiny" / "layer_search.json").read_text())
    assert {row["layer"] for row in found["layers"]} == {0, 2}


def test_a_pyramid_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train_any_backbone\.toml"):
        resolve_recipe(
            parse_arguments(["--backbone=no/where", "model.visual_source=tower_pyramid"])
        )


def test_cases_of_a_file_are_completed_or_left_out(
    cases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = resolve_recipe(parse_arguments(["--backbone=no/where", f"--cases={cases}"]))
    for one in training_cases(recipe):
        probes = {probe.kind: probe for probe in one.probes}
        other = probes[ProbeKind.MODAL_LOCALITY]
        swapped = probes[ProbeKind.PROMPT_SWAP_LOCALITY], probes[ProbeKind.IMAGE_SWAP_LOCALITY]
        assert [(p.prompt, p.image_bytes) for p in swapped] == [
            (other.prompt, one.edit.image_bytes),
            (one.edit.prompt, other.image_bytes),
        ]
        assert one.entity
    lines = cases.read_text().splitlines()
    lines[1] = lines[1].replace("modal_locality", "portability")
    poor = cases.with_name("poor.jsonl")
    poor.write_text("\n".join(lines))
    data = recipe.data.with_changes(cases=str(poor))
    assert len(training_cases(recipe.with_changes(data=data))) == 5
    assert "1 of 6 cases cannot be trained on: " in capsys.readouterr().out


def test_words_are_those_that_the_tokenizer_begins() -> None:
    words = vocabulary_words(tiny_tokenizer())
    assert "is" in words
    assert all(word.isalnum() and word.isascii() for word in words)

    class Pieces:
        """SentencePiece marks the beginning of a word, and decodes without it."""

        def __len__(self) -> int:
            return 6

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return ["<s>", "\u2581kettle", "tle", "\u2581raven", "\u2581is", "\u2581it"]

    assert vocabulary_words(Pieces()) == ["kettle", "raven", "is", "it"]


def test_material_of_other_cases_replaces_what_was_drawn(cases: Path, tmp_path: Path) -> None:
    folder = saved_family("llava", tmp_path / "llava")

    def material(file: Path) -> Material:
        recipe = resolve_recipe(
            parse_arguments([*arguments(tmp_path, folder, file), "states.is_cached=false"])
        )
        return prepare_material(recipe, load_training_backbone(recipe), tmp_path / "material")

    few = cases.with_name("few.jsonl")
    few.write_text("\n".join(cases.read_text().splitlines()[:3]))
    assert len(material(cases).data.cases) == 6
    assert len(material(few).data.cases) == 3


def test_the_device_does_not_end_a_run_but_the_number_format_does() -> None:
    from pipelines.training.records import recipe_digest

    recipe = resolve_recipe(parse_arguments(["--backbone=no/where", "sharding.gpus_per_shard=1"]))

    def with_backbone(**changes: str) -> str:
        section = BackboneSection(name="no/where", **changes)  # type: ignore[arg-type]
        return recipe_digest(recipe.with_changes(backbone=section))

    assert with_backbone(device="cuda") == recipe_digest(recipe)
    assert with_backbone(dtype="bfloat16") != recipe_digest(recipe)


def test_a_published_benchmark_is_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--benchmark evqa --data DIR`: its training file, held-out images and all."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # away; training goes on
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    backbone = saved_family("llava", tmp_path / "llava")
    data = benchmark_folder(tmp_path / "data", "evqa", 6, "train")
    given = [f"--backbone={backbone}", "--benchmark=evqa", f"--data={data}", "--run-name=tiny"]
    assert main([*given, f"run_root={tmp_path}", *TINY]) == 0
    inputs = json.loads((tmp_path / "tiny" / "material" / "cases.json").read_text())
    assert len(inputs["cases"]) == 4  # two are held out
    assert (tmp_path / "tiny" / "generator" / "config.json").exists()
