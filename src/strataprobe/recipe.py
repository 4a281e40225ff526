"""Recipes: a TOML file that describes one concept, so that no code needs to know its name.

A recipe names the classes, how many texts each gets, the suffix read after each text, and which readouts to take. See
``recipes/sentiment.toml`` for a complete one.
"""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from strataprobe.errors import RecipeError

Readout = Literal["last", "mean", "last-text", "last-assistant"]

# What a row of texts has anyway: no field of a recipe's own may be called so.
_ROW_FIELDS = frozenset(
    [
        "id",
        "text",
        "messages",
        "split",
        "group",
        "score",
        "domain",
        "trigger",
        "language_style",
        "persona",
        "backend",
        "model",
        "attempt",
    ]
)
_FILE_NAME_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RecipeClass(_Strict):
    """One class: its name, what it means, and the finer kinds (``members``) its texts are spread over evenly."""

    name: str
    description: str = ""
    members: tuple[str, ...] = ()

    @field_validator("name")
    @classmethod
    def _name_fits_a_file_name(cls, value: str) -> str:
        if not _FILE_NAME_SAFE.fullmatch(value):
            raise ValueError(f"class name {value!r} may hold only letters, digits, '_' and '-'")
        return value


class SplitFractions(_Strict):
    """Shares of the texts that go to each split; they add up to 1."""

    train: float = Field(default=0.70, gt=0, lt=1)
    val: float = Field(default=0.15, gt=0, lt=1)
    test: float = Field(default=0.15, gt=0, lt=1)

    @model_validator(mode="after")
    def _add_up_to_one(self) -> Self:
        if abs(self.train + self.val + self.test - 1) > 1e-9:
            raise ValueError("split: train + val + test must add up to 1")
        return self

    def as_tuple(self) -> tuple[float, float, float]:
        """The shares of (train, val, test)."""
        return self.train, self.val, self.test


class Writing(_Strict):
    """How texts for the recipe are to be written: what a language model is asked for, and what is accepted.

    ``situations`` maps domains to triggers. Where situations, styles, personas or tellings are empty, those of
    ``generate/situations.toml`` are used.
    """

    language: str = "en"
    first_person: bool = True
    sentences: tuple[int, int] = (2, 4)
    words: tuple[int, int] = (12, 120)
    instructions: str = ""
    situations: dict[str, tuple[str, ...]] = {}
    styles: tuple[str, ...] = ()
    personas: tuple[str, ...] = ()
    tellings: tuple[str, ...] = ()

    @field_validator("language")
    @classmethod
    def _language_is_a_code(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z]{2,3}", value):
            raise ValueError(f"language {value!r} is no language code, such as 'en' or 'de'")
        return value

    @field_validator("sentences", "words")
    @classmethod
    def _is_a_range(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= value[0] <= value[1]:
            raise ValueError(f"{list(value)} is no range: [lowest, highest], 1 or more")
        return value

    @field_validator("situations")
    @classmethod
    def _every_domain_has_triggers(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        empty = [domain for domain, triggers in value.items() if not triggers]
        if empty:
            raise ValueError(f"situations: the domain {empty[0]!r} has no triggers")
        return value


class Lexicon(_Strict):
    """A word-list baseline: which library scores the text, and which class a high score speaks for."""

    name: Literal["vader"] = "vader"
    high: str


class Recipe(_Strict):
    """A validated recipe. ``class_names`` is in label order: label index = position in the sorted names."""

    format_version: Literal[1] = 1
    name: str
    description: str = ""
    model: str = "google/gemma-3-4b-it"
    suffix: str = ""
    readouts: tuple[Readout, ...] = ("last", "mean")
    n_per_class: int = Field(default=700, ge=1)
    label_field: str = "label"
    member_field: str = "member"
    classes: tuple[RecipeClass, ...]
    split: SplitFractions = SplitFractions()
    banned_words: tuple[str, ...] = ()
    writing: Writing = Writing()
    lexicon: Lexicon | None = None

    @field_validator("name")
    @classmethod
    def _name_fits_a_file_name(cls, value: str) -> str:
        if not _FILE_NAME_SAFE.fullmatch(value):
            raise ValueError(f"recipe name {value!r} may hold only letters, digits, '_' and '-'")
        return value

    @field_validator("label_field", "member_field")
    @classmethod
    def _field_is_not_taken(cls, value: str) -> str:
        if value in _ROW_FIELDS or not value.strip():
            raise ValueError(f"{value!r} is a field that every row has: choose another name")
        return value

    @field_validator("readouts")
    @classmethod
    def _readouts_are_distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("readouts must name at least one readout, each once")
        return value

    @model_validator(mode="after")
    def _classes_are_distinct(self) -> Self:
        names = [c.name for c in self.classes]
        if self.label_field == self.member_field:
            raise ValueError(f"label_field and member_field are both {self.label_field!r}: they must differ")
        if len(names) < 2:
            raise ValueError("classes: a recipe needs at least two classes")
        doubled = sorted({n for n in names if names.count(n) > 1})
        if doubled:
            raise ValueError(f"classes: {doubled[0]!r} is named twice")
        if self.lexicon is not None and self.lexicon.high not in names:
            raise ValueError(f"lexicon.high: {self.lexicon.high!r} is none of the classes {', '.join(sorted(names))}")
        return self

    @property
    def class_names(self) -> list[str]:
        """Class names, sorted: the position of a name is its label index."""
        return sorted(c.name for c in self.classes)

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain JSON values, for manifests."""
        return self.model_dump(mode="json")


def builtin_recipes() -> list[str]:
    """Names of the recipes that ship with strataprobe, sorted."""
    folder = resources.files("strataprobe") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Read a built-in recipe by name, or a recipe file by path.

    Raises RecipeError when there is no such recipe, the file is not TOML, or a value is not allowed.
    """
    name = str(name_or_path)
    if name in builtin_recipes():
        text, where = (resources.files("strataprobe") / "recipes" / f"{name}.toml").read_text("utf-8"), name
    else:
        path = Path(name_or_path)
        if not path.is_file():
            known = ", ".join(builtin_recipes())
            raise RecipeError(f"no recipe named {name!r}, and no such file; the built-in recipes are: {known}.")
        try:
            text, where = path.read_text("utf-8"), str(path)
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"recipe {path} cannot be read: {error}; it must be a UTF-8 TOML file.") from error
    try:
        return Recipe.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"recipe {where} is not valid TOML: {error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = "there is no such field; docs/recipes.md lists those there are"
        raise RecipeError(f"recipe {where}: {place + ': ' if place else ''}{message}.") from error


def recipe_from_json(value: dict[str, Any]) -> Recipe:
    """The recipe recorded in a manifest by ``Recipe.to_json``."""
    return Recipe.model_validate(value)
