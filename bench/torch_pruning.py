"""A peer that must be trained: the teacher cut by Torch-Pruning to a share of its FLOPs, then taught as ours is, and exported as int8.

    PYTHON -m bench.torch_pruning RUN_DIR RUN_DIR/runs/trained/torch_pruning [--target-flops 0.099] [--epochs 3.9] [--data-dir DIR]

PYTHON is that of a venv with requirements.txt and bench/requirements-torch_pruning.txt. Every layer loses the same share of its
neurons, its heads' width and of the hidden width, those of the least group Taylor importance (Fang et al. 2023), at once and everywhere
alike, as the package's example for vision transformers does; its example for BERT goes by the size of the weights and takes whole heads.
The share is the least that meets the budget. Then the lessons and soft targets of stage 8's presets, at a rate
that suits a model which lost most of itself at once: theirs is for pruning little by little. On a GPU where there is one. Writes
model.onnx (onnxruntime's dynamic int8, unfused) and made.json.
"""

import copy
import math
import time

from bench import finished
from common import cli, forms

SCORED = 32  # batches whose gradients score the weights
TEMPERATURE = 1.0  # as in stage 8's presets
WARMUP = 0.06


def tokenised(taught):
    """Lessons in the teacher's spelling, with a collator that knows its answers."""
    from common import data, opening
    from common.texts import lengths
    from training import teacher_cache

    tokenizer = opening.load_tokenizer(taught.teacher.path)
    train = data.tokenise(tokenizer, taught.sentences, lengths.read_by(taught.checkpoint), numbered=True)
    return train, teacher_cache.TeacherCollator(tokenizer.pad_token_id, taught.logits)


def cut(model, share: float, batches: list[dict], loss_of):
    """A copy of a BERT classifier without `share` of its widths."""
    import torch_pruning
    from transformers.models.bert.modeling_bert import BertSelfAttention

    model = copy.deepcopy(model)
    attentions = [m for m in model.modules() if isinstance(m, BertSelfAttention)]
    heads = {linear: a.num_attention_heads for a in attentions for linear in (a.query, a.key, a.value)}
    example = {name: batches[0][name] for name in ("input_ids", "attention_mask")}
    pruner = torch_pruning.pruner.BasePruner(
        model, example, importance=torch_pruning.importance.GroupTaylorImportance(), pruning_ratio=share, num_heads=heads,
        prune_head_dims=True, output_transform=lambda out: out.logits.sum(), ignored_layers=[model.classifier])
    for batch in batches:
        loss_of(model, batch).backward()
    pruner.step()
    for attention in attentions:
        attention.num_attention_heads = pruner.num_heads[attention.query]
        attention.all_head_size = attention.query.out_features
        attention.attention_head_size = attention.all_head_size // attention.num_attention_heads
        attention.scaling = attention.attention_head_size**-0.5
    model.zero_grad()
    return model


def main(args) -> None:
    import onnx
    import torch
    import transformers
    from tqdm import tqdm

    from bench.rivals import onnxruntime
    from common import data, distillation, measure
    from deploy import onnx_export
    from training import lessons, precision
    from training.trainer import keep_freed_memory, set_dropout

    started = time.monotonic()
    transformers.set_seed(args.seed)
    keep_freed_memory()
    corpus = finished.corpus(args)
    taught = lessons.read(args.run_dir, lessons.find(args.run_dir, args.lessons, "augmented", args.seed), corpus.facts)
    teacher = taught.teacher
    conditions = finished.conditions(corpus, torch.get_num_threads())
    train, collate = tokenised(taught)
    lengths = data.lengths(train)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def batches(epoch: int):
        order = data.length_grouped_order(lengths, args.batch_size, args.seed, epoch)
        parts = [order[start:start + args.batch_size] for start in range(0, len(order), args.batch_size)]
        for batch in torch.utils.data.DataLoader(train, batch_sampler=parts, collate_fn=collate, num_workers=int(device == "cuda")):
            yield {name: value.to(device) for name, value in batch.items()}

    def loss_of(model, batch: dict):
        with precision.kept_short(args.matmul_precision, device):
            out = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        out.logits = out.logits.float()
        return distillation.lesson(out, batch, temperature=TEMPERATURE, alpha=1.0)[0]

    # --- 1. cut: the least share of all widths that meets the budget
    whole = transformers.AutoModelForSequenceClassification.from_pretrained(teacher.path, attn_implementation="eager").to(device).eval()
    scoring = [batch for batch, _ in zip(batches(0), range(SCORED), strict=False)]

    def flops(model) -> int:
        return measure.flops(copy.deepcopy(model).cpu(), 128)

    cost = flops(whole)
    least, most = 0.0, 0.95
    while most - least > 0.005:
        share = (least + most) / 2
        model = cut(whole, share, scoring[:1], loss_of)
        least, most = (least, share) if flops(model) <= args.target_flops * cost else (share, most)
    model = cut(whole, most, scoring, loss_of)
    kept = flops(model) / cost
    cli.say(f"{most:.3f} of all widths cut: {kept:.4f} of the FLOPs, {sum(p.numel() for p in model.parameters()):,} parameters")

    # --- 2. teach
    steps = math.ceil(args.epochs * math.ceil(len(train) / args.batch_size))
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.01, fused=True)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, math.ceil(WARMUP * steps), steps)
    set_dropout(model, 0.0)
    model.train()
    losses: list[float] = []
    stream = (batch for epoch in range(math.ceil(args.epochs)) for batch in batches(epoch))
    with precision.products(args.matmul_precision, model):
        for batch, _ in zip(tqdm(stream, total=steps, unit="step"), range(steps), strict=False):
            loss = loss_of(model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
            if len(losses) % 500 == 0:
                cli.say(f"  step {len(losses)}/{steps}  loss {sum(losses[-100:]) / 100:.4f}  {time.monotonic() - started:.0f} s")

    # --- 3. export
    args.output.mkdir(parents=True, exist_ok=True)
    onnx.save(onnx_export.export(model.cpu().eval()), args.output / "fp32.onnx")
    onnxruntime.dynamic_int8(args.output / "fp32.onnx", args.output / "model.onnx")
    made = {"target_flops": args.target_flops, "flops_share": kept, "widths_cut": most, "steps": steps, "batch_size": args.batch_size,
            "lr": args.lr, "lessons": taught.checkpoint.manifest["metrics"], "seed": args.seed,
            "loss": sum(losses[-100:]) / len(losses[-100:]), "minutes": (time.monotonic() - started) / 60}
    finished.write({**conditions, **made}, args.output / "made.json")


if __name__ == "__main__":
    parser = finished.parser(__doc__, "DIR", "where model.onnx goes")
    parser.add_argument("--target-flops", type=forms.share, default=0.099, help="share of the teacher's FLOPs that may stay")
    parser.add_argument("--epochs", type=forms.positive, default=3.9, help="passes over the sentences")
    parser.add_argument("--batch-size", type=forms.count, default=128, help="sentences a step")
    parser.add_argument("--lr", type=forms.positive, default=3e-4, help="peak learning rate")
    parser.add_argument("--lessons", type=forms.path, default=None, metavar="DIR", help="the lessons; else the newest augmented ones")
    parser.add_argument("--seed", type=int, default=1)
    cli.precision_flag(parser)
    cli.run(main, parser.parse_args())
