# SPDX-License-Identifier: GPL-2.0-or-later
"""Settings of a fine-tuning: rates that know the checkpoint's own, and those of the published method."""

from __future__ import annotations

import pytest

from lacuna.engine.checkpoint.card_file import read_card
from lacuna.engine.finetuning.finetune_settings import read_settings
from lacuna.engine.jobs import FinetuneJob
from lacuna.engine.models.registry import architecture
from lacuna.engine.training.loop import rate_factor

BATCH = "[training]\nbatch = 2\n"
PUBLISHED = {"strategy": "latent", "latent_preset": "paper"}


@pytest.fixture
def read(make_checkpoint, tmp_path):
    """A function (record, text, job's fields) that returns the settings for a checkpoint whose card has that record."""
    small = {"encoder_options": {"width": 8, "depth": 1}, "head_width": 8}
    checkpoint = make_checkpoint(architecture="sgma", config=small, modalities={"a": ["x"], "height": ["y"]})

    def settings(record, text=BATCH, **fields):
        path = tmp_path / "tune.toml"
        path.write_text(text)
        card = read_card(checkpoint)
        card.training = record
        return read_settings(FinetuneJob(checkpoint, config=str(path), **fields), card)

    return settings


@pytest.mark.parametrize(("method", "share"), [("full", 0.5), ("decoder", 0.5), ("head", 1.0), ("lora", 1.0)])
def test_the_rate_is_a_share_of_that_of_the_checkpoint_and_what_is_new_gets_the_whole(read, method, share):
    own = {"preset": "paper", "settings": {"lr": 6e-5, "optimizer": "adamw"}}
    gentle = read(own, method=method).recipe.settings
    assert gentle.lr == pytest.approx(share * 6e-5)
    assert gentle.lr * gentle.new_lr_factor == pytest.approx(6e-5)
    another = read({"settings": {"lr": 0.3, "optimizer": "sgd"}}, method=method).recipe.settings
    assert another.lr == pytest.approx(share * architecture("sgma").settings("default").lr)


def test_a_rate_that_is_given_is_that_of_everything(read):
    found = read({}, "[training]\nlr = 0.02\n").recipe.settings
    assert (found.lr, found.new_lr_factor) == (0.02, 1.0)
    assert read({}, "[training]\nlr = 0.02\nnew_lr_factor = 3\n").recipe.settings.new_lr_factor == 3


def test_the_rate_stays_so_that_a_stop_before_the_end_spoils_nothing(read):
    short, long = (read({}, epochs=epochs).recipe for epochs in (9, 30))
    for recipe in (short, long):
        assert [rate_factor(recipe.settings, step, 16) for step in (16, 100, 143)] == [1.0, 1.0, 1.0]
        assert recipe.config.average > 0
    assert read({}, '[training]\nschedule = "poly"\n').recipe.settings.schedule == "poly"


def test_a_second_fine_tuning_and_one_of_published_weights_know_the_first_rate(read):
    first = read({"settings": {"lr": 6e-5, "optimizer": "adamw"}})
    assert first.to_dict()["scratch_lr"] == 6e-5
    second = read({"settings": first.to_dict(), "lineage": [{"name": "base"}]})
    assert second.recipe.settings.lr == pytest.approx(3e-5)
    assert second.to_dict()["scratch_lr"] == 6e-5
    assert read({"imported_from": "weights.pth"}).recipe.settings.lr == pytest.approx(3e-5)


def test_the_rate_of_a_fine_tuning_whose_card_does_not_tell_the_first_is_the_usual(read):
    usual = architecture("sgma").settings("default").lr
    old = {"settings": {"lr": 6e-5, "optimizer": "adamw"}, "lineage": [{"name": "base"}]}
    assert read(old).recipe.settings.lr == pytest.approx(usual / 2)


def test_the_published_fine_tuning_has_the_published_optimiser_and_schedule(read):
    record = {"settings": {"lr": 0.1, "crop": 64, "radiometry": {"height": {"offset": 0.5}}}}
    found = read(record, **PUBLISHED).recipe
    settings, config = found.settings, found.config
    assert (settings.optimizer, settings.lr, settings.weight_decay, settings.betas) == ("adam", 1e-4, 0.0, (0.9, 0.999))
    assert (settings.schedule, settings.decay_epochs, settings.decay_factor) == ("step", 5, 0.9)
    assert (settings.epochs, settings.warmup_epochs, settings.clip) == (70, 0, None)
    assert (config.average, config.balance, config.class_weights, config.scale) == (0.0, 0.0, "none", [1.0, 1.0])
    assert (config.keep, config.patience, config.crops, found.changes) == ("last", None, None, {})
    assert (settings.crop, read({}, **PUBLISHED).recipe.settings.crop) == (64, 224)


def test_what_is_asked_for_goes_before_what_is_published(read):
    text = '[training]\nbatch = 2\nlr = 0.01\naverage = 0.9\nkeep = "best"\n'
    found = read({}, text, epochs=3, **PUBLISHED).recipe
    assert (found.settings.batch, found.settings.lr, found.settings.epochs) == (2, 0.01, 3)
    assert (found.config.average, found.config.keep) == (0.9, "best")


@pytest.mark.parametrize("fields", [{"strategy": "latent"}, {"strategy": "uniform", "latent_preset": "paper"}])
def test_one_half_of_what_asks_for_the_published_fine_tuning_does_not(read, fields):
    found = read({}, **fields).recipe
    assert found.settings.optimizer == "adamw" and found.config.keep == "best"
