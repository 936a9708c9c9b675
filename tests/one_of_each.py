"""One of each thing that can be added, from a module that lies outside the package."""

from typing import ClassVar

import torch
from pydantic import Field
from transformers import AutoModelForSequenceClassification

from sharetune.search.samplers.base import SAMPLERS
from sharetune.search.samplers.features import Drawer
from sharetune.spaces import Group, SharingPlan
from sharetune.spaces.anchors import ANCHORS
from sharetune.spaces.assignments import ASSIGNMENTS
from sharetune.spaces.compression import COMPRESSIONS, Method
from sharetune.spaces.evaluator import Scores
from sharetune.spaces.forms import FORMS, Form
from sharetune.spaces.objectives import OBJECTIVES, Objective
from sharetune.trainers.compression.base import COMPRESSORS, Compressor
from sharetune.trainers.exports.base import EXPORTS, FOLDER, Needs, Written, answering
from sharetune.trainers.loading import load_shared
from sharetune.trainers.measuring.exact import EXACT
from sharetune.trainers.measuring.quiet import QUIET
from sharetune.trainers.models.forms.base import BUILDERS
from sharetune.trainers.models.modules import SharedLinear, linear
from sharetune.trainers.tasks.base import TASKS, DataFacts, Task

OBJECTIVES.register("misses")(Objective("misses", "misses", "minimize", source="trained"))
OBJECTIVES.register("layer_passes")(Objective("layer_passes", "layers run", "minimize"))
OBJECTIVES.register("uses")(Objective("uses", "uses until warm", "minimize", source="quiet"))


@FORMS.register("gain")
class Gain(Form):
    """one bank, and a gain of each layer's own"""

    name: ClassVar[str] = "gain"
    start: float = Field(1.0, gt=0)


class GainLinear(SharedLinear):
    """A layer that multiplies its bank by a number of its own."""

    def __init__(self, *args, start, **kwargs):
        super().__init__(*args, **kwargs)
        self.gain = torch.nn.Parameter(torch.tensor([float(start)]))

    @property
    def matrix(self):
        return self.gain * self.entry.weight


@BUILDERS.register("gain")
def build(form, matrices, bank, key):
    """a bank of plain matrices"""
    bank[key] = linear(matrices.start(matrices.weights))
    return [
        GainLinear(bank, key, bias, start=form.start, transposed=matrices.transposed)
        for bias in matrices.biases
    ]


@TASKS.register("length")
class Length(Task):
    """whether a text has many letters: misses"""

    auto: ClassVar = AutoModelForSequenceClassification

    @property
    def metrics(self):
        return ("misses",)

    def read(self):
        train, test = self.frames(lambda frame, source: frame)
        return train, test, DataFacts()

    def rows(self, frame, reader, max_length):
        tokens = reader(frame["text"].tolist(), truncation=True, max_length=max_length)
        return {**tokens, "labels": [int(len(text) > 26) for text in frame["text"]]}

    def score(self, predictions, labels, facts):
        pairs = zip(predictions, labels, strict=True)
        return Scores({"misses": float(sum(int(row.argmax()) != one for row, one in pairs))})


@EXACT.register("layer_passes")
def layer_passes(sized):
    """layers that one forward pass runs"""
    depth = sized.unshared.config.num_hidden_layers
    return len(sized.plan.order("layers", depth))


@QUIET.register("uses")
def uses(model, use):
    """number of uses before it is measured"""
    use()
    return 1


@SAMPLERS.register("seeded")
class Seeded:
    """draws by the number of the draw"""

    def __init__(self, setting, shift: int = 0):
        self.setting, self.shift = setting, shift

    def draw(self, ask):
        import random

        drawer = Drawer(random.Random(ask.drawn + self.shift))
        return ask.space.suggest(drawer, ask.shapes), drawer.draw

    def note(self, past):
        """Does nothing: draws do not depend on the past."""


@COMPRESSIONS.register("rounded")
class Rounded(Method):
    """matrices of the body are rounded to `decimals` decimals"""

    name: ClassVar[str] = "rounded"
    needs_building = False
    decimals: int = Field(ge=0)


@COMPRESSORS.register("rounded")
class Rounding(Compressor):
    """Rounds every tensor of the body."""

    def apply_(self, model, batches):
        with torch.no_grad():
            for parameter in model.base_model.parameters():
                parameter.copy_(parameter.round(decimals=self.method.decimals))


@EXPORTS.register("again")
@Needs(floats=True)
def export_again(model, folder):
    """the shared model under another name"""
    model.save_pretrained(folder)
    return Written(lambda path: answering(load_shared(path)), f'load("{FOLDER}")', tolerance=1e-5)


@ASSIGNMENTS.register("ends")
def owners(n_layers, _):
    """the first and the last layer share, the others do not"""
    return [0, *range(1, n_layers - 1), 0]


@ANCHORS.register("ends")
def ends(stacks):
    """the first and the last layer read one bank"""
    return SharingPlan(
        groups=tuple(Group(layers=(0, s.depth - 1), stack=name) for name, s in stacks.items())
    )
