"""Stage 3: prune heads and FFN neurons while the teacher keeps teaching, cut them out, recover.

KGSP (knowledge-guided structured pruning) scores every head and neuron by its weights and by how much the distillation loss
feels its gate; MSP (multi-structure pruning) ranks each kind over all layers; sparsity follows the cubic schedule of
Zhu & Gupta (2017) while temperature and alpha fall from soft targets to hard labels (--prune-vocab cuts word pieces first):

    warm up  ->  prune (s = s_f·(1 − (1 − t)³))  ->  cut (zeros leave the file)  ->  recover (the small model trains on)

    python 8_pruning_with_finetuning.py [--fast] [--variant deep]    student + teacher -> models/pruning_with_finetuning_<ts>/

Twelve minutes on two cores for the whole of SST-2 and a student of three layers; two minutes with --fast on the package sentences.
"""

from pathlib import Path

from common import cli

SPARSITIES = {"published": (0.3, 0.2), "deep": (0.65, 0.65)}  # of heads, of neurons


def parse_args(argv=None):
    parser = cli.StageParser(__doc__)
    group = parser.add_argument_group("pruning")
    group.add_argument("--student", type=Path, metavar="DIR", default=None, help="the distilled checkpoint; else the newest")
    group.add_argument("--teacher", type=Path, metavar="DIR", default=None, help="the teacher's checkpoint; else the student's own")
    group.add_argument("--variant", choices=SPARSITIES, default="published", help="the operating point, with its sparsities")
    group.add_argument("--head-sparsity", type=cli.fraction, default=None, metavar="SHARE",
                       help="share of heads to cut; else the variant's (published .3, deep .65)")
    group.add_argument("--ffn-sparsity", type=cli.fraction, default=None, metavar="SHARE",
                       help="share of FFN neurons to cut; else the variant's (published .2, deep .65)")
    group.add_argument("--target-flops", type=cli.share, default=None, metavar="SHARE",
                       help="instead of two sparsities one budget for heads and neurons: this share of the teacher's FLOPs, "
                            "counted at 128 tokens")
    group.add_argument("--importance", choices=["random", "l2", "kd_grad", "l2+kd_grad"], default="l2+kd_grad",
                       help="what scores heads and neurons")
    parser.preset(group, "--prune-epochs", type=cli.positive, full=1.0, fast=1.0, help="epochs of warming up and pruning")
    group.add_argument("--prune-from", type=cli.fraction, default=0.1, metavar="SHARE", help="share of these after which sparsity rises")
    group.add_argument("--prune-to", type=cli.weight, default=0.7, metavar="SHARE", help="share of these after which it stays")
    group.add_argument("--prune-every", type=cli.count, default=20, metavar="STEPS", help="steps between two rankings")
    group.add_argument("--min-neurons", type=cli.count, default=8, help="neurons that stay in every layer (and one head does)")
    group.add_argument("--prune-vocab", type=cli.weight, default=None, metavar="COVERAGE",
                       help="cut word pieces too: keep the most frequent, which cover this share of the training set's pieces "
                            "(1 keeps all that it uses), and every single character; else all stay")
    group.add_argument("--temperature-start", type=cli.positive, default=10.0, help="T at the first step of pruning")
    group.add_argument("--temperature-end", type=cli.positive, default=2.0, help="T when sparsity is reached, and in recovery")
    group.add_argument("--alpha-start", type=cli.weight, default=0.9, help="weight of the soft targets at the first step of pruning")
    group.add_argument("--alpha-end", type=cli.weight, default=0.2, help="that weight when sparsity is reached, and in recovery")
    group.add_argument("--hidden-weight", type=cli.not_negative, default=1.0, help="weight of the hidden-state loss; 0 leaves it out")
    parser.training_flags(epochs=(2, 2), lr=5e-5, what="recovery")
    args = parser.parse(argv)
    if args.target_flops is not None and (args.head_sparsity is not None or args.ffn_sparsity is not None):
        parser.error("give --target-flops or sparsities, not both")
    heads, neurons = SPARSITIES[args.variant]
    args.head_sparsity = heads if args.head_sparsity is None else args.head_sparsity
    args.ffn_sparsity = neurons if args.ffn_sparsity is None else args.ffn_sparsity
    return args


def main(args):
    import torch
    import transformers

    import compact
    from common import checkpoints, data, distillation, encoders, inspection, measure, teacher_cache, training
    from compress import budget, importance, masking, schedule, surgery, vocabulary

    # --- 1. load
    corpus = data.load(args)
    student = checkpoints.find(args.run_dir, "distilled", args.student)
    teacher = checkpoints.parent(args.run_dir, student, "teacher", args.teacher)
    checkpoints.same_data(student, corpus.facts)
    checkpoints.same_data(teacher, corpus.facts)
    shape = encoders.load_config(student.path)
    depth = encoders.depth(shape)
    at_least = [1] * depth + [args.min_neurons] * depth  # heads and neurons that stay in each layer
    if args.target_flops is not None:
        tokens = min(128, shape.max_position_embeddings)
        head_cost, neuron_cost = budget.head_flops(tokens, shape.dim, shape.dim // shape.n_heads), budget.neuron_flops(tokens, shape.dim)
        costs = [head_cost] * depth + [neuron_cost] * depth
        other = budget.other_flops(shape.dim, shape.num_labels)
        teacher_flops = measure.flops(measure.countable_twin(teacher.path), tokens)
        allowed = args.target_flops * teacher_flops - other
        least = sum(cost * n for cost, n in zip(costs, at_least, strict=True))
        if least > allowed:
            raise cli.UserError(f"--target-flops {args.target_flops} of the teacher's: one head and {args.min_neurons} neurons in each of "
                                f"{depth} layers need {(least + other) / teacher_flops:.4f}: ask for that or more, or lower --min-neurons")
    stage = checkpoints.begin(args, "pruned", "pruning_with_finetuning", corpus.facts, [student, teacher], variant=args.variant)
    if stage.done:
        return
    transformers.set_seed(args.seed)
    tokenizer = checkpoints.load_tokenizer(student.path)
    sentences = data.part(corpus.train, args.train_sentences, args.seed)
    model = compact.from_distilbert(checkpoints.load_model(student.path))
    before = model.num_parameters()
    if args.prune_vocab is not None:
        # First of all: what trains on is spelled as it will be in use. Rows that leave were never looked up, or hardly ever.
        spelling = data.spelling(tokenizer)
        kept = vocabulary.keep_pieces(spelling, data.piece_counts(tokenizer, sentences.texts), args.prune_vocab)
        tokenizer = data.respelled(tokenizer, vocabulary.cut_spelling(spelling, kept))
        vocabulary.cut_table(model, kept)
        cli.say(f"vocabulary: {len(spelling['model']['vocab']):,} -> {len(kept):,} word pieces")
    train = data.tokenise(tokenizer, sentences, args.max_length, numbered=True)
    validation = data.tokenise(tokenizer, corpus.validation, args.max_length)
    layers = encoders.hidden_layers_to_match(model.config, encoders.load_config(teacher.path), args.hidden_weight)
    hidden_weight = args.hidden_weight if layers else 0.0
    taught = teacher_cache.outputs(teacher, sentences, args.max_length, args.run_dir, layers)
    collator = teacher_cache.TeacherCollator(tokenizer.pad_token_id, taught)
    head_gates, neuron_gates = masking.attach(model)

    # --- 2. warm up and prune: the gates' gradients score, the schedule says how many close
    def scores_of(gates: list, sides: list) -> list:
        """What each unit is worth: for each gate a tensor (U,)."""
        generator = torch.Generator().manual_seed(args.seed)
        return importance.joint_scores(args.importance, [importance.magnitude(*both) for both in sides],
                                       [gate.sensitivity for gate in gates], generator)

    def rank_and_close(share: float) -> None:
        """Closes gates until `share` of the way to the final sparsities, or to the budget, is gone."""
        heads = [masking.weights_of_heads(layer.attention) for layer in model.layers()]
        neurons = [masking.weights_of_neurons(layer.ffn) for layer in model.layers()]
        gates = head_gates + neuron_gates
        alive = [gate.mask for gate in gates]
        if args.target_flops is None:
            masks = importance.keep_best(scores_of(head_gates, heads), alive[:depth], args.head_sparsity * share, 1)
            masks += importance.keep_best(scores_of(neuron_gates, neurons), alive[depth:], args.ffn_sparsity * share, args.min_neurons)
        else:
            whole = sum(cost * gate.mask.numel() for cost, gate in zip(costs, gates, strict=True))
            now_allowed = whole - share * max(0, whole - allowed)
            masks = budget.keep_worthiest(scores_of(gates, heads + neurons), alive, costs, at_least, now_allowed)
        for gate, mask in zip(gates, masks, strict=True):
            gate.mask.copy_(mask)

    class Pruner(training.StageTrainer):
        def at(self) -> float:
            """How far pruning has come: 0 while warming up, 1 once sparsity is reached."""
            total = self.state.max_steps
            return schedule.progress(self.state.global_step, round(args.prune_from * total), round(args.prune_to * total))

        def stage_loss(self, model, inputs, outputs):
            return distillation.lesson(outputs, inputs, hidden_weight=hidden_weight,
                                       temperature=schedule.linear(args.temperature_start, args.temperature_end, self.at()),
                                       alpha=schedule.linear(args.alpha_start, args.alpha_end, self.at()))

        def training_step(self, model, inputs, num_items_in_batch=None):
            loss = super().training_step(model, inputs, num_items_in_batch)
            for gate in head_gates + neuron_gates:
                gate.accumulate()
            if self.state.global_step % args.prune_every == 0:
                rank_and_close(schedule.cubic_sparsity(1.0, self.at()))
            return loss

    pruner = training.make_trainer(Pruner, stage, "prune", model, args, train, validation, collator, epochs=args.prune_epochs,
                                   keep_best=False)
    training.fit(pruner, stage)
    rank_and_close(1.0)

    # --- 3. cut: what the gates zeroed leaves the model; its logits must not notice
    small = surgery.cut(model, [g.mask for g in head_gates], [g.mask for g in neuron_gates])
    gap = inspection.logits_gap(model, small, collator([validation[i] for i in range(min(32, len(validation)))]))
    if gap > 1e-4:
        raise RuntimeError(f"the cut model's logits differ from the masked one's by {gap:.1e}")
    if args.target_flops is not None:
        spent = sum(cost * int(gate.mask.sum()) for cost, gate in zip(costs, head_gates + neuron_gates, strict=True)) + other
        cli.say(f"FLOPs: {args.target_flops:.4f} of the teacher's asked for, {spent / teacher_flops:.4f} spent")
    cli.say(f"cut: heads {small.config.heads}, neurons {small.config.ffn}; {before:,} -> {small.num_parameters():,} parameters")

    # --- 4. recover
    class Recoverer(training.StageTrainer):
        def stage_loss(self, model, inputs, outputs):
            return distillation.lesson(outputs, inputs, hidden_weight=hidden_weight, temperature=args.temperature_end,
                                       alpha=args.alpha_end)

    recoverer = training.make_trainer(Recoverer, stage, "recover", small, args, train, validation, collator, epochs=args.epochs)
    training.fit(recoverer, stage)

    # --- 5. save
    stage.metrics["validation_accuracy"] = training.best_accuracy(recoverer)
    compact.save(small, stage.dir)
    tokenizer.save_pretrained(stage.dir)
    stage.publish()
    cli.say(f"pruned: held-out accuracy {stage.metrics['validation_accuracy']:.4f} "
            f"(its student: {student.manifest['metrics']['validation_accuracy']:.4f})")


if __name__ == "__main__":
    cli.run(main, parse_args())
