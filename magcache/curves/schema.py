"""Schemas of the files, checked before anything is computed from them.

Import this module only where a file is read or written: pydantic is slow to load.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .files import check_seal
from .gram import RIDGE
from .learned import CELLS, MEMORY, MOST
from .measurement import Measurement

_PLAIN = {
    "missing": "is missing",
    "extra_forbidden": "is not a field that this MagCache knows",
    "model_type": "must be an object",
    "dict_type": "must be an object",
}

_Share = Annotated[float, Field(ge=0, le=1)]
_Limited = Annotated[float, Field(ge=-1e6, le=1e6)]
_Level = Annotated[float, Field(ge=0, le=1e6)]
_Size = Annotated[float, Field(ge=1e-30, le=1e30)]
_Correlation = Annotated[float, Field(ge=-1 - 1e-6, le=1 + 1e-6)]
_Count = Annotated[int, Field(ge=1, le=10**6)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")


class _Branch(_Strict):
    sigmas: Annotated[list[_Level], Field(min_length=1)]
    ratios: list[_Size]
    spreads: list[float]
    cosine_distances: list[float]
    norms: list[_Size] = []
    correlations: list[list[_Correlation]] = []

    @model_validator(mode="after")
    def _fits_together(self) -> "_Branch":
        count = len(self.sigmas)
        if bool(self.norms) != bool(self.correlations):
            raise ValueError("norms and correlations belong together: one is missing")
        measured = ["norms", "correlations"] if self.norms else []
        for name in ("ratios", "spreads", "cosine_distances", *measured):
            _check_count(name, getattr(self, name), count)
        for place, row in enumerate(self.correlations):
            _check_count(f"correlations.{place}", row, place)
        if count > 1 and self.correlations:
            self._check_correlations()
        return self

    def _check_correlations(self) -> None:
        matrix = Measurement(sigmas=self.sigmas, correlations=self.correlations).matrix()
        if not np.tril(matrix, -1).any():
            raise ValueError("correlations are all 0")
        if np.linalg.eigvalsh(matrix).min() < -RIDGE / 2:  # the ridge covers anything smaller
            raise ValueError("correlations contradict each other (the matrix is not semidefinite)")


class _Settings(_Strict):
    model_config = ConfigDict(extra="allow")
    steps: _Count | None = None
    shift: _Limited | None = None
    sampler: str | None = None
    scheduler: str | None = None
    cfg: _Limited | None = None
    prompts: _Count | None = None
    latent: Annotated[list[_Count], Field(max_length=16)] | None = None


class _Identity(_Strict):
    model: str
    parameters: Annotated[int, Field(ge=0)]
    shapes: str
    weights: str | None = None
    patches: str = ""


class CalibrationFile(_Strict):
    """The fields of a calibration file, except format and checksum."""

    model: str
    branches: Annotated[dict[str, _Branch], Field(min_length=1)]
    settings: _Settings = _Settings()
    threshold: Annotated[float, Field(ge=0)] = 0.0
    retention: _Share = 0.0
    max_skip: Annotated[int, Field(ge=0)] = 0
    name: str = ""
    switch_at: float | None = None
    identity: _Identity | None = None
    family: str = ""
    refresh: _Share | None = None
    source: str = ""
    note: str = ""

    @model_validator(mode="after")
    def _switches_inside(self) -> "CalibrationFile":
        for branch, measured in self.branches.items():
            high, low = measured.sigmas[0], min(measured.sigmas)
            if self.switch_at is not None and not low < self.switch_at <= high:
                raise ValueError(
                    f"switch_at must lie within the noise levels of {branch}, {high:g} to {low:g}"
                )
        return self


_Cells = Field(min_length=CELLS, max_length=CELLS)


class LearnedFile(_Strict):
    """The fields of a file that holds what runs taught, except format and checksum."""

    model: _Identity
    weights: Annotated[list[Annotated[float, Field(ge=0, le=MEMORY)]], _Cells]
    logs: Annotated[list[Annotated[float, Field(ge=-MOST, le=MOST)]], _Cells]
    runs: Annotated[int, Field(ge=0)]


def check(kind: type[BaseModel], held: Mapping[str, Any]) -> dict[str, Any]:
    """Checks a file against a schema; returns its fields without format and checksum.

    Raises:
        ValueError: A field is invalid; the message begins with its name.
    """
    fields = {name: value for name, value in held.items() if name not in ("format", "checksum")}
    try:
        kind.model_validate(fields)
    except ValidationError as error:
        raise ValueError(_said(error)) from None
    check_seal(held)
    return fields


def _said(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    field, said = ".".join(map(str, first["loc"])), first["msg"]
    if first["type"] == "value_error":  # our own message, which begins with the field's name
        return f"{field}.{said}".replace("Value error, ", "").removeprefix(".")
    said = said.replace("a valid integer", "a whole number").replace("a valid ", "a ")
    return f"{field} {_PLAIN.get(first['type'], said.replace('Input should be', 'must be'))}"


def _check_count(name: str, values: list[Any], count: int) -> None:
    if len(values) != count:
        raise ValueError(f"{name} must hold {count} values, not {len(values)}")
