"""Stage 3: prune heads and FFN neurons while the teacher keeps teaching, cut them out, recover.

KGSP (knowledge-guided structured pruning) scores every head and neuron by its weights and by how much the distillation loss
feels its gate; MSP (multi-structure pruning) ranks each kind over all layers; sparsity follows the cubic schedule of
Zhu & Gupta (2017) while temperature and alpha fall from soft targets to hard labels (--prune-vocab cuts word pieces first):

    warm up  ->  prune (s = s_f·(1 − (1 − t)³))  ->  cut (zeros leave the file)  ->  recover (the small model trains on)

    python 8_pruning_with_finetuning.py [--fast] [--variant deep]    student + teacher -> models/pruning_with_finetuning_<ts>/
    python 8_pruning_with_finetuning.py --preset max --after near    on from what --preset near made, to a smaller budget

Twelve minutes on two cores for the whole of SST-2 and a student of three layers; two minutes with --fast on the package sentences.
"""

import argparse
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -I leaves it out

from common import cli

# Operating points by name: what each sets, unless a flag says otherwise.
FROM_TEACHER = {"from_teacher": True, "importance": "kd_grad", "prune_vocab": 1.0, "spare_pieces": 2_500, "freeze_embeddings": True,
                "augment": 500_000, "alpha_start": 1.0, "alpha_end": 1.0, "temperature_start": 1.0, "temperature_end": 1.0,
                "hidden_weight": 0.0, "prune_epochs": 0.1, "prune_to": 0.8, "epochs": 1.0, "prune_lr": 2e-4, "lr": 2e-4,
                "batch_size": 128, "patience": 0, "dropout": 0.0, "prune_every": 10}
SMALLER = FROM_TEACHER | {"prune_lr": 2.5e-4, "lr": 3e-4}  # what must change more learns faster
PRESETS = {"published": {}, "deep": {}, "near": FROM_TEACHER, "balanced": SMALLER, "max": SMALLER}
SPARSITIES = {"published": (0.3, 0.2), "deep": (0.65, 0.65)}  # of heads, of neurons
SHARES = (0.5, 0.35, 0.25, 0.18, 0.125, 0.085, 0.06, 0.04)  # of the teacher's FLOPs, in which --max-accuracy-drop goes down
BLOCK = 0.003  # of the teacher's FLOPs: about what a block's operators take at batch 1, whatever their size
JUDGES = 6_400  # training sentences that say which channels a narrower model keeps
BUDGETS = {"near": 0.22, "balanced": 0.12, "max": 0.099}  # of the teacher's FLOPs, where no other budget is asked for


def parse_args(argv=None):
    parser = cli.StageParser(__doc__)
    group = parser.add_argument_group("pruning")
    group.add_argument("--preset", "--variant", dest="variant", choices=PRESETS, default="published",
                       help="the operating point: sets the flags below, and what it makes is known by its name")
    group.add_argument("--student", type=cli.path, metavar="DIR", default=None, help="the distilled checkpoint; else the newest")
    group.add_argument("--teacher", type=cli.path, metavar="DIR", default=None, help="the teacher's checkpoint; else the student's own")
    group.add_argument("--from-teacher", action="store_true", help="prune the teacher itself, with all its layers, and no student")
    group.add_argument("--first-layers", type=cli.count, default=None, metavar="N",
                       help="prune its first N layers, the others go at once: fewer layers of more heads and neurons for the same budget")
    group.add_argument("--name", type=cli.name, default=None, help="what it makes is known by this name instead of the preset's")
    group.add_argument("--after", type=cli.name, metavar="NAME", default=None,
                       help="go on from the newest model of this preset or name and of the same seed, instead of a student or the "
                            "teacher: one recovery helps the next (as ZipLM makes its families)")
    group.add_argument("--head-sparsity", type=cli.fraction, default=None, metavar="SHARE",
                       help="share of heads to cut; else the preset's (published .3, deep .65)")
    group.add_argument("--ffn-sparsity", type=cli.fraction, default=None, metavar="SHARE",
                       help="share of FFN neurons to cut; else the preset's (published .2, deep .65)")
    group.add_argument("--heads", type=cli.not_negative_count, nargs="+", default=None, metavar="N",
                       help="with --neurons, instead of two sparsities: the very structure, heads and FFN neurons of each layer, first to "
                            "last, as when seeds are to share what one of them found; 0 empties a block")
    group.add_argument("--neurons", type=cli.not_negative_count, nargs="+", default=None, metavar="N", help="see --heads")
    group.add_argument("--target-flops", type=cli.share, default=None, metavar="SHARE",
                       help="instead of two sparsities one budget for heads, neurons and whole blocks: this share of the teacher's FLOPs, "
                            "counted at 128 tokens; else the preset's (near .22, balanced .12, max .099)")
    group.add_argument("--target-mb", type=cli.positive, default=None, metavar="MB",
                       help="instead of two sparsities: the megabytes of the 4-bit checkpoint that may come of it")
    group.add_argument("--target-speedup", type=cli.positive, default=None, metavar="TIMES",
                       help="instead of two sparsities, or beside one of the budgets above: how many times as fast as the teacher in "
                            "torch the int8 export is to be, by a table of latencies measured on this machine")
    group.add_argument("--max-accuracy-drop", type=cli.not_negative, default=None, metavar="POINTS",
                       help="instead of two sparsities: prune on and on, each model from the last, for as long as held-out accuracy stays "
                            "within so many points of the teacher's; models/smallest then leads to the last that did")
    group.add_argument("--at-batch", choices=["1", "32"], default="1", help="the batch size that --target-speedup is about")
    group.add_argument("--importance", choices=["random", "l2", "kd_grad", "l2+kd_grad"], default="l2+kd_grad",
                       help="what scores heads and neurons")
    parser.preset(group, "--prune-epochs", type=cli.passes_or_none, full=1.0, fast=1.0,
                  help="epochs of warming up and pruning; 0 prunes nothing: behind --after the same model learns on")
    group.add_argument("--prune-from", type=cli.fraction, default=0.1, metavar="SHARE", help="share of these after which sparsity rises")
    group.add_argument("--prune-to", type=cli.weight, default=0.7, metavar="SHARE", help="share of these after which it stays")
    group.add_argument("--prune-every", type=cli.count, default=20, metavar="STEPS", help="steps between two rankings")
    group.add_argument("--prune-lr", type=cli.positive, default=None, help="peak learning rate of these epochs; else --lr")
    group.add_argument("--min-neurons", type=cli.count, default=8,
                       help="neurons that stay in every layer (and one head does); under a budget whole blocks may go")
    group.add_argument("--prune-vocab", type=cli.weight, default=None, metavar="COVERAGE",
                       help="cut word pieces too: keep the most frequent, which cover this share of the training set's pieces "
                            "(1 keeps all that it uses), and every single character; else all stay")
    group.add_argument("--spare-pieces", type=cli.not_negative_count, default=0, metavar="N",
                       help="with --prune-vocab: keep N more that the training set never uses, for words to come")
    group.add_argument("--hidden-width", type=cli.count, default=None, metavar="D",
                       help="keep the D channels of the hidden states that the answer feels most (a multiple of a head's width): a budget "
                            "then has more for heads and neurons; else all stay")
    group.add_argument("--embedding-rank", type=cli.count_or_share, default=None, metavar="R",
                       help="keep R numbers of each word piece (below 1: a share of the model's width), and one map onto that width, "
                            "instead of a row as wide as the model: chosen so that the pieces that are read most lose least; else the "
                            "table stays as it is")
    parser.preset(group, "--augment", type=cli.count, full=None, fast=None, metavar="N", unset="none",
                  help="learn from N more sentences, made of the training sentences and labelled by the teacher")
    group.add_argument("--freeze-embeddings", action=argparse.BooleanOptionalAction, default=False,
                       help="leave the embedding tables as they are, but for rounding them to 4 bits: words that are seldom met keep what "
                            "the teacher knew of them, and the rest learns to live with the rounding")
    group.add_argument("--dropout", type=cli.fraction, default=None, metavar="SHARE",
                       help="dropout while pruning and in recovery; else the student's own")
    group.add_argument("--temperature-start", type=cli.temperature, default=10.0, help="T at the first step of pruning")
    group.add_argument("--temperature-end", type=cli.temperature, default=2.0, help="T when sparsity is reached, and in recovery")
    group.add_argument("--alpha-start", type=cli.weight, default=0.9, help="weight of the soft targets at the first step of pruning")
    group.add_argument("--alpha-end", type=cli.weight, default=0.2, help="that weight when sparsity is reached, and in recovery")
    group.add_argument("--hidden-weight", type=cli.not_negative, default=1.0, help="weight of the hidden-state loss; 0 leaves it out")
    parser.training_flags(epochs=(2, 2), lr=5e-5, what="recovery")
    args = parser.parse(argv, recipes=PRESETS, fast={"augment": 12_000, "prune_epochs": 0.5, "epochs": 2.0})
    parser.refuse_idle(
        ("--from-teacher", args.after is not None, "with --after, which goes on from another model"),
        ("--at-batch", args.target_speedup is None, "without --target-speedup"),
        ("--temperature-start --temperature-end --augment", args.alpha_start == args.alpha_end == 0, "with --alpha-start 0 --alpha-end 0"),
        ("--prune-lr --importance --head-sparsity --ffn-sparsity --min-neurons --temperature-start --alpha-start", not args.prune_epochs,
         "with --prune-epochs 0, which prunes nothing"))
    targets = [target for target in (args.target_flops, args.target_mb, args.target_speedup, args.max_accuracy_drop) if target is not None]
    if len(targets) > (1 if args.max_accuracy_drop is not None else 2):
        parser.error("give one budget, or two of --target-flops, --target-mb and --target-speedup, or --max-accuracy-drop alone")
    if (args.heads is None) != (args.neurons is None) or (args.heads and len(args.heads) != len(args.neurons)):
        parser.error("give --heads and --neurons together, a number a layer each")
    if args.heads and (targets or not args.prune_epochs):
        parser.error("give --heads and --neurons in place of a budget, and --prune-epochs above 0, in which a model is pruned to them")
    if args.heads and not any(args.heads):
        parser.error("--heads: one head at least has to stay: a model without any reads no text")
    if args.prune_from >= args.prune_to:
        parser.error(f"--prune-from {args.prune_from:g}: give less than --prune-to, which is {args.prune_to:g}")
    if not targets and not args.heads:
        args.target_flops = BUDGETS.get(args.variant)
    if (targets or args.target_flops or args.heads) and (args.head_sparsity is not None or args.ffn_sparsity is not None):
        parser.error("give a budget (some presets have one), a structure or sparsities: one of them")
    parser.refuse_idle(("--min-neurons", bool(targets or args.target_flops or args.heads),
                        "under a budget (some presets have one) or a structure, which may empty whole blocks"))
    if args.spare_pieces and args.prune_vocab is None:
        parser.error("--spare-pieces spares some of what --prune-vocab cuts: give that too")
    if args.after is not None:
        if args.student is not None:
            parser.error("give --student or --after, not both")
        args.from_teacher = False
    if args.from_teacher and args.student is not None:
        parser.error("give --student, or --from-teacher (or a preset that means it), not both")
    heads, neurons = SPARSITIES.get(args.variant, SPARSITIES["published"])
    args.head_sparsity = heads if args.head_sparsity is None else args.head_sparsity
    args.ffn_sparsity = neurons if args.ffn_sparsity is None else args.ffn_sparsity
    args.preset, args.variant = args.variant, args.name or args.variant
    return args


def budgets_of(args, shape, teacher, texts: list[str], word_pieces: int) -> list:
    """The budgets (`compress.budget.Budget`) that flags ask for; none where they ask for sparsities. Refuses what can't be had."""
    import torch

    from common import cores, measure
    from compress import budget, costs
    from deploy import latency_table

    asked = []
    if args.target_flops is not None:
        tokens = min(128, shape.max_position_embeddings)
        whole = measure.flops(measure.countable_twin(teacher.path), tokens)
        per_block = BLOCK * whole if args.target_speedup is None else 0.0  # a latency says what blocks cost
        asked.append(budget.Budget(costs.Flops(tokens, shape), args.target_flops, whole, "of the teacher's FLOPs", per_block))
    if args.target_mb is not None:
        asked.append(budget.Budget(costs.Bytes(shape, word_pieces), args.target_mb, 1e6, "MB in 4 bits"))
    if args.target_speedup is not None:
        table = latency_table.of(shape, teacher, texts, args.run_dir, cores.usable())["batches"][args.at_batch]
        asked.append(budget.Budget(costs.Latency(table), table["teacher"] / args.target_speedup, 1.0, f"ms at batch {args.at_batch}"))
    for one in asked:
        if one.total <= one.prices.other:
            raise cli.UserError(f"{one.asked:g} {one.name} can't be had: what pruning doesn't touch is "
                                f"{one.prices.other / one.unit:.4g}: ask for more" + ("" if args.prune_vocab else ", or --prune-vocab 1"))
    whole = [torch.ones(units) for units in [*shape.heads, *shape.ffn]]
    try:
        if asked:
            budget.keep_worthiest(whole, whole, asked)
    except ValueError:
        wanted = " and ".join(f"{one.asked:g} {one.name}" for one in asked)
        raise cli.UserError(f"{wanted} can't be had: a single head costs more: ask for more" +
                            ("" if args.prune_vocab else ", or --prune-vocab 1")) from None
    return asked


def main(args):
    if args.max_accuracy_drop is None:
        prune(args)
    else:
        prune_until_it_costs(args)


def prune_until_it_costs(args) -> None:
    """Prunes to one budget after the other, until the held-out sentences and their phrases are answered too much worse."""
    from common import checkpoints, data, inspection, lengths

    corpus = data.load(args)

    def accuracy(checkpoint) -> float:
        tokenizer = checkpoints.load_tokenizer(checkpoint.path)
        judged = data.tokenise(tokenizer, corpus.held_out, lengths.read_by(checkpoint))
        return inspection.accuracy(checkpoints.load_model(checkpoint.path), judged, data.Collator(tokenizer.pad_token_id))

    kept, name, before, aim = None, args.variant, args.after, None
    for share in SHARES:
        step = argparse.Namespace(**vars(args) | {"variant": f"{name}-{share:g}", "target_flops": share, "after": before})
        step.from_teacher = args.from_teacher and before is None
        made = prune(step)
        if aim is None:
            teacher = checkpoints.parent(args.run_dir, made, "teacher", args.teacher)
            aim = accuracy(teacher) - args.max_accuracy_drop / 100
        reached = accuracy(made)
        cli.say(f"{made.variant}: {100 * reached:.2f} % of {len(corpus.held_out)} held-out sentences and phrases, {100 * aim:.2f} % wanted")
        if reached < aim:
            break
        kept, before = made, made.variant
        checkpoints.point(args.run_dir / "models" / "smallest", kept.path)
    if kept is None:
        raise cli.UserError(f"{SHARES[0]:g} of the FLOPs cost more than {args.max_accuracy_drop:g} points already: allow more, or train "
                            "longer (--epochs, --augment)")
    cli.say(f"smallest within {args.max_accuracy_drop:g} points: {kept.path}, the variant {kept.variant}")


def origin(args):
    """(what is pruned, the teacher of it), two checkpoints; the same one twice with --from-teacher."""
    from common import checkpoints

    if args.from_teacher:
        teacher = checkpoints.find(args.run_dir, "teacher", args.teacher, seed=args.seed)
        return teacher, teacher
    if args.after is None:
        student = checkpoints.find(args.run_dir, "distilled", args.student, seed=args.seed)
    else:
        student = checkpoints.find(args.run_dir, "pruned", variant=args.after, seed=args.seed)
        if student.manifest["seed"] != args.seed:
            raise cli.UserError(f"no '{args.after}' of seed {args.seed} under {args.run_dir / 'models'}: make it first, or give "
                                f"--seed {student.manifest['seed']}")
    return student, checkpoints.parent(args.run_dir, student, "teacher", args.teacher)


def refuse_what_the_model_lacks(args, config) -> None:
    """Raises UserError where flags ask for more layers, heads, neurons or channels than a model of this config has."""
    depth = args.first_layers or config.n_layers
    if depth > config.n_layers:
        raise cli.UserError(f"--first-layers {depth}: the model has {config.n_layers}, give less")
    heads, neurons = config.heads[:depth], config.ffn[:depth]
    asked = [*(args.heads or heads), *(args.neurons or neurons)]
    if len(asked) != 2 * depth or any(n > most for n, most in zip(asked, heads + neurons, strict=True)):
        raise cli.UserError(f"--heads and --neurons ask for what isn't there: the model has heads {heads}, neurons {neurons}")
    if not any(heads):
        raise cli.UserError(f"--first-layers {depth}: no head is left in these layers, and a model without any reads no text: give more")
    if args.prune_epochs and args.min_neurons >= max(neurons) and args.ffn_sparsity and not (args.heads or budgeted(args)):
        raise cli.UserError(f"--min-neurons {args.min_neurons}: no layer has more (neurons {neurons}), so none would be cut: give less, or "
                            "--ffn-sparsity 0")
    wide = args.hidden_width or config.dim
    if wide > config.dim or wide % config.head_dim:
        raise cli.UserError(f"--hidden-width {wide}: the model is {config.dim} wide and its heads {config.head_dim}, give a "
                            "multiple of these")
    rank = rank_of(args.embedding_rank, config, wide)
    if rank and rank > wide:
        raise cli.UserError(f"--embedding-rank {rank}: the model is {wide} wide, give less")


def budgeted(args) -> bool:
    """Whether a budget is asked for, and not sparsities or a structure."""
    return any(target is not None for target in (args.target_flops, args.target_mb, args.target_speedup, args.max_accuracy_drop))


def rank_of(asked: float | None, config, wide: int) -> int | None:
    """Numbers of a word piece that are `asked` for, of a model that is to be `wide`; the model's own where nothing is."""
    if asked is None:
        return config.embedding_rank
    return max(1, round(asked * wide)) if asked < 1 else int(asked)


def prune(args):
    """The stage: prunes to one budget or to two sparsities, and recovers. Returns the checkpoint."""
    import torch

    import compact
    from common import checkpoints, data, distillation, distributed, encoders, facts, inspection, lengths
    from compress import augmentation, budget, costs, factorisation, importance, masking, qat, schedule, surgery, vocabulary, width
    from deploy import latency_table
    from training import teacher_cache
    from training.trainer import StageTrainer, best_accuracy, fit, make_trainer, prepare

    # --- 1. load
    corpus = data.load(args)
    student, teacher = origin(args)
    checkpoints.same_data(student, corpus.facts)
    checkpoints.same_data(teacher, corpus.facts)
    model = checkpoints.load_model(student.path)
    length = lengths.trained_on(args.max_length, [student, teacher], model.config, encoders.load_config(teacher.path))
    args = cli.replaced(args, max_length=length)
    tokenizer = checkpoints.load_tokenizer(student.path)
    sentences = data.part(corpus.train, args.train_sentences, args.seed)
    kept, spelling = None, data.spelling(tokenizer)
    if args.prune_vocab is not None and not vocabulary.can_be_cut(spelling):
        kind = f"only WordPiece vocabularies can be cut, and that of {student.path} is one of {spelling['model']['type']}"
        if args.prune_vocab != PRESETS[args.preset].get("prune_vocab"):
            raise cli.UserError(f"--prune-vocab {args.prune_vocab:g}: {kind}: leave it out, or take a preset, which then goes on without")
        cli.say(f"{kind}: --preset {args.preset} leaves it whole")
        args = argparse.Namespace(**vars(args) | {"prune_vocab": None, "spare_pieces": 0})
    if args.prune_vocab is not None:
        kept = vocabulary.keep_pieces(spelling, data.piece_counts(tokenizer, sentences.texts), args.prune_vocab,
                                      args.spare_pieces)
    if args.from_teacher:
        model = encoders.compact_of_teacher(model, corpus.label_names)
    if args.dropout is not None:
        model.config.dropout = model.config.attention_dropout = model.config.seq_classif_dropout = args.dropout
    model = compact.from_distilbert(model)
    refuse_what_the_model_lacks(args, model.config)
    if args.first_layers:
        model = surgery.of_layers(model, list(range(args.first_layers)))
    wide = args.hidden_width or model.config.dim
    rank = rank_of(args.embedding_rank, model.config, wide)
    shape = width.shape_of(model.config, wide)
    shape.embedding_rank = rank
    asked = budgets_of(args, shape, teacher, corpus.validation.texts, len(kept) if kept else model.config.vocab_size)
    parents = [teacher] if args.from_teacher else [student, teacher]
    decides = {}
    if args.target_speedup is not None:  # another machine's latencies make another structure
        decides["latencies"] = facts.sha256_file(latency_table.path_of(shape, teacher, args.run_dir))[:16]
    stage = checkpoints.begin(args, "pruned", "pruning_with_finetuning", corpus.facts, parents, variant=args.variant, decides=decides)
    if stage.done:
        return stage.done
    prepare(args.seed)
    before = model.num_parameters()
    if kept is not None:
        # First of all: what trains on is spelled as it will be in use. Rows that leave were never looked up, or hardly ever.
        tokenizer = data.respelled(tokenizer, vocabulary.cut_spelling(spelling, kept))
        vocabulary.cut_table(model, kept)
        cli.say(f"vocabulary: {len(spelling['model']['vocab']):,} -> {len(kept):,} word pieces")
    if wide != model.config.dim:
        judged = data.tokenise(tokenizer, data.part(sentences, JUDGES, args.seed), args.max_length)
        batches = torch.utils.data.DataLoader(judged, batch_size=32, collate_fn=data.Collator(tokenizer.pad_token_id))
        model = width.narrowed(model, wide, width.scores(model, batches))
    if rank != model.config.embedding_rank:
        factorisation.factorise(model, data.piece_counts(tokenizer, sentences.texts), rank)
    layers = encoders.hidden_layers_to_match(model.config, encoders.load_config(teacher.path), args.hidden_weight)
    hidden_weight = args.hidden_weight if layers else 0.0
    made_up = []
    if args.augment is not None:
        table = checkpoints.load_model(teacher.path).get_input_embeddings().weight.detach()
        made_up = augmentation.new_sentences(sentences.texts, list(data.phrases_inside(sentences.texts)), table,
                                             checkpoints.load_tokenizer(teacher.path).get_vocab(), args.augment)
        if len(made_up) < args.augment:
            cli.say(f"--augment {args.augment}: {len(made_up):,} new sentences can be made of these texts and the teacher's whole-word "
                    "pieces; training goes on with " + ("these" if made_up else "the texts alone"))
    lessons, taught = teacher_cache.lessons(teacher, sentences, made_up, args.max_length, args.run_dir, layers,
                                            args.matmul_precision)
    train = data.tokenise(tokenizer, lessons, args.max_length, numbered=True)
    validation = data.tokenise(tokenizer, corpus.validation, args.max_length)
    collator = teacher_cache.TeacherCollator(tokenizer.pad_token_id, taught)
    if args.freeze_embeddings:
        qat.freeze_tables(model)
    head_gates, neuron_gates = masking.attach(model)
    for one in asked if not args.prune_epochs else []:
        has = budget.spent([gate.mask for gate in head_gates + neuron_gates], one.prices)
        if has > one.total:
            raise cli.UserError(f"--prune-epochs 0 prunes nothing, and {student.path} has {has / one.unit:.4g} {one.name}, "
                                f"{one.asked:.4g} asked for: go on --after a model that is small enough, or prune")
    # Behind another preset the order of sentences goes on with the next pass: the same again would be known by heart.
    passed = student.manifest["metrics"].get("passes", 0)

    # --- 2. warm up and prune: the gates' gradients score, the schedule says how many close
    def scores_of(gates: list, sides: list) -> list:
        """What each unit is worth: for each gate a tensor (U,)."""
        generator = torch.Generator().manual_seed(args.seed)
        return importance.joint_scores(args.importance, [importance.magnitude(*both).cpu() for both in sides],
                                       [gate.sensitivity.cpu() for gate in gates], generator)

    def rank_and_close(share: float) -> None:
        """Closes gates until `share` of the way to the final sparsities, or to the budgets, is gone."""
        heads = [masking.weights_of_heads(layer.attention) for layer in model.layers()]
        neurons = [masking.weights_of_neurons(layer.ffn) for layer in model.layers()]
        gates = head_gates + neuron_gates
        alive = [gate.mask.cpu() for gate in gates]
        if args.heads:
            masks = importance.keep_counts(scores_of(gates, heads + neurons), alive, args.heads + args.neurons, share)
        elif not asked:
            masks = importance.keep_best(scores_of(head_gates, heads), alive[:len(heads)], args.head_sparsity * share, 1)
            masks += importance.keep_best(scores_of(neuron_gates, neurons), alive[len(heads):], args.ffn_sparsity * share, args.min_neurons)
        else:
            masks = budget.keep_worthiest(scores_of(gates, heads + neurons), alive, asked, share)
        for gate, mask in zip(gates, masks, strict=True):
            gate.mask.copy_(mask)

    class Pruner(StageTrainer):
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
                gate.accumulate(distributed.mean)
            if self.state.global_step % args.prune_every == 0:
                rank_and_close(schedule.cubic_sparsity(1.0, self.at()))
            return loss

    pace = argparse.Namespace(**vars(args) | {"lr": args.prune_lr or args.lr})
    if args.prune_epochs:
        pruner = make_trainer(Pruner, stage, "prune", model, pace, train, validation, collator, epochs=args.prune_epochs,
                                       keep_best=False, first_epoch=passed)
        if args.prune_every >= pruner.args.max_steps:
            cli.say(f"--prune-every {args.prune_every}: pruning takes {pruner.args.max_steps} steps, so heads and neurons are ranked once, "
                    "at their end")
        fit(pruner, stage)
        rank_and_close(1.0)

    # --- 3. cut: what the gates zeroed leaves the model; its logits must not notice
    small = surgery.cut(model, [g.mask for g in head_gates], [g.mask for g in neuron_gates])
    gap = inspection.logits_gap(model, small, collator([validation[i] for i in range(min(32, len(validation)))]))
    if not gap <= 1e-4:
        raise RuntimeError(f"the cut model's logits differ from the masked one's by {gap:.1e}")
    small, kept_layers = surgery.without_empty_layers(small, collator([validation[i] for i in range(min(32, len(validation)))]))
    cli.say(f"cut: heads {small.config.heads}, neurons {small.config.ffn}; {before:,} -> {small.num_parameters():,} parameters")

    # --- 4. recover
    class Recoverer(StageTrainer):
        def stage_loss(self, model, inputs, outputs):
            if hidden_weight:
                inputs["teacher_hidden"] = inputs["teacher_hidden"][:, :, kept_layers]
            return distillation.lesson(outputs, inputs, hidden_weight=hidden_weight, temperature=args.temperature_end,
                                       alpha=args.alpha_end)

    recoverer = make_trainer(Recoverer, stage, "recover", small, args, train, validation, collator, epochs=args.epochs,
                                      first_epoch=passed)
    fit(recoverer, stage)

    # --- 5. save
    stage.metrics["validation_accuracy"] = best_accuracy(recoverer)
    stage.metrics["passes"] = passed + math.ceil(args.epochs)
    stage.metrics["budgets"] = []
    for one in asked:
        spent = budget.spent([gate.mask for gate in head_gates + neuron_gates], one.prices)
        stage.metrics["budgets"].append({"name": one.name, "asked": one.asked, "spent": spent / one.unit})
        if isinstance(one.prices, costs.Latency):
            stage.metrics["predicted_speedup"] = args.target_speedup * one.total / spent
        cli.say(f"budget: {one.asked:.4g} {one.name} asked for, {spent / one.unit:.4g} spent")
    compact.save(small, stage.dir)
    checkpoints.save_tokenizer(tokenizer, stage.dir, args.max_length)
    published = checkpoints.read(stage.publish())
    cli.say(f"pruned: held-out accuracy {stage.metrics['validation_accuracy']:.4f} "
            f"(its student: {student.manifest['metrics']['validation_accuracy']:.4f})")
    return published


if __name__ == "__main__":
    cli.run(main, parse_args())
