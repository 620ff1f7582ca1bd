"""`liveedit`: what people read, what programs read, and exit codes."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from infra.bank.expert_bank import ExpertBank
from infra.requests.request_log import RequestLog
from infra.storage.object_store import ObjectStore
from liveedit_core.inputs.rejects import Rejected, WeakEditError
from liveedit_core.outcome import WriteOutcome
from pipelines.cli.main import main
from tests.architecture.project import run
from tests.small_rows import SMALL_IDENTITY, small_request, small_row
from tests.unit.tiny_inputs import image

FACTS = (("flag", "red"), ("lamp", "on"), ("flag", "blue"), ("tree", "oak"))


class Terminal:
    """Runs commands on one store."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.store = ObjectStore(folder / "store")
        self.capsys = capsys
        self.errors = ""

    def __call__(self, *words: str, code: int = 0) -> str:
        """What people see."""
        group, command, *rest = words
        assert main([group, command, "--store", self.store.root_uri, *rest]) == code
        printed = self.capsys.readouterr()
        self.errors = printed.err
        return printed.out

    def json(self, *words: str, code: int = 0) -> dict[str, Any]:
        """What programs see."""
        content: dict[str, Any] = json.loads(self(*words, "--json", code=code))
        return content


@pytest.fixture
def terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Terminal:
    """A store with a bank of three edits in two windows; the fourth has superseded the first."""
    terminal = Terminal(tmp_path, capsys)
    log = RequestLog(terminal.store)
    for submitter, facts in (("anna", FACTS[:2]), ("ben", FACTS[2:])):
        log.append([small_request(*fact, submitter=submitter) for fact in facts])
    bank = ExpertBank.open_or_create(terminal.store, "main", SMALL_IDENTITY)
    epoch = bank.acquire_writer()
    for numbers in ((1, 2), (3, 4)):
        rows = [small_row(number, *FACTS[number - 1]) for number in numbers]
        message = f"requests up to {numbers[1]}"
        bank.commit(bank.fragment_writer().write(rows), epoch=epoch, message=message)
    return terminal


def edit_id(number: int) -> str:
    return small_request(*FACTS[number - 1]).edit_id


def table(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_log_lists_versions_newest_first(terminal: Terminal) -> None:
    header, newest, oldest = table(terminal("bank", "log"))
    assert header[:2] == ["version", "kind"]
    assert (newest[:2], oldest[:2]) == (["3", "window"], ["2", "window"])
    assert newest[-5:] == ["1", "requests", "up", "to", "4"]
    assert len(table(terminal("bank", "log", "--limit", "1"))) == 2
    content = terminal.json("bank", "log")
    assert [item["version"] for item in content["versions"]] == [3, 2]
    assert content["versions"][0]["num_superseded"] == 1


def test_show_tells_a_version_and_its_edits(terminal: Terminal) -> None:
    text = terminal("bank", "show", "2")
    assert "bank 'main', version 2: 2 edits" in text
    assert "generator_digest   generator" in text
    assert edit_id(1)[:12] in text
    content = terminal.json("bank", "show")
    assert content["edits"] == [edit_id(number) for number in (2, 3, 4)]
    assert content["identity"]["rank"] == 3


def test_a_budget_is_set_shown_and_undone(terminal: Terminal) -> None:
    why = ("--reason", "too many", "--author", "carla")
    calibrate = ("bank", "calibrate", "--false-activation", "0.01", *why)
    assert "version 4: 3 edits" in terminal(*calibrate)
    assert terminal.json(*calibrate)["version"] == 4
    newest = terminal.json("bank", "log")["versions"][0]
    assert (newest["kind"], newest["author"], newest["message"]) == (
        "calibrate",
        "carla",
        "too many",
    )
    assert "false_activation   0.01" in terminal("bank", "show")
    shown = terminal.json("bank", "show", "3")  # without --recipe no model is loaded
    assert (shown["false_activation"], shown["calibration"]) == (0.02, None)
    assert terminal.json("bank", "rollback", "3")["version"] == 5
    assert terminal.json("bank", "show")["false_activation"] == 0.02


def test_diff_names_what_differs(terminal: Terminal) -> None:
    content = terminal.json("bank", "diff", "2", "3")
    assert content["added"] == [edit_id(4)]
    assert content["superseded"] == [[edit_id(1), edit_id(3)]]
    first, _, *rows = table(terminal("bank", "diff", "2", "3"))
    assert " ".join(first) == "from version 2 to 3: 1 added, 0 removed, 1 superseded"
    assert [row[:2] for row in rows] == [["+", edit_id(4)[:12]], ["~", edit_id(1)[:12]]]


def test_an_edit_is_removed_and_restored_by_the_beginning_of_its_id(terminal: Terminal) -> None:
    why = ("--reason", "lamp is broken", "--author", "carla")
    text = terminal("bank", "remove", edit_id(2)[:8], *why)
    assert "version 4: 2 edits" in text
    record = terminal.json("bank", "log")["versions"][0]
    assert (record["kind"], record["author"], record["message"]) == (
        "remove",
        "carla",
        "lamp is broken",
    )
    assert terminal.json("bank", "remove", edit_id(2))["version"] == 4
    assert "nothing removed" in terminal("bank", "remove", edit_id(2))
    restored = terminal.json("bank", "restore", edit_id(2))
    assert (restored["version"], restored["edits"], restored["pending"]) == (5, [edit_id(2)], [])


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        (("--submitter", "ben"), (3, 4)),
        (("--submitter", "ben", "--until", "2020-01-01"), ()),
        (("--since", "2020-01-01"), (1, 2, 3, 4)),
        (("--since", "2020-01-01T00:00+02:00", "--submitter", "anna"), (1, 2)),
    ],
)
def test_edits_are_selected_by_who_handed_them_in_and_when(
    terminal: Terminal, words: tuple[str, ...], numbers: tuple[int, ...]
) -> None:
    would = terminal.json("bank", "remove", *words, "--dry-run")
    assert would["edits"] == [edit_id(number) for number in numbers]
    assert terminal.json("bank", "log")["newest"] == 3
    assert terminal.json("bank", "remove", *words)["edits"] == would["edits"]


def test_edits_are_selected_by_a_file_of_ids_or_by_the_file_that_was_handed_in(
    terminal: Terminal,
) -> None:
    ids = terminal.folder / "ids.txt"
    ids.write_text(f"{edit_id(2)}\n\n{edit_id(4)[:10]}\n")
    chosen = terminal.json("bank", "remove", "--from", str(ids), "--dry-run")["edits"]
    assert chosen == [edit_id(2), edit_id(4)]
    both = ("--from", str(ids), "--submitter", "ben", "--dry-run")
    assert terminal.json("bank", "remove", *both)["edits"] == [edit_id(4)]
    facts = requests_file(terminal, 1, 2)
    terminal("edits", "add", str(facts))
    chosen = terminal.json("bank", "remove", "--from", str(facts))["edits"]
    assert len(chosen) == 2
    states = {item["edit_id"]: item["state"] for item in terminal.json("edits", "list")["edits"]}
    assert [states[key] for key in chosen] == ["removed", "removed"]


def requests_file(terminal: Terminal, *numbers: int) -> Path:
    lines = []
    for number in numbers:
        path = terminal.folder / f"{number}.png"
        path.write_bytes(image(number))
        lines.append(json.dumps({"image": path.name, "prompt": "What is it?", "target": "it"}))
    file = terminal.folder / "facts.jsonl"
    file.write_text("\n".join(lines))
    return file


def test_requests_are_added_once_and_refusals_are_exit_code_4(terminal: Terminal) -> None:
    file = requests_file(terminal, 1, 2)
    file.write_text(file.read_text() + "\n{broken")
    first = terminal.json("edits", "add", str(file), "--submitter", "dora", code=4)
    again = terminal.json("edits", "add", str(file), code=4)
    assert (first["num_new"], again["num_new"], again["num_accepted"]) == (2, 0, 2)
    assert first["rejected"][0]["line_number"] == 3
    listed = terminal.json("edits", "list", "--submitter", "dora", "--state", "pending")
    assert [item["edit_id"] for item in listed["edits"]] == first["edits"]
    assert "2 requests, 0 of them new" in terminal("edits", "add", str(file), code=4)


def test_list_tells_the_state_of_each_edit(terminal: Terminal) -> None:
    terminal("bank", "remove", edit_id(4))
    _, *rows, last = table(terminal("edits", "list"))
    assert [row[:3] for row in rows] == [
        ["1", edit_id(1)[:12], "superseded"],
        ["2", edit_id(2)[:12], "held"],
        ["3", edit_id(3)[:12], "held"],
        ["4", edit_id(4)[:12], "removed"],
    ]
    assert " ".join(last) == "4 edits"
    assert "4 edits, the first 2 are shown" in terminal("edits", "list", "--limit", "2")


def test_list_tells_how_edits_were_written(terminal: Terminal) -> None:
    """A weak edit may be held or refused."""
    log = RequestLog(terminal.store)
    log.append([small_request("bus", "late"), small_request("car", "fast")])
    bank = ExpertBank.open(terminal.store, "main")
    row = small_row(5, "bus", "late")
    weak = WriteOutcome(state="weak", reason="gate", answer="early", num_target_tokens=1)
    row = replace(row, expert=replace(row.expert, outcome=weak))
    bank.commit(bank.fragment_writer().write([row]), epoch=bank.acquire_writer())
    late = WriteOutcome(state="weak", reason="text", answer="slowly", steps=2, num_target_tokens=1)
    refused = Rejected.from_error(WeakEditError(late, "fast"), edit_id=log.headers()[-1].edit_id)
    log.reject_requests([refused], bank="main")
    listed = terminal.json("edits", "list", "--state", "weak")["edits"]
    assert [(item["sequence"], item["state"]) for item in listed] == [(5, "held"), (6, "refused")]
    assert [item["outcome"] for item in listed] == [asdict(weak), asdict(late)]
    header, held_row, refused_row, _ = table(terminal("edits", "list", "--state", "weak"))
    assert " ".join(header[3:8]) == "expert why weak answer instead"
    assert held_row[2:6] == ["held", "weak", "gate", "early"]
    assert refused_row[2:6] == ["refused", "weak", "text", "slowly"]
    assert "why weak" not in terminal("edits", "list", "--state", "written")
    written = terminal.json("edits", "list", "--state", "written")["edits"]
    assert [item["sequence"] for item in written] == [2, 3, 4]


def test_history_tells_the_life_of_an_edit(terminal: Terminal) -> None:
    terminal("bank", "remove", edit_id(3), "--reason", "not blue", "--author", "carla")
    content = terminal.json("edits", "history", edit_id(1)[:9])
    events = [(item["event"], item["version"]) for item in content["events"]]
    assert events == [("submitted", ""), ("added", 2), ("superseded", 3), ("added", 4)]
    content = terminal.json("edits", "history", edit_id(3))
    assert [item["event"] for item in content["events"]] == [
        "submitted",
        "added",
        "removal decided",
        "removed",
    ]
    assert content["events"][-1]["author"] == "carla"
    assert content["states"] == {"main": "removed"}
    text = terminal("edits", "history", edit_id(3))
    assert "not blue" in text
    assert "target     blue" in text


def test_a_queued_removal_leaves_the_running_job_its_bank(terminal: Terminal) -> None:
    bank = ExpertBank.open(terminal.store, "main")
    epoch = bank.acquire_writer()
    terminal("bank", "remove", edit_id(2), "--queue")
    assert bank.num_edits() == 3
    bank.apply_changes(epoch=epoch)
    assert bank.num_edits() == 2


def test_tags_name_versions_and_rollback_takes_them(terminal: Terminal) -> None:
    assert terminal.json("bank", "tag", "good", "2")["tags"] == {"good": 2}
    assert terminal.json("bank", "rollback", "good")["version"] == 4
    assert terminal.json("bank", "show")["edits"] == terminal.json("bank", "show", "2")["edits"]
    terminal("bank", "tag", "good", "3", code=1)
    assert "names version 2 already" in terminal.errors
    assert terminal.json("bank", "tag", "good", "--delete")["tags"] == {}


def test_verify_is_exit_code_3_on_damage_and_names_it(terminal: Terminal) -> None:
    assert "is whole: 3 edits" in terminal("bank", "verify")
    file = sorted((terminal.folder / "store/banks/main/data").iterdir())[0]
    file.write_bytes(file.read_bytes()[:-9])
    text = terminal("bank", "verify", code=3)
    assert f"DAMAGED  banks/main/data/{file.name} is truncated" in text
    content = terminal.json("bank", "verify", code=3)
    assert not content["is_whole"]
    assert content["files"][0]["key"].endswith(file.name)


def test_a_damaged_bank_is_an_error_that_says_what_to_do(terminal: Terminal) -> None:
    for file in (terminal.folder / "store/banks/main/data").iterdir():
        file.unlink()
    terminal("bank", "show", code=1)
    assert "is missing" in terminal.errors
    assert table(terminal("bank", "log"))[1][0] == "3", "the log is read without a row"


def test_verify_tells_which_files_have_no_checksum(terminal: Terminal) -> None:
    for key in terminal.store.list("seals/"):
        terminal.store.delete(key)
    assert "3 files have no checksum" in terminal("bank", "verify")


def test_compact_merges_files_and_keeps_the_edits(terminal: Terminal) -> None:
    before = terminal.json("bank", "show")["edits"]
    done = terminal.json("bank", "compact")
    assert (done["fragments_before"], done["fragments_after"]) == (2, 1)
    assert terminal.json("bank", "show")["edits"] == before
    assert terminal.json("bank", "verify")["unchecked_files"] == []


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("bank", "remove"), 2, "name the edits"),
        (("bank", "show", "nine"), 1, "no version 'nine'; the newest is 3"),
        (("bank", "show", "²"), 1, "no version '²'; the newest is 3"),
        (("bank", "show", "9" * 5000), 1, "the newest is 3"),
        (("bank", "tag", "a\udcffb", "2"), 1, "half of a character pair"),
        (("bank", "remove", "abc"), 1, "give at least 4 characters of the id"),
        (("bank", "remove", "0123456789"), 1, "no edit of the request log"),
        (("bank", "log", "--bank", "none"), 1, "there is no bank 'none'"),
        (("edits", "add", "nowhere.jsonl"), 1, "cannot read nowhere.jsonl"),
        (("bank", "compact", "growth.nothing=1"), 2, "growth.nothing"),
        (("bank", "calibrate", "--false-activation", "0"), 2, "above 0 and at most 0.5, got 0"),
        (("bank", "calibrate", "--false-activation", "0.6"), 2, "above 0 and at most 0.5, got 0.6"),
    ],
)
def test_errors_say_what_to_do(
    terminal: Terminal, words: tuple[str, ...], code: int, message: str
) -> None:
    assert terminal(*words, code=code) == ""
    assert message in terminal.errors


def test_of_several_banks_one_must_be_named(terminal: Terminal) -> None:
    ExpertBank.open_or_create(terminal.store, "other", SMALL_IDENTITY)
    terminal("bank", "log", code=2)
    assert "--bank, one of main, other" in terminal.errors
    assert len(terminal.json("bank", "log", "--bank", "main")["versions"]) == 2


@pytest.mark.parametrize("number", ["-1", "ten", "9" * 19])
def test_a_limit_is_a_number(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["edits", "list", "--limit", number])
    assert "--limit: expected a number from 0 on" in capsys.readouterr().err


def test_a_look_creates_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["edits", "list"], ["edits", "history", "0123456789"], ["bank", "verify"]):
        assert main([*words, "--store", str(tmp_path / "typo")]) == 1
        assert "there " in capsys.readouterr().err
    assert not (tmp_path / "typo").exists()


def test_without_a_store_nothing_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LIVEEDIT_STORE", raising=False)
    assert main(["bank", "log"]) == 2
    assert "name the store" in capsys.readouterr().err


def test_looking_loads_no_model_library(terminal: Terminal) -> None:
    """Importing torch alone takes longer than any of these commands may."""
    program = """
import sys
from pipelines.cli.main import main
store, *heavy = sys.argv[1:]
for words in (["bank", "log"], ["bank", "show"], ["edits", "list"], ["bank", "diff", "2", "3"]):
    assert main([*words, "--store", store]) == 0
print("loaded:", *sorted(set(heavy) & set(sys.modules)))
"""
    heavy = ("torch", "ray", "mlflow", "transformers", "boto3")
    done = run(sys.executable, "-c", program, terminal.store.root_uri, *heavy, check=True)
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_an_ascii_terminal_is_no_traceback(store: ObjectStore) -> None:
    request = replace(small_request("a"), prompt="Was ist das für ein Käfer? \u2028")
    RequestLog(store).append([request])
    ExpertBank.open_or_create(store, "main", SMALL_IDENTITY)
    liveedit = [sys.executable, "-m", "pipelines.cli.main"]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [*liveedit, "edits", "list", "--store", store.root_uri],
        capture_output=True,
        text=True,
        env=ascii_only,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "K\\xe4fer" in done.stdout


def test_damage_of_the_request_log_is_reported(
    store: ObjectStore, capsys: pytest.CaptureFixture[str]
) -> None:
    RequestLog(store).append([small_request("a"), small_request("b")])
    ExpertBank.open_or_create(store, "main", SMALL_IDENTITY)
    verify = ["bank", "verify", "--store", store.root_uri]
    assert main(verify) == 0
    (file,) = (Path(store.table_uri("requests")) / "data").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert main(verify) == 3
    said = capsys.readouterr().out
    assert f"requests/data/{file.name} is truncated" in said
    assert "request 1 of the log, edit" in said
