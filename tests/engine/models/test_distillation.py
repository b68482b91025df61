# SPDX-License-Identifier: GPL-2.0-or-later
"""The losses of DIS2 against their formulas written out, and what they are at their extremes."""

from __future__ import annotations

import math

import pytest
import torch

from lacuna.engine.models.distillation import SegmentationLoss, divergence, feature_distance, logit_distance, unit

CLASSES = 4


def plain_loss(logits, target, floor, class_mean, class_weights, rarity):
    """Return the segmentation loss written out pixel by pixel."""
    batch, classes = logits.shape[:2]
    probabilities = logits.softmax(1).double()
    entropy, amount = 0.0, 0.0
    for row in range(batch):
        labels = target[row][target[row] >= 0]
        shares = torch.bincount(labels, minlength=classes).double() / max(len(labels), 1)
        for k in range(classes):
            chosen = probabilities[row, k][target[row] == k].clamp(min=floor)
            entropy -= float((1 - rarity * shares[k]) * class_weights[k] * chosen.log().sum())
            amount += float(class_weights[k] * (target[row] == k).sum())
    known = (target >= 0)[:, None]
    dice = 0.0
    for k in range(classes):
        p, y = (probabilities[:, k : k + 1] * known), (target == k).double()[:, None]
        dice += float(2 * (p * y).sum() / (p.sum() + y.sum() + 1e-7)) / classes
    return entropy / amount / (classes if class_mean else 1) + 1 - dice


@pytest.mark.parametrize("rarity", [True, False])
@pytest.mark.parametrize("floor", [0.0, 0.005])
@pytest.mark.parametrize("class_mean", [True, False])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5, 3.0]])
def test_the_segmentation_loss_is_weighted_cross_entropy_and_dice(floor, class_mean, weights, rarity):
    logits, target = 4 * torch.randn(3, CLASSES, 6, 7), torch.randint(-1, CLASSES, (3, 6, 7))
    given = None if weights is None else torch.tensor(weights)
    found = SegmentationLoss(target, CLASSES, given, floor, class_mean, rarity)(logits)
    wanted = plain_loss(logits, target, floor, class_mean, weights or [1] * 4, rarity)
    assert float(found) == pytest.approx(wanted, rel=1e-4)


def test_an_image_of_one_class_teaches_unless_classes_weigh_by_their_rarity():
    target = torch.full((1, 4, 4), 2)
    for rarity, teaches in ((False, True), (True, False)):
        logits = torch.zeros(1, CLASSES, 4, 4, requires_grad=True)
        loss = SegmentationLoss(target, CLASSES, None, 0.0, False, rarity)
        dice = 1.0 - torch.tensor([0.0, 0.0, 2 * 4 / (4 + 16), 0.0]).mean()
        entropy = float(loss(logits).detach()) - float(dice)
        assert (entropy > 1.0) is teaches


def test_very_wrong_pixels_teach_unless_probabilities_have_a_floor():
    target = torch.tensor([[[0, 1]]])
    for floor, teaches in ((0.0, True), (0.005, False)):
        logits = torch.zeros(1, 2, 1, 2)
        logits[0, 1, 0, 0] = 20.0
        logits.requires_grad_()
        SegmentationLoss(target, 2, None, floor, False)(logits).backward()
        assert bool(logits.grad[0, 0, 0, 0].abs() > 0.1) is teaches


def test_pixels_without_label_have_no_gradient_and_none_gives_nought():
    logits = torch.randn(2, CLASSES, 5, 5, requires_grad=True)
    target = torch.randint(0, CLASSES, (2, 5, 5))
    target[:, :2] = -1
    SegmentationLoss(target, CLASSES, None, 0.0, False)(logits).backward()
    assert (logits.grad[:, :, :2] == 0).all() and (logits.grad[:, :, 2:] != 0).any()
    assert SegmentationLoss(torch.full_like(target, -1), CLASSES, None, 0.0, False)(logits).item() == 0.0


def test_sure_and_right_costs_nothing():
    target = torch.randint(0, CLASSES, (2, 8, 8))
    logits = 50 * torch.nn.functional.one_hot(target, CLASSES).permute(0, 3, 1, 2).float()
    assert float(SegmentationLoss(target, CLASSES, None, 0.0, False)(logits)) == pytest.approx(0.0, abs=1e-6)


def test_directions_are_compared_not_lengths():
    a, b = torch.randn(3, 8), torch.randn(3, 8)
    assert float(feature_distance([a, b], [5 * a, 0.1 * b])) == pytest.approx(0.0, abs=1e-12)
    cosines = torch.nn.functional.cosine_similarity(a, b)
    assert float(feature_distance([a], [b])) == pytest.approx(float((2 - 2 * cosines).mean() / 8), rel=1e-5)
    assert (unit(torch.zeros(1, 4), 1e-6) == 0).all()


@pytest.mark.parametrize("class_mean", [True, False])
def test_logits_are_compared_by_the_divergence_of_the_teacher(class_mean):
    student, teacher = torch.randn(2, CLASSES, 3, 5), torch.randn(2, CLASSES, 3, 5)
    p, q = (teacher / 3).softmax(1), (student / 3).softmax(1)
    wanted = 9 * (p * (p / q).log()).sum(1).mean() / (CLASSES if class_mean else 1)
    torch.testing.assert_close(logit_distance(student, teacher, 3.0, class_mean), wanted, rtol=1e-4, atol=1e-6)
    assert float(logit_distance(teacher + 2.0, teacher, 3.0, class_mean)) == pytest.approx(0.0, abs=1e-6)


def test_no_gradient_reaches_the_teacher():
    student, teacher = (torch.randn(2, CLASSES, 3, 3, requires_grad=True) for _ in range(2))
    (feature_distance([student], [teacher]) + logit_distance(student, teacher, 2.0, True)).backward()
    assert student.grad.abs().sum() > 0 and teacher.grad is None


def test_the_divergence_counts_levels_that_are_alike():
    a = torch.randn(3, 16)
    right = torch.cat([-a[:, 8:], a[:, :8]], 1)
    assert float(divergence([a, a, a], [a, 2 * a, -a])) == pytest.approx(3.0, rel=1e-5)
    assert float(divergence([a], [right])) == pytest.approx(0.0, abs=1e-10)
    angle = math.pi / 3
    turned = math.cos(angle) * a + math.sin(angle) * right
    assert float(divergence([a], [turned])) == pytest.approx(math.cos(angle) ** 2, rel=1e-4)
