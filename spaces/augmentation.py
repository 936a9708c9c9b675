"""How training texts are altered to have more of them: fractions of words, and translation."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

WORDS = ("synonyms", "swap", "deletion")


class Augmentation(BaseModel):
    """Adds `copies` altered texts for every training text (EDA, arXiv 1901.11196).

    `deletion` is the probability (0..1) with which each word is left out, `swap` the fraction of
    words that change places with another one, `synonyms` the fraction replaced by a synonym of
    WordNet, whose database files are in the folder `wordnet` (None: where $WNSEARCHDIR says, or
    where Debian's wordnet-base puts them). `through` names two translation models, there and
    back, folders or of the hub: every altered text starts from the text translated by both
    (arXiv 1511.06709).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    deletion: float = Field(0.0, ge=0, lt=1)
    swap: float = Field(0.0, ge=0, le=1)
    synonyms: float = Field(0.0, ge=0, le=1)
    wordnet: str | None = None
    through: tuple[str, str] | None = None
    copies: int = Field(1, ge=1, le=32)

    def canonical(self) -> "Augmentation | None":
        """The same without settings that have no effect; None where no text is altered."""
        if self.through is None and not any(getattr(self, word) for word in WORDS):
            return None
        inert: dict[str, Any] = {} if self.synonyms else {"wordnet": None}
        return self.model_copy(update=inert)
