"""The KD loss against plain mathematics."""

import math

import pytest
import torch

from common import distillation, tasks

TASK = tasks.SingleLabel(("no", "yes"))


def softmax(values, temperature):
    powers = [math.exp(v / temperature) for v in values]
    return [p / sum(powers) for p in powers]


def test_soft_targets_by_hand():
    teacher, student, temperature = [[2.0, 0.0], [-1.0, 3.0]], [[1.0, 0.5], [0.0, 0.0]], 2.0
    total = 0.0
    for t_row, s_row in zip(teacher, student, strict=True):
        t, s = softmax(t_row, temperature), softmax(s_row, temperature)
        total += sum(p * math.log(p / q) for p, q in zip(t, s, strict=True))
    expected = temperature**2 * total / 2  # the mean over two sentences
    got = TASK.soft_loss(torch.tensor(student), torch.tensor(teacher), temperature)
    assert float(got) == pytest.approx(expected, rel=1e-5)


def test_whole_loss_by_hand():
    # softmax([ln 3, 0]) is (3/4, 1/4), softmax([0, 0]) is (1/2, 1/2), so at T = 1:
    # KL = 3/4·ln(3/2) + 1/4·ln(1/2) = .130812; CE = ln 2 = .693147; .25·KL + .75·CE = .552563
    loss, terms = distillation.distillation_loss(
        TASK, torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3), 0.0]]), torch.tensor([1]), temperature=1.0, alpha=0.25
    )
    assert float(loss) == pytest.approx(0.552563, abs=1e-5)
    assert float(terms["soft"]) == pytest.approx(0.130812, abs=1e-5) and float(terms["hard"]) == pytest.approx(0.693147, abs=1e-5)
    assert not terms["soft"].requires_grad


def test_temperature_is_squared_so_the_gradient_keeps_its_scale():
    def gradient(temperature):
        student = torch.tensor([[0.3, -0.1, 0.2]], requires_grad=True)
        TASK.soft_loss(student, torch.tensor([[0.5, 0.1, -0.4]]), temperature).backward()
        return student.grad

    # At high T the gradient is (z_s − z_t)/K of centred logits (Hinton et al. 2015, section 2.1), whatever T.
    difference = torch.tensor([[0.3, -0.1, 0.2]]) - torch.tensor([[0.5, 0.1, -0.4]])
    expected = (difference - difference.mean()) / 3
    for temperature in (100.0, 400.0):
        assert torch.allclose(gradient(temperature), expected, rtol=0.02, atol=1e-4)


def test_equal_logits_cost_nothing():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert float(TASK.soft_loss(logits, logits, 3.0)) == pytest.approx(0.0, abs=1e-6)


def test_alpha_at_its_ends():
    student, teacher, labels = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 5.0]]), torch.tensor([0])
    soft, terms = distillation.distillation_loss(TASK, student, teacher, labels, temperature=2.0, alpha=1.0)
    hard, _ = distillation.distillation_loss(TASK, student, teacher, labels, temperature=2.0, alpha=0.0)
    assert float(soft) == float(terms["soft"]) and float(hard) == float(terms["hard"])


def states(seed):
    return torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(seed))


def test_hidden_states_of_padding_do_not_count():
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    student, teacher = states(0), states(1)
    spoilt = student.clone()
    spoilt[1, 2:] = 1e4
    loss = distillation.hidden_state_loss([student], [teacher], mask)
    assert float(distillation.hidden_state_loss([spoilt], [teacher], mask)) == float(loss) > 0.1
    spoilt[1, 1] = 1e4 * torch.arange(8)
    assert float(distillation.hidden_state_loss([spoilt], [teacher], mask)) != float(loss)


def test_equal_hidden_states_cost_nothing_whatever_their_scale():
    mask = torch.ones(2, 5, dtype=torch.long)
    assert float(distillation.hidden_state_loss([states(0)], [states(0)], mask)) == 0.0
    assert float(distillation.hidden_state_loss([100 * states(0) + 7], [100 * states(0).half()], mask)) < 1e-3


def test_hidden_state_loss_is_the_mean_over_layers_by_hand():
    # Layer-normalised (1, −1) and (−1, 1) differ by 2 in each place: 4. A second, equal pair: 0. Mean: 2.
    one, other, mask = torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[0.0, 5.0]]]), torch.ones(1, 1, dtype=torch.long)
    assert float(distillation.hidden_state_loss([one, one], [other, one], mask)) == pytest.approx(2.0, rel=1e-3)


def test_lesson_adds_the_hidden_states():
    from types import SimpleNamespace

    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    logits, labels = torch.tensor([[0.5, 0.0], [1.0, 2.0]]), torch.tensor([0, 1])
    batch = {
        "teacher_logits": torch.tensor([[2.0, 0.0], [0.0, 1.0]]),
        "labels": labels,
        "attention_mask": mask,
        "paired_mask": mask,
        "teacher_hidden": torch.stack([states(1), states(2)], dim=2),
    }  # (B, N, layers, D)
    outputs = SimpleNamespace(logits=logits, hidden_states=(states(9), states(3), states(4)))  # the first are the embeddings
    plain, _ = distillation.lesson(TASK, outputs, batch, temperature=2.0, alpha=0.7)
    loss, terms = distillation.lesson(TASK, outputs, batch, temperature=2.0, alpha=0.7, hidden_weight=0.5)
    hidden = distillation.hidden_state_loss([states(3), states(4)], [states(1), states(2)], mask)
    alone, _ = distillation.distillation_loss(TASK, logits, batch["teacher_logits"], labels, temperature=2.0, alpha=0.7)
    assert float(plain) == float(alone)
    assert (
        float(loss) == pytest.approx(float(plain + 0.5 * hidden))
        and float(terms["hidden"]) == float(hidden)
        and set(terms) == {"soft", "hard", "hidden"}
    )
