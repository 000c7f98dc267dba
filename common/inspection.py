"""What a stage checks of its own work: a model's accuracy on tokenised sentences, two models' logits on the same batch."""

import torch


@torch.no_grad()
def logits_gap(one, other, batch: dict[str, torch.Tensor]) -> float:
    """Largest difference of two models' logits on a batch of input_ids and attention_mask (B, N), both in evaluation mode."""
    asked = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    answers = [model.eval()(**{k: v.to(model.device) for k, v in asked.items()}).logits.cpu() for model in (one, other)]
    return float((answers[0] - answers[1]).abs().max())


@torch.no_grad()
def accuracy(model, dataset, collate, batch_size: int = 128) -> float:
    """Share of right answers on a tokenised data set."""
    right = 0
    for start in range(0, len(dataset), batch_size):
        batch = collate([dataset[i] for i in range(start, min(start + batch_size, len(dataset)))])
        logits = model.eval()(input_ids=batch["input_ids"].to(model.device), attention_mask=batch["attention_mask"].to(model.device)).logits
        right += int((logits.argmax(-1).cpu() == batch["labels"]).sum())
    return right / len(dataset)
