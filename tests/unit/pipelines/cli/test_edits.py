"""`liveedit edits`: what corrects what, before and after the job."""

import json
from pathlib import Path

import pytest

from pipelines.cli.main import main
from pipelines.editing import writers
from tests.unit.tiny_editing import Driver
from tests.unit.tiny_inputs import PROMPT, image, request
from tests.unit.tiny_models import TinyModels


def test_a_dry_run_lists_what_would_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    driver = Driver(tmp_path / "store")
    old, other = request(0), request(1)
    driver.run([old, other])
    (tmp_path / "0.png").write_bytes(image(0))
    lines = [
        {"image": "0.png", "prompt": PROMPT.lower() + " ", "target": "better"},
        {"image": "0.png", "prompt": "Where is it?", "target": "here"},
        {"image": "none.png", "prompt": PROMPT, "target": "better"},
    ]
    file = tmp_path / "facts.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    monkeypatch.setattr(writers, "model_names", lambda config: TinyModels())
    store = ["--store", driver.store.root_uri]
    command = ["edits", "add", str(file), "--dry-run", *store]
    assert main([*command, "--json"]) == 4
    content = json.loads(capsys.readouterr().out)
    assert content["num_accepted"] == 2
    assert [item["supersedes"] for item in content["supersedes"]] == [old.edit_id]
    assert main(command) == 4
    assert "2 requests would supersede 1 edits; nothing was stored" in capsys.readouterr().out
    assert len(driver.log) == 2

    assert main(["edits", "add", str(file), *store]) == 4
    driver.run([])
    capsys.readouterr()
    assert main(["edits", "list", *store, "--json"]) == 0
    edits = json.loads(capsys.readouterr().out)["edits"]
    assert [(edit["state"], edit["supersedes"], edit["similarity"]) for edit in edits] == [
        ("superseded", "", 0.0),
        ("held", "", 0.0),
        ("held", old.edit_id, 1.0),
        ("held", "", 0.0),
    ]
    assert main(["edits", "history", edits[2]["edit_id"], *store]) == 0
    assert f"supersedes {old.edit_id} (1.00)" in capsys.readouterr().out


def test_an_edit_that_was_stated_twice_is_one_edit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    driver = Driver(tmp_path / "store")
    first, second = request(0), request(0, target="another")
    driver.run([first, second, first], "bank.window_edits=1")
    store = ["--store", driver.store.root_uri, "--json"]
    assert main(["edits", "list", *store]) == 0
    edits = json.loads(capsys.readouterr().out)["edits"]
    assert [edit["state"] for edit in edits] == ["superseded", "superseded", "held"]
    assert main(["edits", "history", first.edit_id[:8], *store]) == 0
    assert json.loads(capsys.readouterr().out)["sequence"] == 3
    assert main(["bank", "remove", first.edit_id[:8], "--reason", "wrong", *store]) == 0
    assert driver.bank.edit_ids() == [second.edit_id]


def test_a_terminal_gets_no_control_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Logs of earlier releases hold such texts."""
    driver = Driver(tmp_path / "store")
    driver.log.append([request(0, prompt="What is \x1b]0;owned\x07 this?", target="a\u202eb")])
    (known,) = driver.log.index().keys.values()
    for command in (["list"], ["history", known.edit_id]):
        assert main(["edits", *command, "--store", driver.store.root_uri]) == 0
        shown = capsys.readouterr().out
        assert "What is \\x1b]0;owned\\x07 this?" in shown
        assert "a\\u202eb" in shown
        assert not {"\x1b", "\x07", "\u202e"} & set(shown)
