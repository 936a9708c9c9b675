from xml.etree import ElementTree

from sharetune.results.page.plan_drawing import COLOURS, draw_layers
from sharetune.spaces import SharingPlan
from sharetune.spaces.layer_map import layer_map
from sharetune.spaces.stack_shape import StackShape

SVG = "{http://www.w3.org/2000/svg}"


def drawn(plan: SharingPlan, **depths: int) -> ElementTree.Element:
    layers = layer_map(plan, depths or {"": 6})
    return ElementTree.fromstring(draw_layers(layers))


def fills(svg: ElementTree.Element, colour: str) -> list[float]:
    return [float(r.get("height", 0)) for r in svg.iter(f"{SVG}rect") if r.get("fill") == colour]


def letters(svg: ElementTree.Element) -> list[str]:
    return [t.text or "" for t in svg.iter(f"{SVG}text") if t.get("font-weight") == "600"]


def test_a_bank_fills_its_share_of_each_block_and_is_lettered():
    svg = drawn(SharingPlan.range(1, 4, 0.5))
    assert fills(svg, COLOURS[0]) == [15.0] * 8
    assert letters(svg) == ["A"] * 8


def test_banks_differ_in_colour_and_letter():
    svg = drawn(SharingPlan.preset("cycle").bound({"": StackShape(6, 12, 1536)}))
    assert [len(fills(svg, colour)) for colour in COLOURS[:4]] == [4, 4, 4, 0]
    assert letters(svg) == ["A", "A", "B", "B", "C", "C"] * 2


def test_the_label_says_what_the_picture_shows():
    svg = drawn(SharingPlan.range(1, 4, 0.5, parts=("ffn",)))
    assert svg.get("role") == "img"
    assert svg.get("aria-label") == "6 layers; bank A read by 50% of FFN of layers 1..4"
    assert svg.find(f"{SVG}title").text == svg.get("aria-label")


def test_removed_layers_are_dashed_and_crossed():
    svg = drawn(SharingPlan.drop([2, 3]))
    assert svg.get("aria-label") == "6 layers; removed: 2..3"
    assert len([r for r in svg.iter(f"{SVG}rect") if r.get("stroke-dasharray")]) == 2
    assert len(list(svg.iter(f"{SVG}path"))) == 2


def test_single_roles_take_their_part_of_the_block():
    svg = drawn(SharingPlan.range(0, 1, 1.0, parts=("q", "k")))
    widths = [float(r.get("width")) for r in svg.iter(f"{SVG}rect") if r.get("fill") == COLOURS[0]]
    assert widths == [17.0, 17.0]
    assert "bank A read by 100% of attention (q, k) of layers 0..1" in svg.get("aria-label")


def test_stacks_are_named_where_there_are_several_and_their_names_escaped():
    plan = SharingPlan.model_validate({"groups": [{"layers": "0..1", "stack": "<b>"}]})
    markup = draw_layers(layer_map(plan, {"<b>": 2, "decoder": 2}))
    assert "<b>" not in markup
    texts = [t.text for t in ElementTree.fromstring(markup).iter(f"{SVG}text")]
    assert {"<b>", "decoder"} <= set(texts)
    assert "unshared" not in markup


def test_long_stacks_wrap_after_twelve_layers():
    assert drawn(SharingPlan(), layers=12).get("width") == drawn(SharingPlan(), layers=24).get(
        "width"
    )


def test_narrowed_parts_are_narrower_and_merged_layers_crossed():
    plan = SharingPlan.from_yaml(
        "groups: [{layers: 0..1, parts: ffn, form: {narrow: {keep: 0.25}}}, "
        "{layers: 3..5, form: merge, init: middle}]"
    )
    svg = drawn(plan)
    assert svg.get("aria-label") == "6 layers; 4 in place of 3..5; FFN narrowed to 0.25: 0..1"
    blocks = [(r.get("x"), r.get("width")) for r in svg.iter(f"{SVG}rect")][:8]
    # each is drawn twice, its ground and its frame; what is left of a part stays in the middle
    assert (
        blocks
        == [("66", "34")] * 2
        + [("78.75", "8.5")] * 2
        + [("105", "34")] * 2
        + [("117.75", "8.5")] * 2
    )
    titles = [title.text for title in svg.iter(f"{SVG}title")]
    assert "layer 0: FFN is private, which keeps 0.25 of its units" in titles
    assert "layer 3 is merged into layer 4" in titles
    assert "4=3..5" in [t.text for t in svg.iter(f"{SVG}text")]
