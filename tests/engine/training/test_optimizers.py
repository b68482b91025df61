# SPDX-License-Identifier: GPL-2.0-or-later
"""Optimisers, schedules and accumulation as the settings ask, and each taken up to the same bits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import safetensors.torch
import torch
from torch import nn

from lacuna.engine.errors import LacunaError
from lacuna.engine.events import Reporter
from lacuna.engine.models import registry
from lacuna.engine.models.base import SegmentationModel, TrainingSettings
from lacuna.engine.training.loop import make_optimizer, rate_factor
from lacuna.engine.training.recipe import read_recipe
from lacuna.engine.training.train import train

BASE = TrainingSettings(lr=0.1, weight_decay=0.01, epochs=6, warmup_epochs=0, batch=2, crop=16)
OPTIMIZERS = {
    "adamw": 'optimizer = "adamw"',
    "adam": 'optimizer = "adam"\nschedule = "step"\ndecay_factor = 0.5',
    "sgd": 'optimizer = "sgd"\nmomentum = 0',
    "nesterov": 'optimizer = "sgd"\nmomentum = 0.9\nnesterov = true\nschedule = "cosine_restarts"\nrestart_steps = 3',
}


@dataclass
class NoConfig:
    pass


class Pixel(SegmentationModel):
    """Logits are a linear map of a pixel's values, and the loss of crops of one size is the mean over them."""

    Config = NoConfig
    told: list[int]

    def __init__(self, modalities, classes, config):
        super().__init__(modalities, classes, config)
        self.layers = nn.ModuleDict({name: nn.Conv2d(count, classes, 1) for name, count in modalities.items()})
        self.output_stride, self.margin = 1, 0

    def forward(self, images, size=None):
        return sum(self.layers[name](images[name]) for name in self.present(images))

    def latent(self, images, size=None):
        return self(images, size)

    def losses(self, images, target, *, available=None, generator=None, class_weights=None):
        return {"total": (self(images) - 1).square().mean()}

    def start_epoch(self, epoch):
        Pixel.told.append(epoch)

    @classmethod
    def settings(cls, preset="default"):
        return BASE

    @classmethod
    def preset_config(cls, preset="default"):
        return {}


@pytest.fixture(autouse=True)
def pixel_architecture(monkeypatch):
    monkeypatch.setitem(registry._MODULES, "pixel", "base")
    monkeypatch.setitem(registry._CLASSES, "pixel", Pixel)
    Pixel.told = []


@pytest.fixture
def make(two_scenes, make_job):
    """A function that returns a job of three epochs on two scenes; `text` goes into the table of training."""
    manifest = two_scenes.manifest()

    def job(text="", batch=2, crops=6, **options):
        head = f"[training]\nepochs = 3\nbatch = {batch}\ncrops = {crops}\ntile = 64\naverage = 0\n"
        return make_job(manifest, config=head + text, architecture="pixel", **options)

    return job


def weights(job):
    return safetensors.torch.load_file(job.output)


def optimizer_of(**settings):
    return make_optimizer(Pixel({"a": 3}, 2, NoConfig()), replace(BASE, **settings))


def test_the_optimizer_is_the_one_that_is_named():
    adamw, adam = optimizer_of(betas=(0.8, 0.9), eps=1e-6), optimizer_of(optimizer="adam", betas=(0.8, 0.9), eps=1e-6)
    assert (type(adamw), type(adam)) == (torch.optim.AdamW, torch.optim.Adam)
    assert all(item.defaults["betas"] == (0.8, 0.9) and item.defaults["eps"] == 1e-6 for item in (adamw, adam))
    sgd = optimizer_of(optimizer="sgd", momentum=0.99, nesterov=True)
    assert type(sgd) is torch.optim.SGD
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"]) == (0.99, True)
    for optimizer in (adamw, adam, sgd):
        for group in optimizer.param_groups:
            assert all(group["weight_decay"] == (0.01 if item.ndim > 1 else 0.0) for item in group["params"])


def torch_rates(kind, steps, **options):
    """Return the rates that a scheduler of torch gives, as shares of the first."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, rates = kind(optimizer, **options), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("warm", [0, 2])
def test_cosine_with_restarts_goes_by_the_step_of_the_optimizer(warm):
    settings = replace(BASE, schedule="cosine_restarts", restart_steps=7, warmup_epochs=warm)
    wanted = torch_rates(torch.optim.lr_scheduler.CosineAnnealingWarmRestarts, 30 - 5 * warm, T_0=7)
    found = [rate_factor(settings, step, 5) for step in range(5 * warm, 30)]
    assert found == pytest.approx(wanted, abs=1e-12)


def test_steps_of_the_rate_go_by_the_epoch():
    settings = replace(BASE, schedule="step", decay_epochs=2, decay_factor=0.9)
    wanted = torch_rates(torch.optim.lr_scheduler.StepLR, 6, step_size=2, gamma=0.9)
    assert [rate_factor(settings, 5 * epoch + 4, 5) for epoch in range(6)] == pytest.approx(wanted)


def test_accumulated_batches_make_the_step_of_one_large_batch(make):
    jobs = [
        make(f'optimizer = "sgd"\naccumulation = {count}', batch, output=f"model{count}.safetensors")
        for batch, count in ((6, 1), (2, 3), (1, 6))
    ]
    for job in jobs:
        train(job, Reporter(lambda event: None))
    first, *others = map(weights, jobs)
    for other in others:
        for name in first:
            torch.testing.assert_close(other[name], first[name])


def test_batches_that_are_left_over_make_a_step_too(make):
    """Five crops in batches of two, two batches a step: a step of four crops, and one of a single crop."""
    seen = []
    job = make('optimizer = "sgd"\naccumulation = 2', 2, 5, epochs=1)
    step = torch.optim.SGD.step

    def counted(self, *arguments):
        seen.append(self.param_groups[0]["lr"])
        return step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", counted)
        train(job, Reporter(lambda event: None))
    assert seen == pytest.approx([0.1, 0.1 * 0.5**0.9])


class Crash(Exception):
    """Stands for a process that is killed."""


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.slow
def test_each_optimizer_is_taken_up_to_the_same_bits(make, name):
    def take(event):
        if event["event"] == "progress" and event["done"] == 2:
            raise Crash

    whole, cut = (make(OPTIMIZERS[name], output=f"model{index}.safetensors") for index in range(2))
    train(whole, Reporter(lambda event: None))
    with pytest.raises(Crash):
        train(cut, Reporter(take))
    said = []
    train(cut, Reporter(said.append))
    assert any("Resuming" in event.get("text", "") for event in said)
    assert Pixel.told == [0, 1, 2, 0, 1, 2]
    assert all(torch.equal(value, weights(cut)[key]) for key, value in weights(whole).items())


def test_optimizers_differ(make):
    found = []
    for index, text in enumerate(OPTIMIZERS.values()):
        job = make(text, output=f"model{index}.safetensors")
        train(job, Reporter(lambda event: None))
        found.append(weights(job)["layers.optical.weight"])
    assert not any(torch.equal(a, b) for i, a in enumerate(found) for b in found[:i])


def test_nesterov_needs_momentum(make):
    with pytest.raises(LacunaError) as caught:
        read_recipe(make('optimizer = "sgd"\nnesterov = true\nmomentum = 0'), ["optical", "height"])
    assert caught.value.code == "bad-config" and "nesterov" in caught.value.text and caught.value.hint
