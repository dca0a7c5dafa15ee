"""Draws lines, text and axes on a card that suits any theme, with Pillow and NumPy only."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

CARD, TEXT, FAINT, GRID = "#1f242d", "#e8eaed", "#9aa4b2", "#3a4350"
BLUE, ORANGE, GREEN, YELLOW = "#56b4e9", "#e69f00", "#2fc08b", "#f0e442"
RED, PINK, VIOLET, GREY = "#ff6b57", "#e88ac0", "#b49cf0", "#5d6878"
SIZE = 22  # of text; a node shows 800 pixels on 400, so it appears at half this size
LINES = (TEXT, FAINT, GREEN, PINK)  # colours of the branches' curves
_SHADES = np.array(  # dark to light, even in lightness
    [(6, 5, 20), (74, 18, 108), (165, 44, 96), (237, 105, 37), (252, 208, 80), (252, 255, 200)]
)
_FINER = 2  # supersampling factor, which smooths lines


class Canvas:
    """A card to draw on. Coordinates are pixels from the upper left; `size` is the text size."""

    def __init__(self, width: int, height: int, size: int = SIZE) -> None:
        self.width, self.height, self.size = width, height, size
        self._image = Image.new("RGB", (width * _FINER, height * _FINER), CARD)
        self._draw = ImageDraw.Draw(self._image)

    def text(self, x: float, y: float, text: str, colour: str = TEXT, anchor: str = "lm") -> float:
        """Writes a line with Pillow's anchor; returns the x after it, or before it for "r"."""
        font = _font(self.size * _FINER)
        self._draw.text((x * _FINER, y * _FINER), text, colour, font, anchor)
        return x + self.width_of(text) * (-1 if anchor.startswith("r") else 1)

    def width_of(self, text: str) -> float:
        return _font(self.size * _FINER).getlength(text) / _FINER

    def lines(
        self, x: float, y: float, text: str, colour: str = TEXT, width: float | None = None
    ) -> float:
        """Writes lines, wrapped at a width or the card's edge; returns the y of the next line."""
        for line in text.splitlines():
            for part in self._broken(line, width or self.width - 2 * x):
                self.text(x, y, part, colour, "la")
                y += 1.35 * self.size
        return y

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float = 2) -> None:
        scaled = [(x * _FINER, y * _FINER) for x, y in points]
        self._draw.line(scaled, colour, max(1, round(width * _FINER)), "curve")

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: str) -> None:
        """Fills a rectangle of at least one pixel."""
        left, top, right, bottom = (round(value * _FINER) for value in (x0, y0, x1, y1))
        self._draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), colour)

    def dot(self, x: float, y: float, radius: float, colour: str, filled: bool = True) -> None:
        edges = [(at + off * radius) * _FINER for off in (-1, 1) for at in (x, y)]
        self._draw.ellipse(edges, colour if filled else CARD, colour, round(2 * _FINER))

    def paste(self, picture: Image.Image, x: int, y: int) -> None:
        """Puts a picture on the card at its own size."""
        size = (picture.width * _FINER, picture.height * _FINER)
        self._image.paste(picture.resize(size, Image.Resampling.NEAREST), (x * _FINER, y * _FINER))

    def image(self, height: float | None = None) -> Image.Image:
        """The card as an image, cropped to a height."""
        used = min(self.height, round(height or self.height))
        card = self._image.crop((0, 0, self.width * _FINER, used * _FINER))
        return card.resize((self.width, used), Image.Resampling.BOX)

    def _broken(self, line: str, width: float) -> list[str]:
        """Wraps a line to a width between words, and a long name after - and _."""
        parts = [""]
        for word in line.split():
            fits = self.width_of(word) <= width
            space = " "
            for piece in [word] if fits else re.findall(r"[^_-]+[_-]*", word):
                longer = f"{parts[-1]}{space}{piece}".lstrip()
                if parts[-1] and self.width_of(longer) > width:
                    parts.append(piece)
                else:
                    parts[-1] = longer
                space = ""
        return parts


@dataclass(frozen=True)
class Plot:
    """Axes on a card.

    Attributes:
        canvas: The card.
        left, top, right, bottom: Edges of the axes on the card.
        xs, ys: Values at the left and right edges, and at the bottom and top edges.
    """

    canvas: Canvas
    left: float
    top: float
    right: float
    bottom: float
    xs: tuple[float, float]
    ys: tuple[float, float]

    def x(self, value: float) -> float:
        """The position of a value on the card."""
        start, end = self.xs
        return self.left + (value - start) / ((end - start) or 1) * (self.right - self.left)

    def y(self, value: float) -> float:
        start, end = self.ys
        return self.bottom - (value - start) / ((end - start) or 1) * (self.bottom - self.top)

    def frame(self, title: str, across: int = 6, up: int = 4) -> None:
        """Draws title and grid, with about `across` and `up` tick labels; 0 draws none."""
        canvas, size = self.canvas, self.canvas.size
        canvas.text(self.left, self.top - size, title, FAINT)
        for value in ticks(*self.ys, up) if up else ():
            canvas.line([(self.left, self.y(value)), (self.right, self.y(value))], GRID, 1)
            canvas.text(self.left - 0.45 * size, self.y(value), f"{value:g}", FAINT, "rm")
        canvas.line([(self.left, self.bottom), (self.right, self.bottom)], FAINT, 1)
        for value in ticks(*self.xs, across) if across else ():
            canvas.line([(self.x(value), self.bottom), (self.x(value), self.bottom + 6)], FAINT, 1)
            canvas.text(self.x(value), self.bottom + 0.9 * size, f"{value:g}", FAINT, "mm")


def around(values: Sequence[float], alone: float = 0.5) -> tuple[float, float]:
    """Ends of an axis with a margin around `values`; the margin is `alone` if all are equal."""
    margin = 0.08 * (max(values) - min(values)) or alone
    return min(values) - margin, max(values) + margin


def ticks(start: float, end: float, about: int) -> list[float]:
    """Round tick values between two ends: the fewest that are more than `about` / 2."""
    low, high = min(start, end), max(start, end)
    if not high > low:
        return [low]
    step = 10.0 ** math.ceil(math.log10(high - low))
    while True:
        for part in (step, step / 2, step / 5):
            places = range(math.ceil(low / part - 1e-9), math.floor(high / part + 1e-9) + 1)
            if len(places) > about / 2:
                return [round(place * part, 12) for place in places]
        step /= 10


def shaded(values: np.ndarray) -> Image.Image:
    """An image of values (H, W) in [0, 1]."""
    places = np.clip(np.nan_to_num(values), 0, 1) * (len(_SHADES) - 1)
    grid = np.arange(len(_SHADES))
    channels = [np.interp(places, grid, _SHADES[:, channel]) for channel in range(3)]
    return Image.fromarray(np.stack(channels, -1).round().astype(np.uint8))


def draw_scale(canvas: Canvas, y: float, left: float, right: float, start: str, end: str) -> None:
    """Draws the colour scale from dark to light, with labels at its ends."""
    left = canvas.text(left, y, start, FAINT) + 12
    right = canvas.text(right, y, end, FAINT, "rm") - 12
    bar = shaded(np.linspace(0, 1, round(right - left))[None].repeat(24, 0))
    canvas.paste(bar, round(left), round(y - 12))


def picture_of(image: Any) -> Image.Image:
    """A picture of an image (H, W, C) in [0, 1], array or tensor, without its transparency."""
    colours = torch.as_tensor(image)[..., :3].float()
    values = np.nan_to_num(colours.expand(*colours.shape[:2], 3).cpu().numpy())
    return Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8))


def as_batch(picture: Image.Image) -> torch.Tensor:
    """A picture as ComfyUI's IMAGE, (1, H, W, 3) in [0, 1]."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255)[None]


def _font(size: int) -> Any:
    """Pillow's built-in font, which has Latin letters only."""
    try:
        return ImageFont.load_default(size)
    except TypeError:  # Pillow before 10.1 has only one size
        return ImageFont.load_default()
