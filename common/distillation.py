"""The knowledge-distillation loss (Hinton et al. 2015; Sanh et al. 2019; Jiao et al. 2020), each term logged."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from common.tasks import Task


def hidden_state_loss(student_states: Sequence[torch.Tensor], teacher_states: Sequence[torch.Tensor],
                      attention_mask: torch.Tensor) -> torch.Tensor:
    """Mean squared error of paired hidden states (B, N, D) over real tokens (Jiao et al. 2020, equation 8); 0 where there are none.

    Both sides are layer-normalised first, so that only directions are compared, whatever each layer's scale.
    """
    real = attention_mask.bool()
    if not real.any():
        return student_states[0].new_zeros(())
    losses = []
    for student, teacher in zip(student_states, teacher_states, strict=True):
        s, t = student[real], teacher[real].to(student.dtype)  # (tokens, D)
        losses.append(F.mse_loss(F.layer_norm(s, s.shape[-1:]), F.layer_norm(t, t.shape[-1:])))
    return torch.stack(losses).mean()


def distillation_loss(task: Task, student_logits: torch.Tensor, teacher_logits: torch.Tensor, labels: torch.Tensor, *, temperature: float,
                      alpha: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """alpha·(the task's soft loss, of one class T²·KL) + (1−alpha)·(its loss, of one class CE): the loss, and its terms for the log.

    Of a text that nobody labelled only the teacher speaks.
    """
    soft = task.soft_loss(student_logits, teacher_logits, temperature)
    hard = task.loss(student_logits, labels)
    return alpha * soft + (1 - alpha) * hard, {"soft": soft.detach(), "hard": hard.detach()}


def lesson(task: Task, outputs, batch: dict[str, torch.Tensor], *, temperature: float, alpha: float,
           hidden_weight: float = 0.0) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A student's loss on a batch that the teacher has answered: `distillation_loss` + hidden_weight·`hidden_state_loss`.

    `outputs` are the student's, with hidden states where these count; `batch` is a `training.teacher_cache.TeacherCollator`'s.
    """
    loss, terms = distillation_loss(task, outputs.logits, batch["teacher_logits"], batch["labels"], temperature=temperature,
                                    alpha=alpha)
    if hidden_weight:
        hidden = hidden_state_loss(outputs.hidden_states[1:], batch["teacher_hidden"].unbind(2), batch["paired_mask"])
        loss, terms = loss + hidden_weight * hidden, terms | {"hidden": hidden.detach()}
    return loss, terms
