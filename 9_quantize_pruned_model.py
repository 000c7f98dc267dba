"""Stage 5: post-training quantisation to 4 bits, of the pruned model and of the distilled baseline.

NF4 in blocks of 64 with double quantisation (Dettmers et al. 2023), rounded by bitsandbytes. The embedding tables too: they
are most of a pruned model's bytes. The classifier head, biases and LayerNorms stay in float32. No sentence is needed.

    python 9_quantize_pruned_model.py [--fast] [--variant deep]     pruned  -> models/pruned_quantized_ptq_<mode>_<ts>/
                                                                    student -> models/distilled_quantized_<ts>/

Seconds. Both run on any CPU and on CUDA, at any width that pruning leaves.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -I leaves it out

from common import cli, forms


def parse_args(argv=None):
    parser = cli.StageParser(__doc__)
    group = parser.add_argument_group("quantisation")
    group.add_argument("--pruned", type=forms.path, metavar="DIR", default=None, help="the pruned checkpoint; else the variant's newest")
    group.add_argument("--student", type=forms.path, metavar="DIR", default=None, help="the distilled checkpoint; else the pruned one's")
    group.add_argument("--variant", default="published", help="the operating point whose pruned checkpoint is taken")
    parser.seeds_flag(group)
    return parser.inheriting(parser.parse(argv), "--pruned")


def main(args):
    from bitsandbytes.functional import quantize_4bit

    import compact
    from common import checkpoints, data, inspection, opening, publishing
    from common.texts import lengths
    from compact import nf4

    def pack_by_bitsandbytes(weight) -> nf4.Packed:
        codes, state = quantize_4bit(weight.detach().contiguous(), blocksize=nf4.BLOCK, quant_type="nf4", compress_statistics=True)
        return nf4.Packed(codes.view(-1), state.absmax, state.state2.absmax, state.offset)

    # --- 1. load
    corpus = data.load(args)
    pruned = checkpoints.find(args.run_dir, "pruned", args.pruned, args.variant, args.seed)
    checkpoints.same_seed(pruned, args.seed)
    asked = [(pruned, "pruned_ptq", f"pruned_quantized_ptq_{args.mode}", None)]
    if args.student or pruned.parent_key("distilled"):  # a preset that prunes the teacher has no student
        student = checkpoints.parent(args.run_dir, pruned, "distilled", args.student, "--student")
        asked.append((student, "distilled_ptq", "distilled_quantized", "models/distilled_quantized_student"))
    for source, name, prefix, link in asked:
        checkpoints.same_data(source, corpus.facts)
        variant = source.variant
        length = lengths.kept(args.max_length, source)
        of_source = cli.replaced(args, seed=source.manifest["seed"], max_length=length)  # its own, since nothing is trained
        stage = publishing.begin(of_source, name, prefix, corpus.facts, [source], variant=variant, link=link)
        if stage.done:
            continue
        tokenizer = opening.load_tokenizer(source.path)
        model = opening.load_model(source.path)
        if model.config.model_type == "distilbert":
            model = compact.from_distilbert(model)

        # --- 2. round and pack
        packed = model.packed_twin(pack_by_bitsandbytes)

        # --- 3. measure, save, and compare with what was saved
        validation = data.tokenise(tokenizer, corpus.validation, length)
        collate = data.Collator(tokenizer.pad_token_id)
        stage.metrics |= inspection.judged(corpus.task, packed, validation, collate)
        compact.save(packed, stage.dir)
        opening.save_tokenizer(tokenizer, stage.dir, length)
        reloaded = compact.CompactForSequenceClassification.from_pretrained(stage.dir)
        gap = inspection.logits_gap(packed, reloaded, collate([validation[i] for i in range(min(32, len(validation)))]))
        if not gap <= 1e-5:  # the same bytes; sums may differ in the last digit, by where in memory they lie
            raise RuntimeError(f"the saved model's logits differ from the packed one's by {gap:.1e}")
        target = stage.publish()
        sizes = [(path / "model.safetensors").stat().st_size / 1e6 for path in (source.path, target)]
        cli.say(f"{name}: {sizes[0]:.1f} -> {sizes[1]:.1f} MB, held-out {corpus.task.metric_name} {stage.validation:.4f} "
                f"(in full precision: {source.validation:.4f})")


if __name__ == "__main__":
    cli.run(main, parse_args())
