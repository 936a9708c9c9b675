"""Try sharing on a tiny model of every family of the installed transformers.

    python benchmarks/families.py [FAMILY ...] [--write docs/families.md]

Each family that has a stack of layers is built from its configuration with small numbers, and
is shared, saved, loaded, materialised and counted. Each attempt ends as `ok`, as a refusal
by one of ShareTune's errors, as `wrong` with the largest difference, or as `error`.
"""

import argparse
import copy
import logging
import pickle
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from sharetune.spaces.errors import ModelError, SharetuneError
from sharetune.spaces.plan import SharingPlan
from sharetune.trainers import load_shared, materialize_, share_
from sharetune.trainers.exports.base import export
from sharetune.trainers.measuring.counting import Counting
from sharetune.trainers.measuring.sizes import facts
from sharetune.trainers.models.sample_inputs import samples
from sharetune.trainers.models.structure import find_stacks

DEPTH = 4
"""Layers of each stack."""

LARGEST = 5_000_000
"""Parameters of a family that cannot be made small, above which it is not tried."""

TOLERANCE = 1e-4
"""The largest difference of outputs, relative to the largest output, that rounding makes."""

SIZES: dict[str, Any] = (
    dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "embedding_size"), 32)
    | dict.fromkeys(("word_embed_proj_dim", "projection_dim", "d_embed", "emb_dim"), 32)
    | dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers"), DEPTH)
    | dict.fromkeys(("encoder_layers", "decoder_layers", "num_encoder_layers"), DEPTH)
    | dict.fromkeys(("num_decoder_layers", "layers", "depth"), DEPTH)
    | dict.fromkeys(("num_attention_heads", "num_heads", "n_head", "n_heads"), 4)
    | dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4)
    | dict.fromkeys(("num_encoder_attention_heads", "num_decoder_attention_heads"), 4)
    | dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 4)
    | dict.fromkeys(("head_dim", "d_kv", "attention_head_size", "rotary_dim"), 8)
    | dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "d_inner", "n_inner"), 64)
    | dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "hidden_dim", "ffn_hidden_size"), 64)
    | dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size"), 32)
    | dict.fromkeys(("shared_expert_intermediate_size", "feed_forward_size"), 32)
    | dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4)
    | dict.fromkeys(("moe_num_experts",), 4)
    | dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "n_group", "topk_group"), 1)
    | dict.fromkeys(("vocab_size", "vocab_size_or_config_json_file", "n_vocab"), 99)
    | dict.fromkeys(("max_position_embeddings", "n_positions", "max_target_positions"), 64)
    | dict.fromkeys(("max_source_positions", "n_ctx", "max_seq_len", "max_seq_length"), 64)
    | dict.fromkeys(("image_size",), 32)
    | dict.fromkeys(("patch_size",), 8)
    | dict.fromkeys(("kv_lora_rank", "q_lora_rank"), 16)
    | dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8)
    | dict.fromkeys(("num_mel_bins", "feature_size"), 16)
    | dict.fromkeys(("state_size", "time_step_rank", "mamba_d_state"), 8)
    | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    | {"layerdrop": 0.0, "encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}
    | {"conv_dim": (16, 16), "conv_stride": (5, 4), "conv_kernel": (10, 4)}
    | {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.0}
    | {"num_feat_extract_layers": 2, "attention_window": 4, "window_size": 4}
)
"""Small numbers by the names that configurations give them."""

HEADS = (
    "AutoModelForSeq2SeqLM",
    "AutoModelForCausalLM",
    "AutoModelForSequenceClassification",
    "AutoModelForImageClassification",
    "AutoModelForAudioClassification",
    "AutoModelForSpeechSeq2Seq",
    "AutoModel",
)
"""Auto classes in the order in which a family's model is looked for."""


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: `kind` is ok, refused, wrong, error or none (not for this family)."""

    kind: str
    text: str = ""


class Wrong(Exception):
    """A result that differs from what it must be."""


def main() -> int:
    """Try the families that are named, or all; print a line for each. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*")
    parser.add_argument("--without", nargs="*", default=(), help="checks to leave out")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--write", type=Path, help="a file for the table")
    options = parser.parse_args()
    begun, table = time.perf_counter(), {}
    families = [name for name in options.families or sorted(CONFIG_MAPPING) if name != "sharetune"]
    work = partial(try_family, without=options.without)
    with ProcessPoolExecutor(options.jobs, get_context("spawn"), quiet) as pool:
        for family, outcomes in zip(families, pool.map(work, families), strict=True):
            if isinstance(outcomes, str):
                print(f"{family:32} not tried: {outcomes}", file=sys.stderr, flush=True)
            else:
                table[family] = outcomes
                print(line(family, outcomes), flush=True)
    print(summary(table, time.perf_counter() - begun))
    if options.write:
        options.write.write_text(as_page(table), "utf-8")
    return int(any(o.kind in ("wrong", "error") for own in table.values() for o in own.values()))


def quiet() -> None:
    """Silence warnings of foreign models, and set one thread."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def try_family(family: str, without: Collection[str] = ()) -> dict[str, Outcome] | str:
    """Return the outcome of each check by name, or why a family is not tried."""
    try:
        model = build(family)
        if model.num_parameters() > LARGEST:
            return f"ModelError: {model.num_parameters():,} parameters with small numbers"
        find_stacks(model)
        answer(model)
    except Exception as error:  # whatever keeps a foreign family from being built small
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:150]
    return {
        name: Outcome("none") if name in without else attempt(check, family)
        for name, check in CHECKS.items()
    }


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
    except Exception as error:  # a traceback is what this benchmark looks for
        return Outcome("error", f"{type(error).__name__}: {str(error)[:200]}")
    return Outcome("ok")


class Skip(Exception):
    """The check does not apply to the family."""


def build(family: str) -> PreTrainedModel:
    """Return a tiny random model of a family, in eval mode; the same one at every call."""
    config = small(CONFIG_MAPPING[family])
    torch.manual_seed(0)
    model: PreTrainedModel = model_class(config)._from_config(config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.1 * noise.to(parameter.dtype))
    return model


def model_class(config: Any) -> Any:
    """Return the first class that an auto class has for this configuration."""
    for name in HEADS:
        mapping = getattr(transformers, name)._model_mapping
        masked = transformers.AutoModelForMaskedLM._model_mapping
        if name == "AutoModelForCausalLM" and type(config) in masked:
            continue  # encoders that can also write
        if type(config) in mapping:
            found = mapping[type(config)]
            return found[0] if isinstance(found, tuple | list) else found
    raise ModelError(f"no model for {type(config).__name__}", "")


def small(kind: Any) -> Any:
    """Return a configuration of a class with small numbers, its parts included."""
    whole = kind()
    return kind(**smaller(whole), **parts(whole))


def smaller(config: Any) -> dict[str, Any]:
    """Return the settings of one configuration that have a small number."""
    own = config.to_dict()
    found = {
        n: v
        for n, v in SIZES.items()
        if (n in own and own[n] is not None) or n in FORCED & set(own)
    }
    for name in list(found):
        value = own[name]
        if isinstance(value, list | tuple) and not isinstance(found[name], tuple):
            found.pop(name)
    return found


FORCED = {"pad_token_id", "n_inner"}
"""Settings that get a number though they are unset."""


def parts(config: Any) -> dict[str, Any]:
    """Return the settings of a configuration's parts, such as ``text_config``."""
    names = [n for n, v in vars(config).items() if isinstance(v, transformers.PreTrainedConfig)]
    return {n: smaller(getattr(config, n)) | parts(getattr(config, n)) for n in names}


def answer(model: PreTrainedModel) -> Tensor:
    """Return a model's logits, or its first output, for a made-up batch."""
    inputs = samples(model)[0]
    with torch.no_grad():
        output = model(**inputs)
    logits = getattr(output, "logits", None)
    found = output[0] if logits is None else logits
    if not isinstance(found, Tensor):
        raise ModelError(f"{type(model).__name__} gives no tensor first", "")
    return found.float()


def compare(found: Tensor, expected: Tensor, what: str = "outputs") -> None:
    """Raise :class:`Wrong` unless the tensors are equal but for rounding."""
    if found.shape != expected.shape:
        raise Wrong(f"{what} of shape {tuple(found.shape)}, not {tuple(expected.shape)}")
    difference = float((found - expected).abs().nan_to_num(nan=0.0).max())
    if not difference <= TOLERANCE * max(1.0, float(expected.nan_to_num().abs().max())):
        raise Wrong(f"{what} differ by {difference:.2g}")


def plan(model: PreTrainedModel, form: Any, layers: Any = "all", **rule: Any) -> SharingPlan:
    """Return a plan of one group in every stack that is deep enough."""
    stacks = find_stacks(model)
    groups = [
        {"stack": name, "layers": layers, "form": form} | rule
        for name, stack in stacks.items()
        if layers == "all" or len(stack.layers) > max(layers)
    ]
    if not groups:
        raise Skip
    return SharingPlan.model_validate({"groups": groups})


def equal_layers(family: str) -> PreTrainedModel:
    """Return a model whose layers have equal weights, the last heads and neurons weaker."""
    model = build(family)
    for stack in find_stacks(model).values():
        states = [layer.state_dict() for layer in stack.layers]
        if any(state.keys() != states[0].keys() for state in states):
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
    share_(model, plan(model, {"bank": {"ratio": 0.5}}))
    before = answer(model)
    materialize_(model)
    compare(answer(model), before)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        compare(answer(type(model).from_pretrained(folder).eval()), before)


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
    hidden = args[0] if args else kwargs.get("hidden_states", next(iter(kwargs.values())))
    return hidden if isinstance(output, Tensor) else (hidden, *output[1:])


def dropped_dense(family: str) -> None:
    """A model with a dropped layer is an ordinary one of fewer layers, or is refused."""
    model = build(family)
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
    for form, layers in (({"bank": {"ratio": 0.5}}, "all"), ("drop", [1])):
        one = plan(model, form, layers)
        counted = Counting(model, inputs).facts(one)
        built = facts(model, share_(copy.deepcopy(model), one), inputs)
        if counted != built:
            differing = [name for name in built if counted.get(name) != built[name]]
            raise Wrong(f"{differing} counted otherwise than built")


def writing(family: str, **rule: Any) -> None:
    """A shared model writes the same with its cache as without."""
    model = build(family)
    if getattr(model.config, "is_decoder", True) is False:
        raise Skip  # an encoder that sees later tokens
    if not model.can_generate() or model.main_input_name != "input_ids" or not _caches(model):
        raise Skip
    if not _caches(share_(model, plan(model, "tie", **rule))):
        raise Wrong("writes otherwise with its cache than without")


def _caches(model: PreTrainedModel) -> bool:
    """Return whether a model writes the same with its cache as without."""
    ids = samples(model)[0]["input_ids"][:1, :5]
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        one, two = (model.generate(ids, **settings, use_cache=cache) for cache in (True, False))
    return torch.equal(one, two)


def looping(family: str) -> None:
    """Repeated layers compute what as many copies of them do, and are saved."""
    model, copies = build(family), build(family)
    share_(model, plan(model, "tie", [1, 2], times=2, assign="each"))
    share_(copies, plan(copies, "tie", [1, 2], times=2, assign="each"))
    compare(answer(materialize_(copies)), answer(model), "outputs of copies")
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        compare(answer(load_shared(folder)), answer(model), "outputs after loading")
    writing(family, layers=[1, 2], times=2, assign="each") if model.can_generate() else None


def reusing(family: str) -> None:
    """Keys and values of one layer in another are what is handed to it by hand."""
    model, whole = build(family), build(family)
    stacks = find_stacks(model)
    share_(model, plan(model, {"reuse": {"what": "kv"}}, [1, 2], units="first"))
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


CHECKS: dict[str, Callable[[str], None]] = {
    "ratio 0": no_sharing,
    "units": of_equal_layers({"bank": {"ratio": 0.5}}),
    "best-match": of_equal_layers({"bank": {"ratio": 0.5}}, units="best-match"),
    "tie": of_equal_layers("tie"),
    "lowrank": of_equal_layers({"lowrank": {"rank": 2}}),
    "basis": of_equal_layers({"basis": {"rank": 32}}),
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


def line(family: str, outcomes: dict[str, Outcome]) -> str:
    """Return one line for the terminal, with the text of each outcome that is not ok."""
    signs = " ".join(SIGNS[outcome.kind] for outcome in outcomes.values())
    bad = [f"{n}: {o.text}" for n, o in outcomes.items() if o.kind in ("wrong", "error")]
    return "\n    ".join([f"{family:32} {signs}", *bad])


def summary(table: dict[str, dict[str, Outcome]], seconds: float) -> str:
    """Return the counts of all outcomes."""
    counts = Counter(outcome.kind for own in table.values() for outcome in own.values())
    told = ", ".join(f"{counts[kind]} {kind}" for kind in ("ok", "refused", "wrong", "error"))
    return f"{len(table)} families: {told} ({seconds:.0f} s)"


def as_page(table: dict[str, dict[str, Outcome]]) -> str:
    """Return the table as a page of the docs."""
    return "\n".join(_page_lines(table)) + "\n"


def _page_lines(table: dict[str, dict[str, Outcome]]) -> Iterator[str]:
    yield "# Families"
    yield ""
    yield f"transformers {transformers.__version__}, tiny random models of {len(table)} families."
    yield ""
    yield f"| family | {' | '.join(CHECKS)} |"
    yield f"|---|{'---|' * len(CHECKS)}"
    for family, own in table.items():
        yield f"| {family} | {' | '.join(SIGNS[own[name].kind] for name in CHECKS)} |"


if __name__ == "__main__":
    sys.exit(main())
