"""Recorded inputs of matrices are written once and read back unchanged."""

import torch

from sharetune.trainers.evaluation.recordings import kept_recording
from sharetune.trainers.models.compensation import Moments, Recorded

Q, K, OUT = ("layers", 0, "q"), ("layers", 0, "k"), ("layers", 0, "o")


def recording():
    torch.manual_seed(0)
    whole, given = torch.randn(6, 3), torch.randn(4, 3)
    read = whole[:4]  # a view: what it leaves out is not kept
    return Recorded({Q: read, K: read, OUT: given}, {OUT: Moments.of(torch.randn(9, 3))})


def test_a_recording_is_made_once_and_read_back(tmp_path):
    path, made = tmp_path / "recorded" / "one.pt", []

    def record():
        made.append(recording())
        return made[-1]

    for _ in range(2):
        found = kept_recording(path, record)
        assert set(found) == {Q, K, OUT}
        assert all(torch.equal(found[key], made[0][key]) for key in found)
        assert found[Q] is found[K] and found[Q] is not found[OUT]
        kept, original = found.moments_at(OUT), made[0].moments_at(OUT)
        assert kept.tokens == 9 and torch.equal(kept.products, original.products)
    assert len(made) == 1
    assert len(found[Q].untyped_storage()) == 4 * 3 * 4


def test_a_recording_that_cannot_be_read_is_made_anew(tmp_path):
    path = tmp_path / "one.pt"
    kept_recording(path, recording)
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"no recording"):
        path.write_bytes(damaged)
        assert torch.equal(kept_recording(path, recording)[OUT], recording()[OUT])
        assert path.read_bytes() == whole
