"""Data augmentation of texts and pictures: which alterations, and how strong."""

from typing import Any

from pydantic import Field

from sharetune.spaces.settings import StrictModel

WORDS = ("synonyms", "swap", "deletion")
"""Alterations that work on the words of a text, in the order in which they are applied."""

TEXTS = (*WORDS, "through")
"""All alterations of texts."""

PICTURES = ("crop", "rotation", "flip", "brightness", "contrast")
"""All alterations of pictures, in the order in which they are applied."""


class Augmentation(StrictModel):
    """Altered copies of the training examples, texts or pictures; by default none.

    The alterations of words are those of EDA (arXiv 1901.11196).
    """

    deletion: float = Field(
        0.0, ge=0, lt=1, description="Probability with which each word of a text is left out."
    )
    swap: float = Field(
        0.0, ge=0, le=1, description="Fraction of a text's words that change places with another."
    )
    synonyms: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Fraction of a text's words that are replaced by a synonym from WordNet.",
    )
    wordnet: str | None = Field(
        None,
        description="Folder of WordNet's database files; `null`: where $WNSEARCHDIR says, or where "
        "Debian's wordnet-base puts them.",
    )
    through: tuple[str, str] | None = Field(
        None,
        description="Two translation models (folders or hub names), there and back: altered texts "
        "start from the text translated by both (arXiv 1511.06709).",
    )
    crop: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Largest fraction of a picture's width and height that is cut off, at random "
        "places.",
    )
    rotation: float = Field(
        0.0, ge=0, le=180, description="Largest angle, in degrees, of a turn to either side."
    )
    flip: float = Field(
        0.0, ge=0, le=1, description="Probability with which left and right change places."
    )
    brightness: float = Field(
        0.0, ge=0, lt=1, description="Largest fraction by which a picture's brightness changes."
    )
    contrast: float = Field(
        0.0, ge=0, lt=1, description="Largest fraction by which a picture's contrast changes."
    )
    copies: int = Field(
        1, ge=1, le=32, description="Altered examples added for each training example."
    )

    @property
    def used(self) -> list[str]:
        """Return the names of the alterations that are on."""
        return [name for name in (*TEXTS, *PICTURES) if getattr(self, name)]

    def canonical(self) -> "Augmentation | None":
        """Return an equal setting without keys that have no effect; None if it alters nothing."""
        if not self.used:
            return None
        inert: dict[str, Any] = {} if self.synonyms else {"wordnet": None}
        return self.model_copy(update=inert)
