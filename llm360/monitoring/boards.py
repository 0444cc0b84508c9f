"""What the four dashboards show: panels with their units, descriptions and queries. Data alone; dashboards.py draws."""

from __future__ import annotations

from llm360.monitoring.panels import NAMESPACE, RATE, RUN, Board, Panel, Query, last, quantile, rate, risen

_NAMESPACES = ("namespace", 'label_values({__name__=~"llm360_train_step|llm360_run_phase"}, namespace)')
_RUNS = ("run", f"label_values(llm360_ledger_sequence{{{NAMESPACE}}}, run)")

_STEP_TIME = f"({rate('llm360_step_seconds_sum')} / {rate('llm360_step_seconds_count')})"
_STEPS_LEFT = f"({last('llm360_train_total_steps')} - {last('llm360_train_step')})"


def _number(title: str, unit: str, description: str, expr: str) -> Panel:
    return Panel(title, unit, description, (Query(expr, "{{run}}"),), "stat", width=4, height=4)


_NOW = (
    _number(
        "Progress",
        "percentunit",
        "Finished steps of all steps.",
        f"{last('llm360_train_step')} / {last('llm360_train_total_steps')}",
    ),
    _number(
        "Time left",
        "s",
        "Steps that are left, at the present mean time of a step.",
        f"{_STEPS_LEFT} * {_STEP_TIME}",
    ),
    _number("Loss", "none", "Of the last step, nats.", last("llm360_train_loss")),
    _number(
        "Speed",
        "short",
        "Tokens per second of the last step, all workers together.",
        last("llm360_train_tokens_per_second"),
    ),
    _number("Workers", "none", "Ranks of the newest attempt.", last("llm360_workers")),
    _number(
        "Attempt",
        "none",
        "Number of the newest attempt: starts of the worker group since the run began.",
        last("llm360_attempt"),
    ),
)

_LEARNING = (
    Panel(
        "Loss",
        "none",
        "Mean cross entropy per token, nats: of each step, and of ten minutes. Vertical lines: attempts, rewinds.",
        (
            Query(last("llm360_train_loss"), "step"),
            Query(f"max by (run) (avg_over_time(llm360_train_loss{{{RUN}}}[10m]))", "10 minutes"),
        ),
    ),
    Panel(
        "Loss by source",
        "none",
        "The same for each source of data. One source that leaves the others: look at its rows.",
        (Query(last("llm360_train_source_loss", "run, source"), "{{source}}"),),
    ),
    Panel(
        "Gradient norm",
        "none",
        "2-norm of the whole gradient before clipping. It often rises before the loss does.",
        (Query(last("llm360_train_gradient_norm"), "norm"),),
        width=8,
    ),
    Panel(
        "Learning rate",
        "sci",
        "As the schedule gives it for the last step.",
        (Query(last("llm360_train_learning_rate"), "learning rate"),),
        width=8,
    ),
    Panel(
        "Steps that were not finite",
        "none",
        "Loss or gradient was infinite or not a number; the weights were not touched.",
        (Query(f"sum by (run) (increase(llm360_nonfinite_total{{{RUN}}}{RATE}))", "steps"),),
        width=8,
    ),
)

_SPEED = (
    Panel(
        "Tokens per second",
        "short",
        "Mean over time, stops included, and that of the last step alone.",
        (
            Query(rate("llm360_train_tokens_total"), "mean"),
            Query(last("llm360_train_tokens_per_second"), "last step"),
        ),
    ),
    Panel(
        "Model FLOPs utilisation",
        "percentunit",
        "Of the devices' peak. Not there where the peak is unknown, as on CPUs.",
        (Query(last("llm360_mfu_ratio"), "MFU"),),
    ),
    Panel(
        "Time of a step",
        "s",
        "Median and 99th percentile; a gap between them is jitter: data, checkpoints, or a worker.",
        (
            Query(quantile(0.5, "llm360_step_seconds", select=RUN), "median"),
            Query(quantile(0.99, "llm360_step_seconds", select=RUN), "99th percentile"),
        ),
        width=8,
    ),
    Panel(
        "Part of the time lost",
        "percentunit",
        "Of the steps' time: waiting for data, and waiting for a checkpoint. Both should stay below one percent.",
        (
            Query(f"{rate('llm360_data_wait_seconds_total')} / {rate('llm360_step_seconds_sum')}", "data"),
            Query(
                f"{rate('llm360_checkpoint_blocked_seconds_total')} / {rate('llm360_step_seconds_sum')}", "checkpoint"
            ),
        ),
        width=8,
    ),
    Panel(
        "Tokens by source",
        "short",
        "Per second; the mixture that the model is trained on now.",
        (Query(rate("llm360_train_source_tokens_total", "run, source"), "{{source}}"),),
        width=8,
    ),
)

_RECORD = (
    Panel(
        "Step and checkpoints",
        "none",
        "The training's step, its newest committed checkpoint, and when the next is due.",
        (
            Query(last("llm360_train_step"), "step"),
            Query(last("llm360_checkpoint_step"), "committed"),
            Query(last("llm360_checkpoint_due_step") + " < Inf", "due"),
        ),
    ),
    Panel(
        "Attempts, rewinds, checkpoints",
        "none",
        "In the time shown: starts of the worker group, ways back inside one, checkpoints committed and refused.",
        (
            Query(f"round(sum by (run) (increase(llm360_attempts_total{{{RUN}}}[$__range])))", "attempts"),
            Query(f"round(sum by (run) (increase(llm360_rewinds_total{{{RUN}}}[$__range])))", "rewinds"),
            Query(f"round(sum by (run) (increase(llm360_checkpoint_committed_total{{{RUN}}}[$__range])))", "committed"),
            Query(f"round(sum by (run) (increase(llm360_checkpoint_refused_total{{{RUN}}}[$__range])))", "refused"),
        ),
        "stat",
    ),
    Panel(
        "Ledger",
        "none",
        "Sequence number of the ledger's newest entry: it only ever grows.",
        (Query(last("llm360_ledger_sequence"), "sequence"),),
    ),
    Panel(
        "Object store",
        "bool_yes_no",
        "Whether a commit waits for the store.",
        (Query(last("llm360_storage_waiting"), "waits"),),
    ),
)

_EVALUATION = (
    Panel(
        "Scores",
        "none",
        "Each task's number at the newest checkpoint that has it, from the operator. By checkpoint: the run's report.",
        (Query(last("llm360_evaluation_score", "run, task, metric"), "{{task}} {{metric}}"),),
        width=8,
    ),
    Panel(
        "Evaluated up to",
        "none",
        "Step of the newest checkpoint that has each task's number, and the training's: how far evaluation lags.",
        (
            Query(last("llm360_evaluation_score_step", "run, task"), "{{task}}"),
            Query(last("llm360_train_step"), "training"),
        ),
        width=8,
    ),
    Panel(
        "Checkpoints by evaluation",
        "none",
        "Done, running, waiting and failed. What failed: the condition Evaluated of the run.",
        (Query(last("llm360_run_evaluations", "run, state"), "{{state}}"),),
        width=8,
    ),
)

_WORKER_SECONDS = f"increase(llm360_worker_seconds_total{{{NAMESPACE}}}[$__range])"

_FLEET = (
    Panel(
        "Runs by phase",
        "none",
        "As the operator sees them.",
        (Query("max by (phase) (llm360_operator_runs) > 0", "{{phase}}"),),
    ),
    Panel(
        "Failed runs by reason",
        "none",
        "Runs that will not go on by themselves; the runbook of conditions says what to do.",
        (Query(f'sum by (reason) (llm360_run_phase{{{NAMESPACE},phase="Failed"}})', "{{reason}}"),),
    ),
    Panel(
        "Workers in use",
        "none",
        "Ranks of the runs that train; on GPUs each has one.",
        (Query(last("llm360_workers", "namespace, run", NAMESPACE), "{{namespace}}/{{run}}"),),
    ),
    Panel(
        "Cost",
        "h",
        "Hours of workers in the time shown: GPU hours where workers have GPUs.",
        (Query(f"sum by (namespace, run) ({_WORKER_SECONDS}) / 3600", "{{namespace}}/{{run}}"),),
        "stat",
    ),
    Panel(
        "Progress",
        "percentunit",
        "Finished steps of all steps.",
        (
            Query(
                f"{last('llm360_train_step', 'namespace, run', NAMESPACE)}"
                f" / {last('llm360_train_total_steps', 'namespace, run', NAMESPACE)}",
                "{{namespace}}/{{run}}",
            ),
        ),
        width=8,
    ),
    Panel(
        "Tokens per second",
        "short",
        "Mean over time, stops included.",
        (Query(rate("llm360_train_tokens_total", "namespace, run", NAMESPACE), "{{namespace}}/{{run}}"),),
        width=8,
    ),
    Panel(
        "Model FLOPs utilisation",
        "percentunit",
        "Of the devices' peak.",
        (Query(last("llm360_mfu_ratio", "namespace, run", NAMESPACE), "{{namespace}}/{{run}}"),),
        width=8,
    ),
)

_PODS = 'namespace=~"$namespace",pod=~"$run-.*"'

_RANKS = (
    Panel(
        "Own time by rank",
        "percentunit",
        "Part of the time that a rank spends between steps by itself while the others wait. A straggler stands out.",
        (Query(rate("llm360_worker_own_seconds_total", "run, rank"), "rank {{rank}}"),),
    ),
    Panel(
        "Waiting for data by rank",
        "percentunit",
        "Of it, waiting for rows. One rank alone: its node reads slowly.",
        (Query(rate("llm360_worker_data_wait_seconds_total", "run, rank"), "rank {{rank}}"),),
    ),
    Panel(
        "Time of a step by rank",
        "s",
        "Wall time of each rank's last step. Ranks end a step together, so these lie close.",
        (Query(last("llm360_worker_step_seconds", "run, rank"), "rank {{rank}}"),),
    ),
    Panel(
        "Peak memory by rank",
        "bytes",
        "Of the rank's GPU, or resident where it has none.",
        (Query(last("llm360_worker_memory_bytes", "run, rank"), "rank {{rank}}"),),
    ),
)

_MACHINES = (
    Panel(
        "GPU temperature",
        "celsius",
        "From the DCGM exporter, where the cluster has it.",
        (Query(f"max by (pod, gpu) (DCGM_FI_DEV_GPU_TEMP{{{_PODS}}})", "{{pod}} {{gpu}}"),),
    ),
    Panel(
        "GPU clock",
        "hertz",
        "Of the SMs, from the DCGM exporter. A GPU below the others throttles: heat or power.",
        (Query(f"1e6 * min by (pod, gpu) (DCGM_FI_DEV_SM_CLOCK{{{_PODS}}})", "{{pod}} {{gpu}}"),),
    ),
    Panel(
        "Network",
        "Bps",
        "Received and sent by pod, from kubelet's cAdvisor. RDMA passes it by.",
        (
            Query(f"sum by (pod) (rate(container_network_receive_bytes_total{{{_PODS}}}{RATE}))", "{{pod}} in"),
            Query(f"-sum by (pod) (rate(container_network_transmit_bytes_total{{{_PODS}}}{RATE}))", "{{pod}} out"),
        ),
    ),
    Panel(
        "Ray's object store",
        "bytes",
        "Memory in use by pod, from Ray's own metrics (port 8080). Rows wait here between reading and training.",
        (Query(f"sum by (pod) (ray_object_store_memory{{{_PODS}}})", "{{pod}}"),),
    ),
)

_OPERATOR = (
    Panel(
        "Time of a round",
        "s",
        "Observe, decide, act, write the status.",
        (
            Query(quantile(0.5, "llm360_operator_reconcile_seconds"), "median"),
            Query(quantile(0.99, "llm360_operator_reconcile_seconds"), "99th percentile"),
        ),
    ),
    Panel(
        "CPU time of deciding",
        "s",
        "The pure part of a round, 99th percentile.",
        (Query(quantile(0.99, "llm360_operator_decision_seconds"), "99th percentile"),),
    ),
    Panel(
        "Rounds and failures",
        "ops",
        "Rounds per second, and those that failed and are taken again, by reason.",
        (
            Query(f"sum(rate(llm360_operator_reconcile_seconds_count{RATE}))", "rounds"),
            Query(f"sum by (reason) (rate(llm360_operator_errors_total{RATE}))", "{{reason}}"),
        ),
    ),
    Panel(
        "Queue",
        "none",
        "Runs that wait for a round.",
        (Query("max(llm360_operator_queue_length)", "waiting"),),
    ),
    Panel(
        "Age of the loop's last turn",
        "s",
        "Above 30 the liveness probe starts the operator again.",
        (Query("max(llm360_operator_tick_age_seconds)", "age"),),
        width=8,
    ),
    Panel(
        "Requests to the Kubernetes API",
        "reqps",
        "By verb and kind.",
        (Query(f"sum by (verb, kind) (rate(llm360_operator_api_requests_total{RATE}))", "{{verb}} {{kind}}"),),
        width=8,
    ),
    Panel(
        "Answers that are errors",
        "reqps",
        "By code. 404 and 409 belong to the usual way; 403, 429 and 5xx do not.",
        (Query(f'sum by (code) (rate(llm360_operator_api_requests_total{{code!~"2.."}}{RATE}))', "{{code}}"),),
        width=8,
    ),
)

BOARDS = (
    Board(
        "llm360-run",
        "llm360 / Run",
        "One run: is it healthy, how far is it, what has happened.",
        (("Now", _NOW), ("Learning", _LEARNING), ("Speed", _SPEED), ("Record", _RECORD), ("Evaluation", _EVALUATION)),
        (_NAMESPACES, _RUNS),
        (
            ("attempts", risen("llm360_attempt")),
            ("rewinds", risen("llm360_rewinds_total")),
        ),
    ),
    Board(
        "llm360-fleet",
        "llm360 / Fleet",
        "All runs: phases, failures, workers, cost.",
        (("Runs", _FLEET),),
        (_NAMESPACES,),
    ),
    Board(
        "llm360-workers",
        "llm360 / Workers",
        "The workers of a run: which one is slow, hot or short of memory.",
        (("Ranks", _RANKS), ("Machines", _MACHINES)),
        (_NAMESPACES, _RUNS),
    ),
    Board(
        "llm360-operator",
        "llm360 / Operator",
        "The operator: rounds, queue, requests, errors.",
        (("Operator", _OPERATOR),),
    ),
)  # fmt: skip
