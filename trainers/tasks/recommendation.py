"""Sequential recommendation: the item that a user takes next."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pandas as pd
import torch
from pydantic import Field
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from sharetune.spaces.errors import DataError
from sharetune.spaces.evaluator import Scores, part_sums
from sharetune.trainers.data.tables import column, named_values, read_table, times
from sharetune.trainers.tasks.base import TASKS, DataFacts, Split, Task
from sharetune.trainers.tasks.metrics import ranking_gains

USER_COLUMNS = ("user", "user_id", "userId", "session", "session_id")
"""Names by which the column of users is found, the first that the table has."""

ITEM_COLUMNS = ("item", "item_id", "itemId", "movie_id", "movieId", "product_id")
"""Names by which the column of items is found, the first that the table has."""

TIME_COLUMNS = ("time", "timestamp", "date", "datetime")
"""Names by which the column of times is found, the first that the table has."""

LEAST = 3
"""Interactions that a user must have: one for the test, two to learn a transition from."""

BATCH = 64
"""Sequences of a prediction batch, which bounds memory."""

PAD = 0
"""Item number of padding; items count from 1."""


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

    validation: float | None = Field(
        None,
        description="fraction (0..1) of the users whose item before the last is predicted to "
        "select candidates; null: they are selected on the test items",
    )
    test: None = Field(None, description="always null: each user's last item is the test")
    user: str | None = Field(
        None, description="column of users; null: the first of the usual names, such as `user`"
    )
    item: str | None = Field(
        None, description="column of items; null: the first of the usual names, such as `item`"
    )
    time: str | None = Field(
        None,
        description="column of times, by which interactions are ordered; null: the first of the "
        "usual names, such as `time`",
    )

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("ndcg_10", "hit_rate_10")

    @property
    def generates(self) -> bool:
        return True

    @property
    def holds_out_rows(self) -> bool:
        return False

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
        test = test[test["next"] > 0].reset_index(drop=True)
        if test.empty and self.validation is None:
            raise DataError(
                f"{self.train} has no user whose last item is among those that are trained on",
                "leave-one-out needs items that several users have",
            )
        return train, test, DataFacts(items=len(known))

    def hold_out(self, frame: pd.DataFrame, part: float) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Split off the last item of a `part` (0..1) of users; return the rest, and those items."""
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

    def new_reader(self, config: object, frame: pd.DataFrame) -> Any:
        return None

    def rows(self, frame: pd.DataFrame, reader: object, max_length: int) -> dict[str, list[Any]]:
        items = [list(map(int, row)) for row in frame["items"]]
        rows: dict[str, list[Any]] = {"input_ids": [row[-max_length:] for row in items]}
        if "next" in frame:
            wanted = zip(items, frame["next"].tolist(), strict=True)
            rows["truth"] = [{"next": int(item), "past": past} for past, item in wanted]
        return rows

    def collator(self, reader: object, model: str) -> Callable[[list[dict[str, Any]]], Any]:
        return padded

    def predict(self, model: PreTrainedModel, split: Split) -> Any:
        """Return the logits of all items after the last one of each row: (users, items + 1)."""
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
        hits, gains = ranking_gains(ranks(predictions, labels))
        return Scores(
            {"ndcg_10": float(gains.mean()), "hit_rate_10": float(hits.mean())},
            part_sums=part_sums(hits=hits.tolist(), gains=gains.tolist(), users=[1] * len(labels)),
        )

    def _columns(self, frame: pd.DataFrame) -> pd.DataFrame:
        user = frame[column(frame, self.train, self.user, USER_COLUMNS, "user")]
        item = frame[column(frame, self.train, self.item, ITEM_COLUMNS, "item")]
        time = frame[column(frame, self.train, self.time, TIME_COLUMNS, "time")]
        return pd.DataFrame(
            {
                "user": named_values(user, self.train, "user"),
                "item": named_values(item, self.train, "item"),
                "time": times(time, self.train, "time"),
            }
        )


def padded(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Make a batch of item sequences, padded at the end; labels are the items themselves."""
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
    """Return the rank (1 is first) of each user's next item among items not in the user's past.

    Items of equal logits count half.
    """
    logits = logits.clone()
    wanted = torch.tensor([row["next"] for row in labels])
    scores = logits.gather(1, wanted[:, None])
    logits[:, PAD] = -torch.inf
    for row, label in zip(logits, labels, strict=True):
        row[torch.tensor(label["past"], dtype=torch.long)] = -torch.inf
    logits.scatter_(1, wanted[:, None], -torch.inf)
    return 1 + (logits > scores).sum(1) + (logits == scores).sum(1) / 2
