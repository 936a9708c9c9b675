"""Try sharing on a tiny model of every family of the installed transformers.

    python benchmarks/families.py [FAMILY ...] [--rows families.jsonl] [--write docs/families.md]

Each family that has a stack of layers is built from its configuration with small numbers, and
is shared, saved, loaded, materialised and counted. Each attempt ends as `ok`, as a refusal
by one of ShareTune's errors, as `wrong` with the largest difference, or as `error`. A family that
is in the file of `--rows` already is not tried again.
"""

import argparse
import copy
import json
import logging
import pickle
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tiny_models import answer, build, families
from torch import Tensor, nn
from transformers import PreTrainedModel

from sharetune.spaces.errors import SharetuneError
from sharetune.spaces.parts import PARTS
from sharetune.spaces.plan import SharingPlan
from sharetune.trainers import load_shared, materialize_, share_
from sharetune.trainers.exports.base import export
from sharetune.trainers.measuring.counting import Counting
from sharetune.trainers.measuring.sizes import facts
from sharetune.trainers.models.sample_inputs import samples
from sharetune.trainers.models.structure import find_stacks

TOLERANCE = 1e-4
"""The largest difference of outputs, relative to the largest output, that rounding makes."""

SECONDS = 60
"""Seconds of CPU after which a family is given up."""


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: `kind` is ok, refused, wrong, error or none (not for this family)."""

    kind: str
    text: str = ""


@dataclass(frozen=True)
class Row:
    """One family: the outcome of each check by name, or the reason why it was not tried."""

    family: str
    model: str = ""
    parameters: int = 0
    seconds: float = 0.0
    reason: str = ""
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    @classmethod
    def read(cls, line: str) -> "Row":
        """Read a row from a line of JSON."""
        own = json.loads(line)
        return cls(**own | {"outcomes": {n: Outcome(**o) for n, o in own["outcomes"].items()}})

    def of_kind(self, *kinds: str) -> dict[str, Outcome]:
        """Return the outcomes of these kinds by the name of their check."""
        return {name: o for name, o in self.outcomes.items() if o.kind in kinds}


class Wrong(Exception):
    """A result that differs from what it must be."""


class TooSlow(Exception):
    """A family takes more seconds of CPU than it may."""


def main() -> int:
    """Try the families that are named, or all; print a line for each. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*")
    parser.add_argument("--without", nargs="*", default=(), help="checks to leave out")
    parser.add_argument("--rows", type=Path, help="a file for the outcomes, continued if it exists")
    parser.add_argument("--write", type=Path, help="a file for the table")
    options = parser.parse_args()
    silence()
    rows = read_rows(options.rows)
    for family in options.families or families():
        if family not in rows:
            rows[family] = row = try_family(family, options.without)
            print(line(row), flush=True)
            if options.rows:
                with options.rows.open("a") as file:
                    file.write(json.dumps(asdict(row)) + "\n")
    print(summary(rows.values()))
    if options.write:
        options.write.write_text(as_page(list(rows.values())), "utf-8")
    return int(any(row.of_kind("wrong", "error") for row in rows.values()))


def read_rows(path: Path | None) -> dict[str, Row]:
    """Return the rows of a file by family; none of a file that is not there."""
    lines = path.read_text("utf-8").splitlines() if path and path.exists() else []
    return {row.family: row for row in map(Row.read, lines)}


def silence() -> None:
    """Silence warnings of foreign models, and set one thread."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def try_family(family: str, without: Collection[str] = ()) -> Row:
    """Return what comes of a family; checks that are left out end as `none`."""
    begun = time.process_time()
    try:
        with at_most(SECONDS):
            model = build(family)
            find_stacks(model)
            if not torch.equal(answer(model), answer(model)):
                raise Skip("answers differ from call to call")
            outcomes = {
                name: Outcome("none") if name in without else attempt(check, family)
                for name, check in CHECKS.items()
            }
    except Exception as error:  # whatever keeps a foreign family from being built small
        return Row(family, reason=first_line(error), seconds=time.process_time() - begun)
    name, count = type(model).__name__, model.num_parameters()
    return Row(family, name, count, round(time.process_time() - begun, 1), outcomes=outcomes)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise :class:`TooSlow` once the context has taken more than `seconds` of CPU."""

    def stop(*_: object) -> None:
        raise TooSlow(f"more than {seconds} s of CPU")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def first_line(error: Exception) -> str:
    """Return an error's class and the first line of its text."""
    text = re.sub(r"/\S*/site-packages/", "", str(error).strip()).splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:150]


def attempt(check: Callable[[str], None], family: str) -> Outcome:
    """Run one check on a family and return how it ended."""
    try:
        check(family)
    except Skip:
        return Outcome("none")
    except SharetuneError as error:
        return Outcome("refused", str(error).splitlines()[0])
    except Wrong as error:
        return Outcome("wrong", str(error))
    except TooSlow:
        raise
    except Exception as error:  # a traceback is what this benchmark looks for
        return Outcome("error", f"{type(error).__name__}: {str(error)[:200]}")
    return Outcome("ok")


KV = {"reuse": {"what": "kv"}}
"""The form that takes over keys and values."""


class Skip(Exception):
    """The check does not apply to the family."""


def compare(found: Tensor, expected: Tensor, what: str = "outputs") -> None:
    """Raise :class:`Wrong` unless the tensors are equal but for rounding."""
    if found.shape != expected.shape:
        raise Wrong(f"{what} of shape {tuple(found.shape)}, not {tuple(expected.shape)}")
    difference = float((found - expected).abs().nan_to_num(nan=0.0).max())
    if not difference <= TOLERANCE * max(1.0, float(expected.nan_to_num().abs().max())):
        raise Wrong(f"{what} differ by {difference:.2g}")


def plan(model: PreTrainedModel, form: Any, layers: Any = "all", **rule: Any) -> SharingPlan:
    """Return a plan of one group in every stack that is deep enough, and has parts of a known kind
    if it needs any."""
    stacks = find_stacks(model)
    known = [
        name for name, stack in stacks.items() if len(stack.shape.lacking_parts()) < len(PARTS)
    ]
    groups = [
        {"stack": name, "layers": layers, "form": form} | rule
        for name, stack in stacks.items()
        if layers == "all" or len(stack.layers) > max(layers)
        if form == "drop" or name in known or not known
    ]
    if not groups:
        raise Skip
    return SharingPlan.model_validate({"groups": groups})


def equal_layers(family: str) -> PreTrainedModel:
    """Return a model whose layers have equal weights, the last heads and neurons weaker."""
    model = build(family)
    for stack in find_stacks(model).values():
        states = [layer.state_dict() for layer in stack.layers]
        shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
        if any(own != shapes[0] for own in shapes):
            raise Skip
        for layer in stack.layers:
            layer.load_state_dict(states[0])
    return model


def no_sharing(family: str) -> None:
    """A plan of ratio 0 changes nothing."""
    model = build(family)
    before = answer(model)
    if not torch.equal(answer(share_(model, plan(model, {"bank": {"ratio": 0}}))), before):
        raise Wrong("outputs differ at ratio 0")


def of_equal_layers(form: Any, **rule: Any) -> Callable[[str], None]:
    """Return the check that sharing equal layers in a form changes nothing."""

    def check(family: str) -> None:
        """Layers of equal weights that share compute what they did."""
        model = equal_layers(family)
        before = answer(model)
        compare(answer(share_(model, plan(model, form, **rule))), before)

    return check


def saving(family: str) -> None:
    """Compares the logits of a shared model before saving and after loading."""
    model = build(family)
    share_(model, plan(model, {"bank": {"ratio": 0.5}}))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        compare(answer(load_shared(folder)), answer(model))


def dense(family: str) -> None:
    """A shared model becomes an ordinary one and is loaded as such."""
    model = build(family)
    if not reloads(family):
        raise Skip
    share_(model, plan(model, {"bank": {"ratio": 0.5}}))
    before = answer(model)
    materialize_(model)
    compare(answer(model), before)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        compare(answer(type(model).from_pretrained(folder).eval()), before)


def reloads(family: str) -> bool:
    """Return whether the family's own model computes the same after saving and loading."""
    model = build(family)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = type(model).from_pretrained(folder).eval()
    return torch.allclose(answer(again), answer(model), atol=TOLERANCE)


def dropping(family: str) -> None:
    """A dropped layer computes what the whole model does without it."""
    model, whole = build(family), build(family)
    share_(model, plan(model, "drop", [1]))
    for stack in find_stacks(whole).values():
        if len(stack.layers) > 1:
            stack.layers[1].register_forward_hook(_pass_by, with_kwargs=True)
    compare(answer(model), answer(whole))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        compare(answer(load_shared(folder)), answer(model), "outputs after loading")


def _pass_by(_: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
    if "prev_attn_output" in kwargs:  # Reformer's layers have two streams
        return output._replace(
            hidden_states=kwargs["hidden_states"], attn_output=kwargs["prev_attn_output"]
        )
    hidden = args[0] if args else kwargs.get("hidden_states", next(iter(kwargs.values())))
    if isinstance(output, Tensor):
        return hidden
    given = [value for value in (*args, *kwargs.values()) if value is not hidden]
    return (hidden, *(_handed_on(value, given) for value in output[1:]))


def _handed_on(value: Any, given: Sequence[Any]) -> Any:
    """Return what a layer was given of the kind of `value`, which it hands on, else `value`."""
    if not isinstance(value, Tensor):
        return value
    alike = [g for g in given if isinstance(g, Tensor) and g.shape == value.shape]
    return alike[0] if alike else value


def dropped_dense(family: str) -> None:
    """A model with a dropped layer is an ordinary one of fewer layers, or is refused."""
    model = build(family)
    if not reloads(family):
        raise Skip
    share_(model, plan(model, "drop", [1]))
    before = answer(model)
    materialize_(model)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        compare(answer(type(model).from_pretrained(folder).eval()), before)


def counting(family: str) -> None:
    """Compares the parameters, bytes and FLOPs counted for a plan with the built model's."""
    model = build(family).to("meta")
    inputs = {name: value.to("meta") for name, value in samples(model)[0].items()}
    for form, layers in (({"bank": {"ratio": 0.5}}, "all"), ("drop", [1]), (KV, "all")):
        one = plan(model, form, layers)
        try:
            counted = Counting(model, inputs).facts(one)
        except SharetuneError:
            if form is KV:
                continue  # a column of its own tells which families refuse it
            raise
        built = facts(model, share_(copy.deepcopy(model), one), inputs)
        if counted != built:
            differing = [name for name in built if counted.get(name) != built[name]]
            raise Wrong(f"{differing} counted otherwise than built")


def writing(family: str, form: Any = "tie", **rule: Any) -> None:
    """A shared model writes the same with its cache as without."""
    model = build(family)
    if getattr(model.config, "is_decoder", True) is False:
        raise Skip  # an encoder that sees later tokens
    if not model.can_generate() or model.main_input_name != "input_ids":
        raise Skip
    try:
        if not _caches(model):
            raise Skip
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, RuntimeError) as error:
        raise Skip from error  # the family's own, such as of a start token that is not set
    if not _caches(share_(model, plan(model, form, **rule))):
        raise Wrong("writes otherwise with its cache than without")


def _caches(model: PreTrainedModel) -> bool:
    """Return whether a model writes the same with its cache as without.

    Words whose logits are equal but for rounding count as the same. Padding is not written: without
    a cache some families mask it.
    """
    ids = samples(model)[0]["input_ids"][:1, :5]
    settings: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    settings["suppress_tokens"] = [0]
    settings |= {"pad_token_id": 0, "output_logits": True, "return_dict_in_generate": True}
    with torch.no_grad():
        one, two = (model.generate(ids, **settings, use_cache=cache) for cache in (True, False))
    for own, other in zip(one.logits, two.logits, strict=True):
        if float((own - other).abs().max()) > TOLERANCE * max(1.0, float(other.abs().max())):
            return False
        if not torch.equal(own.argmax(-1), other.argmax(-1)):
            return True  # a tie, after which the texts differ
    return True


def looping(family: str) -> None:
    """Repeated layers compute what as many copies of them do, and are saved."""
    model, copies = build(family), build(family)
    share_(model, plan(model, "tie", [1, 2], times=2, assign="each"))
    share_(copies, plan(copies, "tie", [1, 2], times=2, assign="each"))
    compare(answer(materialize_(copies)), answer(model), "outputs of copies")
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        compare(answer(load_shared(folder)), answer(model), "outputs after loading")
    with suppress(Skip):
        writing(family, layers=[1, 2], times=2, assign="each")


def reusing(family: str) -> None:
    """Keys and values of one layer in another are what is handed to it by hand."""
    with suppress(Skip):
        writing(family, KV, layers=[1, 2], units="first")
    model, whole = build(family), build(family)
    stacks = find_stacks(model)
    share_(model, plan(model, KV, [1, 2], units="first"))
    for name, stack in stacks.items():
        if len(stack.layers) > 2:
            lend = find_stacks(whole)[name].layers
            for slot in stack.slots:
                if slot.roles in (("k",), ("v",)):
                    _lend(lend[1].get_submodule(slot.path), lend[2].get_submodule(slot.path))
                elif set(slot.roles) & {"k", "v"}:
                    raise Skip
    compare(answer(model), answer(whole))


def _lend(owner: nn.Module, reader: nn.Module) -> None:
    held: list[Tensor] = []
    owner.register_forward_hook(lambda _, __, output: held.append(output))
    reader.register_forward_hook(lambda _, __, ___: held[-1])


def pickling(family: str) -> None:
    """A shared model is pickled where the unshared one is."""
    model = build(family)
    try:
        pickle.dumps(model)
    except Exception as error:  # the family's own, such as parametrised convolutions
        raise Skip from error
    share_(model, plan(model, {"bank": {"ratio": 0.5}}))
    compare(answer(pickle.loads(pickle.dumps(model))), answer(model))


def exporting(family: str) -> None:
    """A dense export is loaded and compared."""
    model = build(family)
    share_(model, plan(model, {"bank": {"ratio": 0.5}}))
    with tempfile.TemporaryDirectory() as folder:
        export(model, Path(folder) / "dense", "dense")


NO_STACK = "has no stack of at least two layers of one shape"
"""Part of the error for a model that has none."""

INTRODUCTION = """`benchmarks/families.py` with transformers {version} on tiny random models:
{summary}. `+` is right, `r` refused with a reason, `.` not for this family."""

CHECKS: dict[str, Callable[[str], None]] = {
    "ratio 0": no_sharing,
    "units": of_equal_layers({"bank": {"ratio": 0.5}}),
    "best-match": of_equal_layers({"bank": {"ratio": 0.5}}, units="best-match"),
    "tie": of_equal_layers("tie"),
    "lowrank": of_equal_layers({"lowrank": {"rank": 2}}),
    "basis": of_equal_layers({"basis": {"rank": 256}}),
    "atoms": of_equal_layers({"atoms": {"count": 1}}),
    "save": saving,
    "dense": dense,
    "drop": dropping,
    "drop, dense": dropped_dense,
    "count": counting,
    "cache": writing,
    "loop": looping,
    "reuse": reusing,
    "pickle": pickling,
    "export": exporting,
}
"""The checks by the name of their column."""

SIGNS = {"ok": "+", "refused": "r", "wrong": "WRONG", "error": "ERROR", "none": "."}


def line(row: Row) -> str:
    """Return one line for the terminal, with the text of each outcome that is not as it must be."""
    if row.reason:
        return f"{row.family:32} not tried: {row.reason}"
    signs = " ".join(SIGNS[outcome.kind] for outcome in row.outcomes.values())
    bad = [f"{n}: {o.text}" for n, o in row.of_kind("wrong", "error").items()]
    return "\n    ".join([f"{row.family:32} {signs} {row.seconds:.0f} s", *bad])


def summary(rows: Iterable[Row]) -> str:
    """Return the counts of all outcomes, and the seconds that they took."""
    tried = [row for row in rows if not row.reason]
    return f"{counts_text(tried)} ({sum(row.seconds for row in tried):.0f} s of CPU)"


def counts_text(tried: Sequence[Row]) -> str:
    """Return the counts of all outcomes of families that were tried."""
    counts = Counter(outcome.kind for row in tried for outcome in row.outcomes.values())
    told = ", ".join(f"{counts[kind]:,} {kind}" for kind in ("ok", "refused", "wrong", "error"))
    return f"{len(tried)} families: {told}"


def as_page(rows: Sequence[Row]) -> str:
    """Return the rows as a page of the docs."""
    return "\n".join(_page_lines(rows)) + "\n"


def _page_lines(rows: Sequence[Row]) -> Iterator[str]:
    tried = sorted((row for row in rows if not row.reason), key=lambda row: row.family)
    stackless = [row for row in rows if NO_STACK in row.reason]
    others = [row for row in rows if row.reason and NO_STACK not in row.reason]
    yield "# Model families"
    yield ""
    yield INTRODUCTION.format(version=transformers.__version__, summary=counts_text(tried))
    yield ""
    yield "| check | what it does |"
    yield "|---|---|"
    for name, check in CHECKS.items():
        yield f"| {name} | {(check.__doc__ or '').splitlines()[0]} |"
    yield ""
    yield f"| family | {' | '.join(CHECKS)} |"
    yield f"|---|{'---|' * len(CHECKS)}"
    for row in tried:
        signs = (SIGNS[row.outcomes[name].kind] for name in CHECKS)
        yield f"| {row.family} | {' | '.join(signs)} |"
    yield ""
    yield "## Refusals"
    yield ""
    yield "| refused | families and checks |"
    yield "|---|---|"
    for reason, places in sorted(_refusals(tried).items()):
        yield f"| {reason} | {'; '.join(places)} |"
    yield ""
    yield "## Not tried"
    yield ""
    yield f"Without a stack of layers of one shape: {', '.join(row.family for row in stackless)}."
    yield ""
    yield "| family | reason |"
    yield "|---|---|"
    for row in others:
        yield f"| {row.family} | {_cell(row.reason)} |"


def _refusals(rows: Iterable[Row]) -> dict[str, list[str]]:
    """Return the families and checks by the text of their refusal, without names of models."""
    found: dict[str, list[str]] = {}
    for row in rows:
        by_text: dict[str, list[str]] = {}
        for name, outcome in row.of_kind("refused").items():
            by_text.setdefault(_cell(outcome.text.replace(row.model, "the model")), []).append(name)
        for text, names in by_text.items():
            found.setdefault(text, []).append(f"{row.family} ({', '.join(names)})")
    return found


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


if __name__ == "__main__":
    sys.exit(main())
