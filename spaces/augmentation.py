"""How training examples are altered to have more of them: texts and pictures."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

WORDS = ("synonyms", "swap", "deletion")
TEXTS = (*WORDS, "through")
PICTURES = ("crop", "rotation", "flip", "brightness", "contrast")


class Augmentation(BaseModel):
    """Adds `copies` altered examples for every training example.

    Texts (EDA, arXiv 1901.11196): `deletion` is the probability (0..1) with which each word is
    left out, `swap` the fraction of words that change places with another one, `synonyms` the
    fraction replaced by a synonym of WordNet, whose database files are in the folder `wordnet`
    (None: where $WNSEARCHDIR says, or where Debian's wordnet-base puts them). `through` names two
    translation models, there and back, folders or of the hub: every altered text starts from the
    text translated by both (arXiv 1511.06709).

    Pictures: `crop` is the largest fraction of both sides that is cut off, at random places,
    `rotation` the largest angle in degrees, to either side, `flip` the probability of left and
    right changing places, `brightness` and `contrast` the largest fraction by which they change.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    deletion: float = Field(0.0, ge=0, lt=1)
    swap: float = Field(0.0, ge=0, le=1)
    synonyms: float = Field(0.0, ge=0, le=1)
    wordnet: str | None = None
    through: tuple[str, str] | None = None
    crop: float = Field(0.0, ge=0, lt=1)
    rotation: float = Field(0.0, ge=0, le=180)
    flip: float = Field(0.0, ge=0, le=1)
    brightness: float = Field(0.0, ge=0, lt=1)
    contrast: float = Field(0.0, ge=0, lt=1)
    copies: int = Field(1, ge=1, le=32)

    @property
    def used(self) -> list[str]:
        """The ways in which examples are altered."""
        return [name for name in (*TEXTS, *PICTURES) if getattr(self, name)]

    def canonical(self) -> "Augmentation | None":
        """The same without settings that have no effect; None where nothing is altered."""
        if not self.used:
            return None
        inert: dict[str, Any] = {} if self.synonyms else {"wordnet": None}
        return self.model_copy(update=inert)
