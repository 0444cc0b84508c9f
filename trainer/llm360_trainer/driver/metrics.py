"""The run's Prometheus metrics: a view of what the recorder knows, never its source.

Labels are bounded: run and attempt at most, sources by name; never the step.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from llm360.release.metrics import StepRecord

STEP_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)


class RunMetrics:
    """All series of one run on a registry of their own.

    Args:
        run: Name of the run, a label of every series.
    """

    def __init__(self, run: str) -> None:
        self.registry = CollectorRegistry()
        labels = ["run"]
        self._run = run

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, labels, registry=self.registry).labels(run)

        def counter(name: str, text: str) -> Counter:
            return Counter(name, text, labels, registry=self.registry).labels(run)

        self.step = gauge("llm360_train_step", "Finished optimizer steps.")
        self.loss = gauge("llm360_train_loss", "Mean loss of the last step over all real tokens, nats.")
        self.learning_rate = gauge("llm360_train_learning_rate", "Learning rate of the last step.")
        self.gradient_norm = gauge(
            "llm360_train_gradient_norm", "Global gradient norm of the last step before clipping."
        )
        self.mfu = gauge("llm360_mfu_ratio", "Model FLOPs utilisation of the last step, 0 to 1.")
        self.memory = gauge("llm360_worker_memory_bytes", "Largest peak memory of a worker.")
        self.attempt = gauge("llm360_attempt", "Number of the attempt that runs.")
        self.ledger_sequence = gauge("llm360_ledger_sequence", "Sequence number of the ledger's newest entry.")
        self.tokens = counter("llm360_train_tokens_total", "Predictions trained on by this driver.")
        self.data_wait = counter("llm360_data_wait_seconds_total", "Time that steps waited for data.")
        self.checkpoint_blocked = counter(
            "llm360_checkpoint_blocked_seconds_total", "Time that steps waited for a checkpoint."
        )
        self.checkpoints = counter("llm360_checkpoint_committed_total", "Checkpoints committed to the ledger.")
        self.attempts = counter("llm360_attempts_total", "Attempts claimed by this driver.")
        self.nonfinite = counter("llm360_nonfinite_total", "Steps with a non-finite loss or gradient.")
        self.step_seconds = Histogram(
            "llm360_step_seconds",
            "Wall time of an optimizer step.",
            labels,
            buckets=STEP_BUCKETS,
            registry=self.registry,
        ).labels(run)
        self._source_loss = Gauge(
            "llm360_train_source_loss",
            "Mean loss of the last step by source, nats.",
            ["run", "source"],
            registry=self.registry,
        )

    def observe(self, record: StepRecord) -> None:
        """Take a finished step in."""
        self.step.set(record.step)
        self.loss.set(record.loss)
        self.learning_rate.set(record.learning_rate)
        self.gradient_norm.set(record.grad_norm)
        if record.mfu is not None:
            self.mfu.set(record.mfu)
        self.memory.set(record.memory_bytes)
        self.data_wait.inc(record.data_wait_seconds)
        self.checkpoint_blocked.inc(record.checkpoint_stall_seconds)
        self.step_seconds.observe(record.step_seconds)
        self.tokens.inc(sum(record.source_tokens.values()))
        for source, loss in record.source_loss.items():
            self._source_loss.labels(self._run, source).set(loss)
