#!/usr/bin/env python
"""The server under load: batches, overhead, promotions, memory, malformed requests, teaching.

    python -m tests.benchmarks.serving_load [--requests 2000] [--malformed 1000] [--ray]

One server process over the built-in model teaches some facts; everything else is asked over HTTP.
Ratios are of one run. `alone` is what a version answers to one client, which unit tests compare
with the library.
"""

import json
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import psutil

from infra.bank.expert_bank import ExpertBank
from infra.storage.object_store import ObjectStore
from infra.tracking.model_registry import BANK_MODEL, ModelRegistry, ModelVersions
from infra.tracking.tracker import Tracker
from liveedit_core.builtin.benchmark import load_builtin_cases
from liveedit_core.edited_model import open_model
from tests.benchmarks.frame import machine, parser_of, publish
from tests.integration.served import ServedProcess, fact, served, wait_until_held
from tests.running_server import data_uri, user_turn
from tests.unit.tiny_operations import make_champion

RESULTS = Path(__file__).with_suffix(".json")
CHAT = "/v1/chat/completions"
NUM_CLIENTS = 8
PROMPTS = [f"The {thing} of the town was known for" for thing in ("river", "market", "bridge")]
"""Asked without an image they are continued at length."""


class Load:
    """Clients of one server."""

    def __init__(self, server: ServedProcess, root: Path) -> None:
        self.server = server
        self.root = root
        self.http = httpx2.Client(base_url=server.address, timeout=120)
        self.cases = [case.edit for case in load_builtin_cases()[:9]]

    def ask(self, body: dict[str, Any]) -> tuple[str, str, int]:
        """Version, text and tokens of an answer."""
        response = self.http.post(CHAT, json=body)
        response.raise_for_status()
        content = response.json()
        text = content["choices"][0]["message"]["content"]
        version = response.headers["x-liveedit-version"]
        return version, text, content["usage"]["completion_tokens"]

    def question(self, number: int, model: str = "liveedit") -> dict[str, Any]:
        edit = self.cases[number % len(self.cases)]
        turn = user_turn(edit.prompt, edit.image_bytes)
        return {"model": model, "messages": [turn], "max_tokens": 12}

    def teach(self) -> None:
        """Three windows of the bank."""
        for start in range(0, len(self.cases), 3):
            bodies = [
                {"image": data_uri(e.image_bytes or b""), "prompt": e.prompt, "target": e.target}
                for e in self.cases[start : start + 3]
            ]
            posted = self.http.post("/v1/edits", json={"edits": bodies}).json()["data"]
            for row in posted:
                wait_until_held(self.http, row["id"], 300)
        time.sleep(2)

    def throughput(self, count: int) -> dict[str, float]:
        """Tokens a second of one client and of several, texts equal."""
        bodies = [
            {
                "model": "liveedit",
                "messages": [user_turn(f"{PROMPTS[n % 3]} {n}")],
                "max_tokens": 12 + 8 * (n % 4),
            }
            for n in range(count)
        ]
        self.ask(bodies[0])
        start_cpu_s = self._cpu_s()
        alone, alone_s = _timed(lambda: [self.ask(body) for body in bodies])
        middle_cpu_s = self._cpu_s()
        with ThreadPoolExecutor(NUM_CLIENTS) as pool:
            together, together_s = _timed(lambda: list(pool.map(self.ask, bodies)))
        end_cpu_s = self._cpu_s()
        num_tokens = sum(tokens for _, _, tokens in alone)
        return {
            "one_client_tokens_per_s": num_tokens / alone_s,
            "eight_clients_tokens_per_s": num_tokens / together_s,
            "ratio": alone_s / together_s,
            "cpu_ratio": (middle_cpu_s - start_cpu_s) / (end_cpu_s - middle_cpu_s),
            "texts_differ": sum(a != b for a, b in zip(alone, together, strict=True)),
        }

    def _cpu_s(self) -> float:
        """Of the server; on a busy machine the fairer measure."""
        times = psutil.Process(self.server.process.pid).cpu_times()
        return float(times.user + times.system)

    def overhead(self, rounds: int) -> dict[str, float]:
        """An answer of 12 tokens over HTTP against the library, in turn."""
        library_s, http_s = [], []
        with open_model() as model:
            for number in range(rounds + 1):
                prompt = f"{PROMPTS[0]} {number} and"
                body = {
                    "model": "liveedit@unedited",
                    "messages": [user_turn(prompt)],
                    "max_tokens": 12,
                }
                first = _timed(lambda p=prompt: model.answer(None, p, max_new_tokens=12))[1]  # type: ignore[misc]
                second = _timed(lambda b=body: self.ask(b))[1]  # type: ignore[misc]
                if number:  # the first pays for warming up
                    library_s.append(first)
                    http_s.append(second)
        ratios = [two / one for one, two in zip(library_s, http_s, strict=True)]
        return {
            "library_s": statistics.median(library_s),
            "http_s": statistics.median(http_s),
            "ratio": statistics.median(ratios),
        }

    def promotions(self, count: int) -> dict[str, float]:
        """The champion moves 23 times while questions are asked."""
        bank = ExpertBank.open(ObjectStore(self.root / "quickstart" / "store"), "main")
        registry = ModelRegistry(Tracker(self.root, experiment="load", run_name="load"))
        records = bank.history()[-3:]
        registered = [registry.register_bank_version(bank, r.version).version for r in records]
        versions = ModelVersions(f"sqlite:///{self.root / 'mlflow.db'}")
        alone = {
            (f"v{record.version}", number): self.ask(
                self.question(number, f"liveedit@v{record.version}")
            )[1]
            for record in records
            for number in range(len(self.cases))
        }
        errors: list[str] = []
        seen: set[str] = set()
        answered = 0
        lock = threading.Lock()

        def client(numbers: Sequence[int]) -> None:
            nonlocal answered
            for number in numbers:
                try:
                    version, text, _ = self.ask(self.question(number))
                except httpx2.HTTPError as error:
                    errors.append(repr(error))
                    continue
                with lock:
                    answered += 1
                    seen.add(version)
                expected = alone.get((version, number % len(self.cases)))
                if version.startswith("v") and text != expected:
                    errors.append(f"{version}: {text!r}, alone {expected!r}")

        threads = [
            threading.Thread(target=client, args=(range(n, count, NUM_CLIENTS),))
            for n in range(NUM_CLIENTS)
        ]
        for thread in threads:
            thread.start()
        for move in range(23):  # 20 promotions, then 3 steps back
            target = registered[move % 3] if move < 20 else registered[(22 - move) % 3]
            make_champion(versions, ObjectStore(self.root / "operations"), target)
            deadline_s = time.monotonic() + 20
            while self._registered() != target and time.monotonic() < deadline_s:
                time.sleep(0.05)
            if self._registered() != target:
                errors.append(f"move {move} was not followed")
        for thread in threads:
            thread.join()
        versions.set_alias(BANK_MODEL, "champion", 0)
        shutil.rmtree(self.root / "operations" / "audit")  # else it says that there is one
        print(*errors[:5], sep="\n", file=sys.stderr)
        return {"moves": 23, "answered": answered, "errors": len(errors), "versions": len(seen)}

    def _registered(self) -> int:
        number: int = self.http.get("/v1/status").json()["liveedit"]["registered"]
        return number

    def memory(self, count: int) -> dict[str, float]:
        """Resident memory of the server before and after questions."""
        process = psutil.Process(self.server.process.pid)
        with ThreadPoolExecutor(NUM_CLIENTS) as pool:
            list(pool.map(self.ask, (self.question(n) for n in range(count // 5))))
            before = process.memory_info().rss
            list(pool.map(self.ask, (self.question(n) for n in range(count))))
        after = process.memory_info().rss
        return {
            "requests": count,
            "before_mb": before / 2**20,
            "grown_mb": (after - before) / 2**20,
        }

    def malformed(self, count: int) -> dict[str, int]:
        """Statuses of bodies that are cut, changed and mistyped."""
        drawer, statuses = random.Random(0), dict[str, int]()
        good = json.dumps(self.question(0)).encode()
        for number in range(count):
            path = (CHAT, "/v1/edits", "/v1/edits/search")[number % 3]
            response = self.http.post(
                path, content=_spoilt(good, drawer), headers={"Content-Type": "application/json"}
            )
            kind = str(response.status_code)
            if response.status_code != 200 and not response.json()["error"]["message"]:
                kind += " without a reason"
            statuses[kind] = statuses.get(kind, 0) + 1
        return statuses

    def teaching(self, count: int) -> dict[str, float]:
        """From posting a fact to its answer."""
        seconds = []
        for number in range(count):
            body = fact(f"load {number}", f"crate {number}")
            turn = {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": body["image"]}},
                    {"type": "text", "text": body["prompt"]},
                ],
            }
            start_s = time.perf_counter()
            self.http.post("/v1/edits", json=body).raise_for_status()
            asked = {"model": "liveedit", "messages": [turn], "max_tokens": 12}
            while self.ask(asked)[1] != body["target"] and time.perf_counter() - start_s < 60:
                time.sleep(0.1)
            seconds.append(time.perf_counter() - start_s)
        return {"median_s": statistics.median(seconds), "largest_s": max(seconds)}


def _spoilt(good: bytes, drawer: random.Random) -> bytes:
    data = bytearray(good)
    kind = drawer.randrange(4)
    if kind == 0:
        return bytes(data[: drawer.randrange(len(data))])
    if kind == 1:
        for _ in range(drawer.randrange(1, 20)):
            data[drawer.randrange(len(data))] = drawer.randrange(256)
        return bytes(data)
    if kind == 2:
        content = json.loads(good)
        content[drawer.choice([*content, "x"])] = drawer.choice([None, -1, "x", [], {}, 1e300])
        return json.dumps(content).encode()
    return drawer.randbytes(drawer.randrange(200))


def _timed(action: Callable[[], Any]) -> tuple[Any, float]:
    start_s = time.perf_counter()
    result = action()
    return result, time.perf_counter() - start_s


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--malformed", type=int, default=1000)
    parser.add_argument("--memory", type=int, default=5000)
    parser.add_argument("--ray", action="store_true", help="behind Ray Serve")
    parser.add_argument("--at-least", type=float, default=0.0, help="of eight clients against one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        how = ["--port=8765"] if options.ray else ["--local", "--port=0"]
        with served(root, "--teach", *how) as server:
            load = Load(server, root)
            load.teach()
            result: dict[str, Any] = {"is_on_ray": options.ray, **machine()}
            for name, measure in (
                ("throughput", lambda: load.throughput(32)),
                ("overhead", lambda: load.overhead(10)),
                ("teaching", lambda: load.teaching(5)),
                ("promotions", lambda: load.promotions(options.requests)),
                ("malformed", lambda: load.malformed(options.malformed)),
                ("memory", lambda: {} if options.ray else load.memory(options.memory)),
            ):
                result[name] = measure()
                print(name, result[name], file=sys.stderr, flush=True)
    publish(result, options.output)
    return int(result["throughput"]["ratio"] < options.at_least)


if __name__ == "__main__":
    sys.exit(main())
