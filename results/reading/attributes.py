"""Names of the files and attributes of a run folder, and what each one holds.

`search` writes by these names and `results` reads by them; nothing else is stored anywhere.

A run folder: ``study.db`` (the storage, SQLite) or ``storage.yaml`` (where else it is: ``url``
of a PostgreSQL database and ``study``, its name there), ``study.yaml`` (the study file as given),
``trials/<number>/model`` (weights of the trials on the front), ``report.html``.

Attributes of the study
    config          the validated study file, as plain data
    objectives      list of objective names, in the order of the trials' values
    objective_specs [{"name", "title", "direction", ...}, ...]: all that was registered when the
                    study began, as `Objective.written` gives it
    model           {"name", "stacks": {stack: layers}, "lacking": {stack: [part, ...]}: parts of no
                    known kind, which no plan changes; "labels": [...]}
    rows            {"train", "test"} and, where the study selects on one, "validation": how many
                    examples each split has
    places          {"run", "study"}: absolute folders of the run and of the study file when the
                    paths in config were last looked up
    identity        digests of weights and data: {"model", "data", "checkpoint", "trained on",
                    "measured on"}
    reference       {objective: value}: the fixed reference point of the hypervolume
    earlier         [{"study", "number", "candidate"}, ...]: members of earlier studies' fronts,
                    which are trained first
    solved          [plan, ...]: solved from the scores in the run folder when the study began;
                    they are trained right after the unshared model, as anchors ``solved-0`` ...
    scoring         {"edits", "wanted", "seconds", "scores_a_training", "note"}: how many edits were
                    scored before the search, of how many, in how many seconds, how many scores
                    cost as much as a training, or why there are no scores; not there where scoring
                    was off
    anchor_plans    {anchor: plan}: drops chosen by measured effect, which stand for those of the
                    middle layers that the anchors' names stand for elsewhere
    rivals          {"trials", "found": [{"of", "kind", "candidate"}, ...]}: the best plans of one
                    kind alone at the size of trial `of` on the front, as chosen near the end of a
                    budget of that many trials
    circumstances   {"versions": {...}, "commit", "dirty", "device", "threads", "host", "started"}
    driver          token of the process that may write the study, a new one each time it is opened
    architecture:<digest>
                    the same of an untrained plan with its compression, where the study limits
                    latency
    latency:<n>     latency of trial n, measured after the search or by its architecture:
                    {"forms": {"stored": L, "materialised": L}, "unshared_ms", "use",
                    "written_tokens" where there are any, "batch_size", "max_length", "rounds",
                    "device", "threads", "timed_by", "rounds_taken", "drift", "preempted",
                    "throughput", "runtimes", "refused", "quiet"}
                    with L = {"median_ms", "low_ms", "high_ms", "ratio", "ratio_low",
                    "ratio_high"} (95 % bootstrap intervals; ratio to unshared);
                    drift: change of the unshared median from the first third of the rounds to
                    the last; preempted: preemptions by the system for each timed pass;
                    throughput: {"forms", "unshared_ms", "drift", "preempted", "timed_by",
                    "batch_size"} of a batch, where the study asks for it;
                    runtimes: {format: {use: L and "unshared_ms"}} of exports, where the study asks
                    for it, each against the unshared model's, with the uses "pass", or "prefill"
                    and "decode"; refused: {format: why it cannot hold the model}; studies of before
                    have onnxruntime's L as forms["onnx"], with "onnx_unshared_ms";
                    quiet: {objective: value}, what else was measured of the model as stored

Attributes of a trial
    candidate       plan, compression and recipe, as `Candidate.written` gives them
    anchor          the anchor's name, for anchors only
    earlier         {"study", "number"} of the earlier study's trial it was taken from
    rival           {"of", "kind"} of the trial on the front that it is a rival of
    finalist        number of the trial that this one trains again, on another seed
    facts           known before training: {"parameters", "stack_parameters", "flops", "bytes",
                    "effective_ratio", "cache_bytes"}, and, where edits were scored, the plan's
                    "distance" from the unshared model, untrained, and its "predicted_distance", the
                    sum of its edits' scores
    metrics         measured: {"accuracy", "macro_f1", "eval_loss", "calibration_error", ...}
    test            the same four of the test split, of a finalist where the study selects on a
                    validation split: {"metrics", "per_class", "confusion", "part_sums"}
    per_class       {label: {"precision", "recall", "f1", "support"}}
    confusion       rows are true labels, columns predicted ones; of more than 30 labels
                    {"classes", "cells": [[row, column, count], ...]} of the counts that are not 0
    part_sums       {"nats": [...], "predictions": [...], "bytes": [...], ...}: sums over at most
                    100 consecutive parts of the split measured on, of which metrics are made
    by_format       {quantisation: metrics} of the same weights, where the study asks for it, and
                    "as trained": theirs
    curve           [[step, training loss], ...]
    started         true once a worker was asked for; only such trials count in the budget,
                    and finalists do not have it
    seconds         {"train", "evaluate", "total"}
    ran             {"process", "from", "to"}: seconds, by a clock that nobody sets, since that
                    process opened the study; by them the hours that are spent are counted
    circumstances   {"seed", "steps", "device", "threads", "host", "pid", "versions", "commit",
                    "dirty"}; "dtype" of the weights in training and "saved_dtype" of the stored
                    ones; "accumulation", the parts of a batch, where memory ran out with whole
                    batches; "continued_at", the steps at which another process went on;
                    "unreadable_checkpoints", the steps of those that were put aside;
                    "lm_eval": {"version", "batch_size", "limit", "tasks": {task: {"version",
                    "num_fewshot", "hash", "numbers"}}} where tasks of the harness were done
    rungs           [{"rung", "step", "accuracy", ...}, ...]: metrics at each rung (0-based)
    same_as         number of the equal trial whose values this one repeats
    reason          why a PRUNED trial was not completed: over budget, NaN, out of memory,
                    stopped at a rung
    error           {"kind", "message", "traceback"} of a FAILED or PRUNED trial

States: COMPLETE has true values; PRUNED was stopped early or is the candidate's own fault; FAIL is
a fault of the machinery (an interrupted trial has ``reason: interrupted`` and is run again).
"""

STORAGE = "study.db"
"""File of the run folder: the Optuna storage, SQLite."""

POINTER = "storage.yaml"
"""File of the run folder: where the storage is instead, ``url`` and ``study``."""

# Keys of the study's attributes.
CONFIG = "config"
OBJECTIVES = "objectives"
OBJECTIVE_SPECS = "objective_specs"
MODEL = "model"
ROWS = "rows"
REFERENCE = "reference"
CIRCUMSTANCES = "circumstances"
IDENTITY = "identity"
PLACES = "places"
DRIVER = "driver"
EARLIER = "earlier"
RIVAL = "rival"
SOLVED = "solved"
SCORING = "scoring"
ANCHOR_PLANS = "anchor_plans"
RIVALS = "rivals"
LATENCY = "latency:"
ARCHITECTURE = "architecture:"

# Keys of a trial's attributes.
CANDIDATE = "candidate"
ANCHOR = "anchor"
FINALIST = "finalist"
FACTS = "facts"
METRICS = "metrics"
TEST = "test"
PER_CLASS = "per_class"
CONFUSION = "confusion"
PART_SUMS = "part_sums"
BY_FORMAT = "by_format"
CURVE = "curve"
STARTED = "started"
SECONDS = "seconds"
RAN = "ran"
RUNGS = "rungs"
SAME_AS = "same_as"
REASON = "reason"
ERROR = "error"
INTERRUPTED = "interrupted"
