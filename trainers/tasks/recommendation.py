"""The item that a user takes next."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from sharetune.spaces.errors import DataError
from sharetune.spaces.evaluator import Scores
from sharetune.trainers.data.tables import column, read_table
from sharetune.trainers.tasks.base import TASKS, DataFacts, Split, Task
from sharetune.trainers.tasks.metrics import ranking_metrics

USER_COLUMNS = ("user", "user_id", "userId", "session", "session_id")
ITEM_COLUMNS = ("item", "item_id", "itemId", "movie_id", "movieId", "product_id")
TIME_COLUMNS = ("time", "timestamp", "date", "datetime")
LEAST = 3
BATCH = 64
PAD = 0


@TASKS.register("next-item-recommendation")
class NextItem(Task):
    """the item a user takes next, by a causal model over items: NDCG and hit rate at 10

    `train` is a table of interactions or the hub name of a data set; `user`, `item` and `time` name
    its columns. Leave-one-out (Kang and McAuley, arXiv 1808.09781): the last item of every user
    with at least three is the test, the others are trained on; it is ranked among all items that
    training knows and the user has not had. The model is trained from a configuration, whose
    `vocab_size` becomes the number of items and one; 0 is padding. The latest `max_length` items
    are read. `validation` is the part of the users whose item before the last is not trained on
    but predicted.
    """

    auto: ClassVar[Any] = AutoModelForCausalLM

    validation: float | None = None
    test: None = None
    user: str | None = None
    item: str | None = None
    time: str | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("ndcg_10", "hit_rate_10")

    @property
    def generates(self) -> bool:
        return True

    def read(self) -> tuple[pd.DataFrame, pd.DataFrame, DataFacts]:
        table = self._columns(read_table(self.train, "train"))
        users = table.sort_values(["user", "time"], kind="stable").groupby("user")["item"]
        histories = [items for _, items in users if len(items) >= LEAST]
        if not histories:
            raise DataError(
                f"{self.train} has no user with {LEAST} interactions; the most is "
                f"{int(users.size().max())}",
                "leave-one-out needs a past of two items and a next one",
            )
        known = sorted({item for items in histories for item in items[:-1]})
        number = {item: i + 1 for i, item in enumerate(known)}
        pasts = [[number[item] for item in items[:-1]] for items in histories]
        train = pd.DataFrame({"items": pasts})
        test = pd.DataFrame(
            {"items": pasts, "next": [number.get(items.iloc[-1], 0) for items in histories]}
        )
        return train, test[test["next"] > 0].reset_index(drop=True), DataFacts(items=len(known))

    def hold_out(self, frame: pd.DataFrame, part: float) -> tuple[pd.DataFrame, pd.DataFrame]:
        """`frame` without the last item of a `part` of its users, and what these took last."""
        able = frame[frame["items"].map(len) >= LEAST]
        drawn = frame.index.isin(able.sample(frac=part, random_state=0).index)
        if not drawn.any():
            raise DataError(
                f"{self.train} has no users whose item before the last can be held out",
                f"a validation split needs users with {LEAST + 1} interactions",
            )
        pasts = frame["items"].where(~drawn, frame["items"].str[:-1])
        asked = frame[drawn]
        validation = pd.DataFrame(
            {"items": asked["items"].str[:-1], "next": asked["items"].str[-1]}
        )
        return pd.DataFrame({"items": pasts}), validation.reset_index(drop=True)

    def head(self, facts: DataFacts) -> dict[str, Any]:
        none = {"bos_token_id": None, "eos_token_id": None}
        return {"vocab_size": facts.items + 1, "pad_token_id": PAD, **none}

    def reader(self, model: str) -> Any:
        return None

    def new_reader(self, config: Any, frame: pd.DataFrame) -> Any:
        return None

    def rows(self, frame: pd.DataFrame, reader: Any, max_length: int) -> dict[str, list[Any]]:
        items = [list(map(int, row)) for row in frame["items"]]
        rows: dict[str, list[Any]] = {"input_ids": [row[-max_length:] for row in items]}
        if "next" in frame:
            wanted = zip(items, frame["next"].tolist(), strict=True)
            rows["truth"] = [{"next": int(item), "past": past} for past, item in wanted]
        return rows

    def collator(self, reader: Any, model: str) -> Callable[[list[dict[str, Any]]], Any]:
        return padded

    def predict(self, model: PreTrainedModel, split: Split) -> Any:
        """Logits of all items after the last one of each row, (users, items + 1)."""
        loader = torch.utils.data.DataLoader(split.rows, batch_size=BATCH, collate_fn=padded)
        model.eval()
        found = []
        for batch in loader:
            read = {key: value.to(model.device) for key, value in batch.items() if key != "labels"}
            with torch.no_grad():
                logits = model(**read).logits
            last = read["attention_mask"].sum(-1) - 1
            found.append(logits[torch.arange(len(last)), last].float().cpu())
        return torch.cat(found)

    def score(self, predictions: Tensor, labels: Sequence[Any], facts: DataFacts) -> Scores:
        hit, ndcg = ranking_metrics(ranks(predictions, labels))
        return Scores({"ndcg_10": ndcg, "hit_rate_10": hit})

    def _columns(self, frame: pd.DataFrame) -> pd.DataFrame:
        names = {
            "user": column(frame, self.user, USER_COLUMNS, "user"),
            "item": column(frame, self.item, ITEM_COLUMNS, "item"),
            "time": column(frame, self.time, TIME_COLUMNS, "time"),
        }
        return pd.DataFrame({name: frame[given] for name, given in names.items()})


def padded(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch of sequences, padding behind; labels are the items themselves."""
    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.full((len(rows), longest), PAD)
    for i, row in enumerate(rows):
        ids[i, : len(row["input_ids"])] = torch.as_tensor(row["input_ids"])
    mask = (ids != PAD).long()
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": ids.masked_fill(mask == 0, -100),
    }


def ranks(logits: Tensor, labels: Sequence[dict[str, Any]]) -> Tensor:
    """The rank, 1 being first, of each user's next item among those not in the user's past; equal
    logits count half."""
    logits = logits.clone()
    wanted = torch.tensor([row["next"] for row in labels])
    scores = logits.gather(1, wanted[:, None])
    logits[:, PAD] = -torch.inf
    for row, label in zip(logits, labels, strict=True):
        row[torch.tensor(label["past"], dtype=torch.long)] = -torch.inf
    logits.scatter_(1, wanted[:, None], -torch.inf)
    return 1 + (logits > scores).sum(1) + (logits == scores).sum(1) / 2
