"""Runs one specification from start to exit code: store, data, Ray, recorder, Ray Train, and the end.

The training itself runs in Ray Train's processes; this one waits, shows progress, and decides when it is over.
`fit()` sits in a thread of its own, so that the end does not depend on worker processes that may hang: once
the recorder has an outcome they get a few seconds to leave, then Ray is shut down around them.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from signal import Signals
from typing import Any

import ray

from llm360.errors import LLM360Error
from llm360.release.create import check_config, create_release
from llm360.release.history import History
from llm360.release.layout import PROBE_KEY
from llm360.release.ledger import Ledger
from llm360.release.weights import check_weights
from llm360.spec import ResolvedRun
from llm360.storage import Storage, StorageOptions, open_storage, probe_conditional_create
from llm360_trainer.driver.messages import Outcome, RecorderInput, Update, describe_error
from llm360_trainer.driver.pinned import check_pinned
from llm360_trainer.driver.progress import LogFormat, Progress
from llm360_trainer.driver.push import CLOSE_SECONDS
from llm360_trainer.driver.recorder import Recorder
from llm360_trainer.driver.resources import check_gpus, local_cpus, waiting_for_workers
from llm360_trainer.driver.service import check_host
from llm360_trainer.driver.shared_folder import check_shared_folder, is_folder
from llm360_trainer.driver.stages import plan_stages
from llm360_trainer.prepare.cluster import check_reachable, not_started, unreachable
from llm360_trainer.prepare.signals import SIGNAL_EXIT, Interruption, kept_handlers
from llm360_trainer.train.entry import WorkerInput
from llm360_trainer.train.plan import StagePlan

POLL_SECONDS = 0.2
LEAVE_SECONDS = 5.0
"""How long ranks may take to leave after the end is known, before Ray is shut down around them."""
FLUSH_SECONDS = 20.0
"""How long an interrupted run may take to commit its last records."""
TELL_SECONDS = 20.0
"""How long a driver on a cluster stays after its end: operator and Prometheus, who ask every 15 s, shall read it."""
TELL_STOPPED_SECONDS = 5.0
"""The same of one that was asked to stop; it is asked more often then, and what waits is its pods' next owner."""
RECORDER_THREADS = 64
"""Calls of the recorder's actor that may wait at a time; ranks wait in at most two each."""
RAY_START_TRIES = 3
"""Ray gives its processes 30 s to come up, which a machine busy with other things may exceed."""
RAY_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    # A dead worker is noticed within a second, not two.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    # A slow or busy machine may need minutes for what takes seconds on another.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
    # A process that waits for notices of preemption; a run that loses its nodes goes on from the ledger.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""What Ray reads from the environment; a value that the user set stays."""


@dataclass(frozen=True)
class LaunchOptions:
    """How a run is launched on this machine or cluster; nothing of it changes the result.

    Attributes:
        address: Address of a Ray cluster (`auto`: the one this machine belongs to); None starts Ray here.
        host: Address that `/status` and `/metrics` listen on.
        port: Their port; another free one is taken where it is not free.
        push: URL of a Pushgateway that the metrics are pushed to as well; None for none.
        log_format: How progress is shown.
        log_interval: Least seconds between the lines of two steps in a log.
    """

    address: str | None
    host: str
    port: int
    push: str | None
    log_format: LogFormat
    log_interval: float


def launch(run: ResolvedRun, options: LaunchOptions, say_end: Callable[[Outcome], object] | None = None) -> Outcome:
    """Train the run to its end, or until it has to stop.

    Args:
        run: The specification.
        options: How it is launched.
        say_end: Called instead of a return where a second signal ends the process at once.

    Returns:
        How it ended; `exit_code` is the process's.

    Raises:
        InputError: the specification, store, data, host or machine cannot be used. Nothing is left behind.
        StorageError: the store failed before training began.
    """
    storage_options = StorageOptions(
        endpoint=run.spec.storage.endpoint,
        region=run.spec.storage.region,
        path_style=run.spec.storage.path_style,
        # A store that hangs is waited for in any case; sooner known, sooner said.
        read_timeout=20.0,
        max_attempts=3,
    )
    storage = open_storage(run.store, storage_options)
    history = open_existing(storage, run)
    if history is not None and history.complete is not None:
        return Outcome(0, "Complete", describe_complete(run, history))
    if not is_elsewhere(options.address):
        check_host(options.host)
    with (
        Progress(run.name, 0, log_format=options.log_format, interval_seconds=options.log_interval) as progress,
        Interruption(leave_at_once(progress, say_end, "run it again to go on from the last commit")) as interruption,
    ):
        if history is None:
            check_store(storage)
            check_weights(run, storage_options)
        with RayRuntime(run, options.address) as runtime:
            if run.spec.cluster.workers.device == "cuda" and options.address is None:
                runtime.start()  # before hours of preparation: it sees whether this machine has the GPUs
            if options.address is not None and is_folder(storage):
                runtime.start()
                check_shared_folder(storage)  # before hours of preparation
            stages = plan_stages(run, storage_options, progress.event, before_preparing=runtime.start)
            if history is not None:
                check_pinned(run, history, stages)
            create_release(storage, run.identity())
            progress.set_total(stages[-1].last_step)
            runtime.start()
            recorder = start_beside(
                Recorder,
                RecorderInput(run.canonical(), stages, storage_options, options.host, options.port, options.push),
            )
            given = worker_input(run, stages, storage_options, recorder)
            is_on_cluster = options.address is not None
            launch = Launch(run, given, progress, interruption, options, is_on_cluster=is_on_cluster)
            if port := recorder_port(recorder):
                progress.event(f"status and metrics on http://{options.host}:{port}")
            return launch.wait()


def worker_input(
    run: ResolvedRun,
    stages: tuple[StagePlan, ...],
    options: StorageOptions,
    recorder: Any,
    *,
    store: str | None = None,
    keeps_checkpoints: bool = True,
) -> WorkerInput:
    """What every rank gets of a run.

    Args:
        run: The specification.
        stages: All stages with their data.
        options: How storage is reached.
        recorder: Handle of the actor that the ranks report to.
        store: Address of the release where it is another than the run's, since this is a copy.
        keeps_checkpoints: See `WorkerInput`.
    """
    workers = run.spec.cluster.workers
    return WorkerInput(
        run_json=run.canonical(),
        store=store or run.store,
        stages=stages,
        options=options,
        recorder=recorder,
        num_threads=max(1, int(workers.cpus)) if workers.device == "cpu" else None,
        keeps_checkpoints=keeps_checkpoints,
    )


def open_existing(storage: Storage, run: ResolvedRun) -> History | None:
    """The history of the release where there is one already.

    Raises:
        InputError: it is the release of another run; names the fields that differ.
    """
    ledger = Ledger(storage)
    if ledger.head() is None:
        return None
    check_config(ledger, run.identity())
    return ledger.history()


def check_store(storage: Storage) -> None:
    """See that a release can be kept there, before hours of preparation are spent.

    Raises:
        InputError: not writable, or without conditional create; nothing is left behind.
    """
    probe_conditional_create(storage, PROBE_KEY)


def describe_complete(run: ResolvedRun, history: History) -> str:
    """What is said of a run that has nothing left to do."""
    assert history.complete is not None
    return (
        f"{run.name} is complete already: {history.complete.step} steps, {history.complete.tokens} tokens,"
        f" {len(history.branch)} checkpoints at {run.store}"
    )


def is_elsewhere(address: str | None) -> bool:
    """Whether the recorder, which serves `/status`, runs on another machine than this process."""
    return address is not None and address.startswith("ray://")


def leave_at_once(
    progress: Progress, say_end: Callable[[Outcome], object] | None, what_next: str
) -> Callable[[Signals], None]:
    """What is done with a second signal, just before the process ends.

    Args:
        progress: Shows the run.
        say_end: Says how it ended.
        what_next: What became of it, and what its user may do.
    """

    def leave(number: Signals) -> None:
        progress.close()  # a terminal gets its cursor back
        if say_end is not None:
            message = f"{number.name} again, stopped at once; {what_next}"
            say_end(Outcome(SIGNAL_EXIT + number, "Interrupted", message))

    return leave


class RayRuntime:
    """A Ray to run on: the cluster at an address, or one started here; left, or ended, at the end of the block.

    Args:
        run: Says what the workers need.
        address: Of the cluster; None starts Ray here.
    """

    def __init__(self, run: ResolvedRun, address: str | None) -> None:
        self._run, self._address = run, address

    def start(self) -> None:
        """Connect, or start Ray, unless that has happened already.

        Raises:
            InputError: there is no cluster at the address, or this machine lacks the GPUs.
            LLM360Error: Ray did not start here.
        """
        if ray.is_initialized():
            return
        if self._address is not None:
            check_reachable(self._address)
        cores = local_cpus(self._run, os.cpu_count() or 1)
        local: dict[str, Any] = {"num_cpus": cores, "include_dashboard": False}
        os.environ.update(RAY_ENVIRONMENT | {name: os.environ[name] for name in RAY_ENVIRONMENT if name in os.environ})
        for left in reversed(range(RAY_START_TRIES)):
            try:
                with kept_handlers():
                    ray.init(
                        address=self._address or "local",
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                        **({} if self._address else local),
                    )
                break
            except Exception as error:
                ray.shutdown()
                if left == 0 or self._address:
                    raise (unreachable(self._address, error) if self._address else not_started(error)) from error
        if self._address is None:
            check_gpus(self._run, int(ray.cluster_resources().get("GPU", 0)))

    def __enter__(self) -> RayRuntime:
        return self

    def __exit__(self, *_: object) -> None:
        ray.shutdown()


class Launch:
    """One launch: Ray Train, and the wait for the end that its recorder decides.

    Args:
        run: The specification.
        given: What every rank gets; names the recorder.
        progress: Shows what happens.
        interruption: A wish to stop.
        options: How it is launched; None: nobody follows it but this process.
        is_on_cluster: Whether nodes may still join, so that workers are waited for.
    """

    def __init__(
        self,
        run: ResolvedRun,
        given: WorkerInput,
        progress: Progress,
        interruption: Interruption,
        options: LaunchOptions | None = None,
        *,
        is_on_cluster: bool = False,
    ) -> None:
        self._run, self._input, self._progress, self._interruption = run, given, progress, interruption
        self._recorder = given.recorder
        self._is_followed = options is not None and is_on_cluster
        self._is_pushed = options is not None and options.push is not None
        self._waiting = waiting_for_workers(run, progress.event) if is_on_cluster else None
        # Torch is imported here and not before: meanwhile the recorder's process starts beside this one.
        from llm360_trainer.driver.fit import fit

        self._tell_at = 0.0
        self._fit_error: BaseException | None = None
        self._fit = threading.Thread(target=self._run_fit, args=(fit,), name="ray-train", daemon=True)

    def wait(self) -> Outcome:
        """Train until the recorder has an outcome, Ray Train gives up, or a signal asks to stop."""
        self._interruption.is_deferred = True
        self._fit.start()
        while True:
            update: Update = ray.get(self._recorder.drain.remote())
            self._show(update)
            if update.outcome is not None:
                return self._leave(update.outcome)
            if self._waiting is not None:
                self._waiting.look()
            self._pass_signal_on()
            if not self._fit.is_alive():
                final: Update = ray.get(self._recorder.drain.remote())
                self._show(final)
                return self._leave(final.outcome or Outcome(1, "RayTrainFailed", describe_fit_error(self._fit_error)))
            time.sleep(POLL_SECONDS)

    def _pass_signal_on(self) -> None:
        """Tell the recorder of a signal, and again once the ranks have had their time to write a checkpoint."""
        number, now = self._interruption.signal, time.monotonic()
        if number is not None and now >= self._tell_at:
            self._tell_at = now + self._run.spec.recovery.stop_seconds
            ray.get(self._recorder.interrupt.remote(SIGNAL_EXIT + number, number.name))

    def _leave(self, outcome: Outcome) -> Outcome:
        """Let the ranks leave, commit what is left, and show it."""
        self._fit.join(LEAVE_SECONDS)
        if outcome.exit_code not in (0, 3):
            _ready, late = ray.wait([self._recorder.flush.remote()], timeout=FLUSH_SECONDS)
            if late:
                self._progress.event("the last records could not be committed in time; their steps will be run again")
        self._show(ray.get(self._recorder.drain.remote()))
        if self._is_pushed:
            ray.wait([self._recorder.push_end.remote()], timeout=CLOSE_SECONDS)
        # On one machine nobody waits to be told; where another driver follows, or is there already, that one tells.
        if self._is_followed and (self._interruption.signal or outcome.exit_code in (0, 2, 4)):
            seconds = TELL_STOPPED_SECONDS if self._interruption.signal else TELL_SECONDS
            ray.wait([self._recorder.tell_end.remote(seconds)], timeout=seconds)
        return outcome

    def _show(self, update: Update) -> None:
        for record in update.records:
            self._progress.step(record)
        for event in update.events:
            self._progress.event(event.text, checkpoint=event.checkpoint, attempt=event.attempt)

    def _run_fit(self, fit: Callable[[ResolvedRun, WorkerInput], None]) -> None:
        try:
            fit(self._run, self._input)
        except BaseException as error:
            self._fit_error = error


def start_beside(recorder: type, given: Any) -> Any:
    """Start a recorder's actor on this very node, which is the head's, without waiting for it.

    Args:
        recorder: Its class.
        given: The argument that it is made with.
    """
    node = ray.get_runtime_context().get_node_id()
    actor = ray.remote(recorder).options(
        num_cpus=0,
        max_concurrency=RECORDER_THREADS,
        label_selector={"ray.io/node-id": node},
    )
    return actor.remote(given)


def recorder_port(recorder: Any) -> int:
    """The port of `/status`, once the recorder has started.

    Raises:
        LLM360Error: it could not.
    """
    try:
        return int(ray.get(recorder.port.remote()))
    except ray.exceptions.RayActorError as error:
        raise LLM360Error(f"the recorder could not start: {error}", reason="RecorderFailed") from error


def describe_fit_error(error: BaseException | None) -> str:
    """One sentence of what Ray Train gave up with."""
    if error is None:
        return "the workers left without saying how the run ended"
    return f"Ray Train gave up: {describe_error(error)}"
