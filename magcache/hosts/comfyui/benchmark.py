"""Measures MagCache on the user's own sampling, by repeating it several times in its place.

Conditions, guider, sampler, noise levels and latent are thus those of the workflow, whichever node
samples. Runs with fewer steps follow the same noise levels.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...decide import Target
from ...measure import (
    Measurement,
    Sampled,
    Way,
    begun,
    check_steps,
    clocked,
    environment,
    known,
    measure,
    size_of,
    written,
)
from .. import sampled_with
from . import calibrations, host
from .models import class_name
from .settings import Settings
from .start import Start
from .watch import Watch, clock

log = logging.getLogger("magcache")
_WARM_UP = 2  # steps
_CLOSE = 0.02  # of a model's least σ
_EVERY = 0.3  # seconds between two texts on a node

Sample = Callable[..., torch.Tensor]
"""Samples with these settings (None: without MagCache) and with some arguments changed."""


@dataclass
class Given:
    """The workflow's own sampling.

    Attributes:
        guider: ComfyUI's guider.
        sample: Runs it.
        things: Its arguments, by their names in `CFGGuider.outer_sample`.
    """

    guider: Any
    sample: Sample
    things: dict[str, Any]

    @property
    def patcher(self) -> Any:
        return self.guider.model_patcher

    @property
    def sigmas(self) -> torch.Tensor:
        return self.things["sigmas"]

    def made_with(self) -> dict[str, Any]:
        shape = tuple(self.things["noise"].shape)
        return host.described(self.guider, self.things["sampler"], self.sigmas, shape)


@dataclass(frozen=True)
class Benchmark:
    """The node's settings, called in place of a sampling.

    Attributes:
        vae: Decodes latents.
        speeds, samples: The speeds to measure, and the number of seeds.
        planned: Gives the settings of the node MagCache for a speed.
        watch: Shows the progress, and keeps the result.
    """

    vae: Any
    speeds: Sequence[float]
    samples: int
    planned: Callable[[Target], Settings]
    watch: Watch

    def __deepcopy__(self, _memo: dict[int, Any]) -> "Benchmark":
        """Returns itself: older ComfyUI copy the options with each clone, and this holds a VAE."""
        return self

    def __call__(self, given: Given) -> torch.Tensor:
        """Measures in place of a sampling; returns the result without MagCache."""
        options = given.guider.model_options["transformer_options"]
        if options.get(host.OTHER_CACHE) is not None:
            raise ValueError(
                "EasyCache or LazyCache is on the same model, so nothing can be measured without "
                "a cache: remove that node"
            )
        check_steps(len(given.sigmas) - 1)
        subject = _Repeated(self, given)
        about = subject.about()
        key = [about, list(self.speeds), subject.contents()]
        told = known(subject.learned) if subject.prior else "a calibration of this model"
        about = {**about, "learned before": told}
        results = begun(calibrations.folder() / "measure", about, key)
        try:
            found = measure(subject, self.speeds, results, subject.tell)
            output = results.output((found.ways[0].name, 0))
        except BaseException:
            kept = len(results.sampled)
            told = (
                f"stopped, {kept} runs are kept: run the workflow again with the same seed to go on"
            )
            host.show(told, self.node_id)
            raise
        self._finish(found)
        subject.end(output)
        return output

    @property
    def node_id(self) -> str | None:
        return self.watch.node_id

    def _finish(self, found: Measurement) -> None:
        text, picture = found.text(), found.picture()
        self.watch.measured = text, picture
        host.show(found.summary(), self.node_id)
        log.info("%s", text)
        try:
            name = f"measured-{time.strftime('%Y%m%d-%H%M%S')}"
            for path in written(text, picture, _folder(), name):
                log.info("MagCache: wrote %s", path)
        except OSError as error:
            log.warning("MagCache: the measurement could not be written to a file: %s", error)
        if found.complete:
            found.results.finish()


class _Repeated:
    """See `magcache.measure.Subject`."""

    def __init__(self, asked: Benchmark, given: Given) -> None:
        from comfy import model_management

        self.asked = asked
        self.given = given
        self.steps = len(given.sigmas) - 1
        self.device = given.patcher.load_device
        noisy = bool(torch.count_nonzero(given.things["noise"]))
        self.samples = asked.samples if noisy else 1  # without noise, all seeds give the same
        self.learned = calibrations.notebook(given.patcher).read().runs
        self._interrupted = model_management.throw_exception_if_processing_interrupted
        self._free = model_management.soft_empty_cache
        self._latest: tuple[Any, Any] | None = None
        self._due = 0.0
        self._began = (0.0, 0, 0)  # time, and the done and total steps at that time

    @property
    def prior(self) -> bool:
        """Whether the model is sampled from the prior, and not from a calibration."""
        settings = self.asked.planned(Target(self.asked.speeds[0]))
        if settings.choose:
            things = self.given.things
            shape, mask = tuple(things["noise"].shape), things.get("denoise_mask")
            made_with = self.given.made_with()
            start = Start(self.given.guider.conds, shape, mask, made_with=made_with)
            settings = settings.choose(self.given.patcher, start)
        return settings.at_output

    def about(self) -> dict[str, str]:
        """What is measured, on what and how, for people to read."""
        patcher, guider = self.given.patcher, self.given.guider
        network = patcher.model.diffusion_model
        dtype = str(patcher.model_dtype()).removeprefix("torch.")
        patched = f", {len(patcher.patches)} weights patched" if patcher.patches else ""
        sampling = sampled_with({**self.given.made_with(), "steps": self.steps})
        seeds = f"{self.samples} seeds of one prompt" if self.samples > 1 else "one"
        return {
            **environment(f"ComfyUI {host.version()}", self.device),
            "model": f"{class_name(patcher)}, {size_of(network)}, {dtype}{patched}",
            "sampling": f"{sampling}, {type(guider).__name__}",
            "samples": seeds,
        }

    def contents(self) -> list[str]:
        """Hashes of everything else that distinguishes this measurement from others."""
        things = {name: self.given.things.get(name) for name in _CONTENTS}
        digest = hashlib.sha256()
        for part in _parts([things, self.given.guider.conds]):
            digest.update(part)
        identity = asdict(calibrations.identity(self.given.patcher))
        return [digest.hexdigest(), str(identity)]

    def warm_up(self) -> None:
        """See `magcache.measure.Subject`."""
        self.given.sample(None, sigmas=self.given.sigmas[: _WARM_UP + 1], callback=None)

    def sample(
        self, way: Way, number: int, on_step: Callable[[int], None]
    ) -> tuple[torch.Tensor, Sampled]:
        """See `magcache.measure.Subject`."""
        things = self.given.things
        seed = (things.get("seed") or 0) + number
        changed: dict[str, Any] = {"seed": seed, "callback": self._callback(way, on_step)}
        if number:
            generator = torch.Generator().manual_seed(seed)
            noise = things["noise"]
            changed["noise"] = torch.randn(noise.shape, generator=generator).to(noise)
        if way.steps < self.steps:
            changed["sigmas"] = fewer_sigmas(self.given.sigmas, way.steps, self._least)
        watch, settings = Watch(None, ""), None
        if way.speedup is not None:
            settings = replace(self.asked.planned(Target(way.speedup)), watch=watch)
        torch.manual_seed(seed)  # some samplers draw their noise from the global generator
        output, seconds, peak = clocked(self.device, lambda: self.given.sample(settings, **changed))
        report = watch.last
        if report is None:
            return output, Sampled(seconds, peak)
        if report.missing:
            raise ValueError(f"there is nothing to measure, because this model {report.missing}")
        return output, Sampled(seconds, peak, report.computed, report.evaluations)

    def images(self, output: torch.Tensor) -> torch.Tensor:
        """See `magcache.measure.Subject`."""
        self._interrupted()
        shapes = self.given.things.get("latent_shapes") or ()
        if len(shapes) > 1:  # a video and its sound in one tensor
            from comfy import utils

            output = utils.unpack_latents(output, shapes)[0]
        images = self.asked.vae.decode(output)
        return images.reshape(-1, *images.shape[-3:])[..., :3].float()

    def freed(self) -> None:
        """See `magcache.measure.Subject`."""
        self._free()

    def tell(self, told: str, done: int, total: int) -> None:
        """Shows the progress on the node and in the sampler's own progress bar."""
        now = time.monotonic()
        if self._began[2] != total:
            self._began = now, done, total
        if (callback := self.given.things.get("callback")) and self._latest and done:
            callback(min(done, total) - 1, *self._latest, total)
        if now >= self._due:
            self._due = now + _EVERY
            since, from_, _ = self._began
            left = (now - since) * (total - done) / (done - from_) if done > from_ else None
            more = f", {clock(left)} left" if left is not None else ""
            host.show(f"{told}\n{100 * done // max(total, 1)} %{more}", self.asked.node_id)

    def end(self, output: torch.Tensor) -> None:
        """Shows the sampler's node the result that it returns, instead of the last one sampled."""
        callback = self.given.things.get("callback")
        if callback and len(self.given.things.get("latent_shapes") or ()) <= 1:
            shown = self.given.patcher.model.process_latent_in(output)
            callback(self.steps - 1, shown, shown, self.steps)

    @property
    def _least(self) -> float:
        return float(self.given.patcher.get_model_object("model_sampling").sigma_min)

    def _callback(self, way: Way, on_step: Callable[[int], None]) -> Callable[..., None]:
        def callback(step: int, denoised: Any, x: Any, _total: int) -> None:
            self._latest = denoised, x
            on_step(min(step + 1, way.steps))

        return callback


_CONTENTS = ("noise", "latent_image", "denoise_mask", "sampler", "sigmas", "seed")


def fewer_sigmas(sigmas: torch.Tensor, steps: int, least: float) -> torch.Tensor:
    """Noise levels (steps + 1,) along the same curve as `sigmas`, with the same start and end.

    If `sigmas` has the model's smallest σ before its end, as schedulers such as karras always do,
    so has the result.

    Args:
        sigmas: The original noise levels, more than `steps` + 1.
        steps: Number of steps.
        least: The model's smallest σ.
    """
    last = len(sigmas) - 1
    if steps > 1 and float(sigmas[-1]) == 0 and abs(float(sigmas[-2]) - least) < _CLOSE * least:
        places = [*np.linspace(0, last - 1, steps), last]
    else:
        places = np.linspace(0, last, steps + 1)
    values = np.interp(places, np.arange(last + 1), sigmas.double().cpu().numpy())
    return torch.tensor(values).to(sigmas)


def _folder() -> Path:
    """Where files for the user go."""
    import folder_paths

    return Path(folder_paths.get_output_directory()) / "magcache"


def _parts(value: Any) -> Iterator[bytes]:
    """Everything in a value as bytes: tensors, numbers and texts; of other objects their class."""
    if isinstance(value, torch.Tensor):
        yield str((value.dtype, tuple(value.shape))).encode()
        if not value.is_meta:
            yield value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, Mapping):
        for name in sorted(value, key=str):
            if name != "uuid":  # differs each time
                yield str(name).encode()
                yield from _parts(value[name])
    elif isinstance(value, list | tuple):
        yield str(len(value)).encode()
        for each in value:
            yield from _parts(each)
    elif value is None or isinstance(value, str | int | float):
        yield repr(value).encode()
    else:
        yield type(value).__qualname__.encode()
        yield getattr(getattr(value, "sampler_function", None), "__name__", "").encode()
        for name in ("extra_options", "inpaint_options"):  # of a sampler
            yield from _parts(getattr(value, name, None))
