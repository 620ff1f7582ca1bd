"""What /metrics tells, in Prometheus' format."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from liveedit_core.method.key_index import MissCounter
from pipelines.serving.engine import Engine
from pipelines.serving.versions import VersionStore

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_RATES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)


class Telemetry:
    """The metrics of one server."""

    def __init__(self, engine: Engine, versions: VersionStore) -> None:
        self.registry = own = CollectorRegistry()
        self.requests = Counter(
            "liveedit_requests", "By path and status.", ("path", "status"), registry=own
        )
        self.first_token = Histogram(
            "liveedit_time_to_first_token_seconds",
            "From the question's arrival to its first text.",
            buckets=_SECONDS,
            registry=own,
        )
        self.rate = Histogram(
            "liveedit_tokens_per_second", "Of each answer.", buckets=_RATES, registry=own
        )
        self.routing = Histogram(
            "liveedit_routing_seconds", "Of each prefill.", buckets=_SECONDS, registry=own
        )
        self.kept = Histogram(
            "liveedit_experts_kept", "By each question.", buckets=(0, 1, 2, 4, 8, 16), registry=own
        )
        self.tokens = Counter("liveedit_generated_tokens", "Of all answers.", registry=own)
        self.answers = Counter(
            "liveedit_answers", "Whether an edit took part.", ("edited",), registry=own
        )
        self.registry.register(_State(engine, versions))

    def page(self) -> bytes:
        return generate_latest(self.registry)


@dataclass(kw_only=True)
class AnswerClock:
    """Measures one answer."""

    telemetry: Telemetry
    start_s: float = field(default_factory=time.perf_counter)
    first_s: float = 0.0

    def prefilled(self, num_kept: int, routing_s: float) -> None:
        self.telemetry.kept.observe(num_kept)
        self.telemetry.routing.observe(routing_s)
        self.telemetry.answers.labels(str(bool(num_kept)).lower()).inc()

    def text(self) -> None:
        if not self.first_s:
            self.first_s = time.perf_counter()
            self.telemetry.first_token.observe(self.first_s - self.start_s)

    def done(self, num_tokens: int) -> float:
        """Returns the seconds of the answer."""
        seconds = time.perf_counter() - self.start_s
        self.telemetry.tokens.inc(num_tokens)
        self.telemetry.rate.observe(num_tokens / max(seconds, 1e-6))
        return seconds


class _State(Collector):
    """Gauges that are read when they are asked for."""

    def __init__(self, engine: Engine, versions: VersionStore) -> None:
        self._engine = engine
        self._versions = versions

    def collect(self) -> Iterable[Metric]:
        version = self._versions.current
        committed = version.committed_at
        age_s = (datetime.now(UTC) - committed).total_seconds() if committed else 0.0
        for name, about, value in (
            ("questions_waiting", "Sequences without a place.", self._engine.num_waiting),
            ("questions_running", "Sequences that are decoded.", self._engine.num_running),
            ("bank_version", "That answers; 0: the unedited model.", version.bank_version),
            ("bank_version_age_seconds", "Since its commit.", age_s),
            ("bank_edits", "That it holds.", version.num_edits),
            ("version_switches", "Since the start.", self._versions.num_switches),
            ("is_ready", "0: the version that should answer cannot.", not self._versions.problem),
        ):
            yield GaugeMetricFamily(f"liveedit_{name}", about, value=float(value))
        misses = version.editor.misses if version.editor else MissCounter()
        for name, about, count in (
            ("questions", "Routed by the index of a large bank.", misses.num_questions),
            ("checked_questions", "Of these compared with a full scan.", misses.num_checked),
            ("passed_experts", "That pass the visual filter in a full scan.", misses.num_passed),
            ("missed_experts", "Of these not found by the index.", misses.num_missed),
            ("added_experts", "That pass as their runner-up was missed.", misses.num_added),
        ):
            yield CounterMetricFamily(f"liveedit_index_{name}", about, value=float(count))
