"""Stage 4: prune heads and FFN neurons while the teacher keeps teaching, cut them out, recover.

KGSP (knowledge-guided structured pruning) scores them by how much the distillation loss, or the logits, feel their gates, or by their
weights; MSP (multi-structure pruning) ranks them together, by sparsities, or so that a budget holds. Short recoveries choose between
structures.
Sparsity follows the cubic schedule of Zhu & Gupta (2017), while T and alpha fall:

    find a structure -> warm up -> prune (s = s_f·(1 − (1 − t)³)) -> cut (zeros leave the file) -> recover (the small model trains on)

    python 8_pruning_with_finetuning.py [--fast] [--preset deep]     student + lessons -> models/pruning_with_finetuning_<ts>/
    python 8_pruning_with_finetuning.py --preset near --budget flops=.1     the teacher itself, to a tenth of its FLOPs
"""

import argparse
import copy
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -I leaves it out

from common import cli, forms, recipes
from compress import ask

WARM_UP = 0.1  # share of the pruning steps in which nothing closes yet
RANKINGS = 20  # of heads and neurons, between there and where sparsity is reached
JUDGES = 2_048  # lessons that say what heads and neurons are worth before anything is learnt
SEARCHED = 0.25  # of the run's lessons, at most, go to the search for a structure


def parse_args(argv=None):
    parser = cli.StageParser(__doc__)
    group = parser.add_argument_group("pruning")
    group.add_argument("--preset", "--variant", dest="variant", choices=recipes.having("prune"), default="published",
                       help="the operating point: sets flags as recipes.toml says, and what it makes is known by its name")
    group.add_argument("--name", type=forms.name, default=None, help="what it makes is known by this name instead of the preset's")
    group.add_argument("--start", type=forms.named, default="student", metavar="teacher|student|NAME|DIR",
                       help="what is pruned: the teacher itself, the newest student, the newest pruned model of a name, a checkpoint")
    group.add_argument("--lessons", type=forms.path, default=None, metavar="DIR", help="texts with a teacher's answers; else the preset's")
    group.add_argument("--sparsity", type=forms.fraction, nargs=2, default=None, metavar=("HEADS", "NEURONS"), help="shares to cut")
    group.add_argument("--budget", type=ask.budget, action=ask.Together, nargs="+", default=None, metavar="WHAT=…",
                       help="instead, what may be left: flops=.1 (of the teacher's, at the texts' own length and at 128 tokens), mb=5 (in "
                            "4 bits), speedup=24@32 (int8 ONNX against the teacher in torch, at batch 32 or 1); several hold together")
    group.add_argument("--structure-of", type=forms.named, default=None, metavar="NAME|DIR",
                       help="instead, the heads and neurons that each layer of another pruned model kept, as when seeds share a structure")
    group.add_argument("--tries", type=forms.count, default=1, metavar="N", help="structures of a budget, tried by short recoveries")
    group.add_argument("--importance", choices=["random", "l2", "kd_grad", "l2+kd_grad", "curvature"], default=None,
                       help="what scores heads and neurons; else l2+kd_grad, under a budget curvature")
    parser.preset(group, "--prune-epochs", type=forms.passes_or_none, full=1.0, fast=1.0, help="epochs of pruning; 0: the model learns on")
    group.add_argument("--prune-to", type=forms.share, default=0.7, metavar="SHARE", help="share of these after which sparsity stays")
    group.add_argument("--prune-lr", type=forms.positive, default=None, help="peak learning rate of these epochs; else --lr")
    group.add_argument("--first-layers", type=forms.count, default=None, metavar="N", help="prune its first N layers; others go at once")
    group.add_argument("--prune-vocab", type=forms.weight, default=None, metavar="COVERAGE",
                       help="cut word pieces too: keep those that cover this share of your texts, and single characters")
    group.add_argument("--spare-pieces", type=forms.not_negative_count, default=0, metavar="N", help="and N more, for words to come")
    group.add_argument("--hidden-width", type=forms.count, default=None, metavar="D", help="keep the D channels that the answer feels most")
    group.add_argument("--embedding-rank", type=forms.count_or_share, default=None, metavar="R",
                       help="keep R numbers of each word piece (below 1: a share of the model's width), and one map onto that width")
    group.add_argument("--freeze-embeddings", action=argparse.BooleanOptionalAction, default=False,
                       help="round the embedding tables to 4 bits and leave them so: seldom words keep what the teacher knew of them")
    parser.distillation_flags(("10:2", "0.9:0.2"), moves=True)
    parser.training_flags(epochs=(2, 2), lr=5e-5, what="recovery", from_lessons=True)
    args = parser.parse(argv, stage="prune")
    args = parser.one_of(args, ("--sparsity", "--budget", "--structure-of"), needed=args.prune_epochs > 0)
    parser.refuse_idle(
        ("--tries", args.prune_epochs and not args.budget, "without --budget, of which it tries several structures"),
        ("--spare-pieces", args.prune_vocab is None, "without --prune-vocab, of which it spares some"),
        ("--temperature", args.alpha == (0, 0), "with --alpha 0, which leaves the soft targets out"),
        ("--prune-to --prune-lr --importance --tries --sparsity --budget --structure-of", not args.prune_epochs,
         "with --prune-epochs 0, which prunes nothing"))
    if args.prune_to <= WARM_UP:
        parser.error(f"--prune-to {args.prune_to:g}: give more than {WARM_UP}, up to which nothing is pruned yet")
    return cli.replaced(args, preset=args.variant, variant=args.name or args.variant, tries=args.tries if args.budget else 1,
                        importance=args.importance or ("l2+kd_grad" if args.sparsity else "curvature"))


def main(args):
    import torch

    import compact
    from common import checkpoints, data, distillation, distributed, inspection, measure, opening, publishing
    from common.architectures import layout
    from common.texts import lengths
    from compress import schedule, search, surgery
    from compress.gates import Gates
    from compress.target import Structure
    from deploy import goals
    from training import lessons, reshape, teacher_cache
    from training.trainer import StageTrainer, fit, make_trainer, prepare

    # --- 1. load: what is pruned, the texts that it learns from, how much of it is to be left
    corpus = data.load(args)
    source = lessons.learnt(args.run_dir, args.start, args.seed, recipes.read()[args.preset].lessons)
    layout.refuse_unprunable(source.path)
    checkpoints.same_data(source, corpus.facts)
    found = lessons.find(args.run_dir, args.lessons, recipes.read()[args.preset].lessons, args.seed, source)
    taught = lessons.read(args.run_dir, found, corpus.facts)
    tokenizer = opening.load_tokenizer(source.path)
    model = layout.compact_of_teacher(opening.load_model(source.path), corpus.label_names, types=opening.gives_types(tokenizer))
    args = cli.replaced(args, max_length=lengths.trained_on(args.max_length, [source, taught.checkpoint], model.config))
    plan = reshape.plan(args, model.config, tokenizer, taught.given.every_text)
    whole = layout.begun_as(args.run_dir, source, taught.teacher)
    goal, other = goals.of(args, plan.shape, taught.teacher, whole, tokenizer, corpus)
    parents = {parent.key: parent for parent in (source, taught.teacher, taught.checkpoint, other) if parent}
    stage = publishing.begin(args, "pruned", "pruning_with_finetuning", corpus.facts, list(parents.values()), variant=args.variant,
                             decides=goals.latencies(goal))
    if stage.done:
        return
    prepare(args.seed, args.matmul_precision)

    # --- 2. reshape: word pieces, layers, channels; and the collator that sets the teacher's answers beside a batch
    model, tokenizer = reshape.reshaped(model, tokenizer, plan, taught.sentences.every_text, args)
    train = data.tokenise(tokenizer, taught.sentences, args.max_length, numbered=True)
    validation, held_out = (data.tokenise(tokenizer, part, args.max_length) for part in (corpus.validation, corpus.held_out))
    pairs = teacher_cache.paired_layers(source, model.config, taught.teacher, args.hidden_weight)
    hidden = teacher_cache.hidden_states(taught, args.max_length, args.run_dir, pairs, args.matmul_precision)
    hidden_weight = args.hidden_weight if hidden else 0.0
    collator = teacher_cache.TeacherCollator(tokenizer.pad_token_id, taught.logits, hidden)
    judges = [collator([train[i] for i in range(at, min(at + 32, len(train)))]) for at in range(0, min(JUDGES, len(train)), 32)]
    # Behind another model the order of lessons goes on with the next pass: the same again would be known by heart.
    passed = source.manifest["metrics"].get("passes", 0)

    def prune(model, goal, name: str, epochs: float) -> list[torch.Tensor]:
        """Warms up, then closes gates until `goal` is reached: the masks (U,) of all blocks."""
        gates = Gates.attach(model)

        class Pruner(StageTrainer):
            def at(self) -> float:
                """How far pruning has come: 0 while warming up, 1 once the goal is reached."""
                steps = self.state.max_steps
                return schedule.progress(self.state.global_step, round(WARM_UP * steps), round(args.prune_to * steps))

            def stage_loss(self, model, inputs, outputs):
                temperature, alpha = schedule.linear(*args.temperature, self.at()), schedule.linear(*args.alpha, self.at())
                return distillation.lesson(corpus.task, outputs, inputs, temperature=temperature, alpha=alpha, hidden_weight=hidden_weight)

            def training_step(self, model, inputs, num_items_in_batch=None):
                loss = super().training_step(model, inputs, num_items_in_batch)
                if args.importance == "curvature":
                    gates.observe_curvature(self.model, inputs, args.seed, distributed.mean)
                else:
                    gates.observe(distributed.mean)
                if self.at() > 0 and self.state.global_step % every == 0:
                    rank_and_close(schedule.cubic_sparsity(1.0, self.at()))
                return loss

        def rank_and_close(share: float) -> None:
            """Closes gates until `share` of the way to the goal is gone."""
            scores = gates.scores(args.importance, model, torch.Generator().manual_seed(args.seed))
            gates.close(goal.masks(scores, gates.masks, share))

        flags = cli.replaced(args, lr=args.prune_lr or args.lr)
        pruner = make_trainer(Pruner, corpus.task, stage, name, model, flags, train, validation, collator, epochs=epochs,
                              keep_best=False, first_epoch=passed)
        every = max(1, round((args.prune_to - WARM_UP) * pruner.args.max_steps / RANKINGS))
        fit(pruner, stage)
        rank_and_close(1.0)
        return gates.masks

    def cut(model, masks: list[torch.Tensor]) -> tuple:
        """(The small model, which of its layers are left): what the gates zeroed leaves, and the logits don't notice."""
        small = surgery.cut(model, masks)
        if not (gap := inspection.logits_gap(model, small, judges[0])) <= 1e-4:
            raise RuntimeError(f"the cut model's logits differ from the masked one's by {gap:.1e}")
        return surgery.without_empty_layers(small, judges[0])

    def recover(small, layers: list[int], name: str, epochs: float) -> None:
        """The small model trains on."""
        class Recoverer(StageTrainer):
            def stage_loss(self, model, inputs, outputs):
                if hidden_weight:
                    inputs["teacher_hidden"] = inputs["teacher_hidden"][:, :, layers]
                return distillation.lesson(corpus.task, outputs, inputs, temperature=args.temperature[1], alpha=args.alpha[1],
                                           hidden_weight=hidden_weight)

        fit(make_trainer(Recoverer, corpus.task, stage, name, small, args, train, validation, collator, epochs=epochs,
                         first_epoch=passed), stage)

    # --- 3. find a structure: candidates of the same budget, by what the logits feel of each gate; short recoveries say which is best
    asked, tried = goal, []
    if args.tries > 1:
        answers = torch.from_numpy(distributed.by_the_first(lambda: lessons.answers(
            taught.answers_others(source), corpus.held_out.rows, args.max_length, stage.work("answers"), args.matmul_precision)))
        structures = search.candidates(search.felt(model, judges, args.seed), goal.budgets, args.tries)
        rounds, cuts = math.ceil(math.log2(len(structures))), {}
        brief = SEARCHED * (args.prune_epochs + args.epochs) / (len(structures) * max(1, rounds))

        def distance(structure, round: int) -> float:
            """KL to the teacher on held-out texts, once a structure has learnt for another `brief` · 2^round epochs."""
            name = f"try{structures.index(structure)}"
            if round == 0:
                whole = copy.deepcopy(model)
                cuts[name] = cut(whole, prune(whole, structure, f"{name}_prune", brief / 4))
            recover(*cuts[name], f"{name}_recover{round}", brief * 2**round)
            kl = float(corpus.task.soft_loss(inspection.answers(cuts[name][0], held_out, collator), answers))
            cli.say(f"  tried {structure}: KL {kl:.4f}")
            return kl

        goal, tried = search.halve(structures, distance, rounds)

    # --- 4. warm up, prune, cut, recover
    masks = prune(model, goal, "prune", args.prune_epochs) if args.prune_epochs else Gates.attach(model).masks
    small, layers = cut(model, masks)
    cli.say(f"cut to {Structure.of(masks)}")
    recover(small, layers, "recover", args.epochs)

    # --- 5. save, open again, count
    stage.metrics |= inspection.judged(corpus.task, small, validation, collator)
    stage.metrics |= {"passes": passed + math.ceil(args.epochs), "teacher_layers": [pairs[i] for i in layers] if pairs else None,
                      "structure": {"found_by": "another's" if other else "search" if tried else "scores" if args.prune_epochs else "start",
                                    "tried": [{**each.structure._asdict(), "kl": each.kl} for each in tried]},
                      **goals.kept(args.budget or [], asked.spent(masks)), **teacher_cache.unlike(source)}
    compact.save(small, stage.dir)
    opening.save_tokenizer(tokenizer, stage.dir, args.max_length)
    goals.write(Structure.of(masks), stage.dir)
    made = checkpoints.verify(stage.publish())
    cli.say(f"pruned: {measure.before_and_after(source, made, corpus.task.metric_name)}")


if __name__ == "__main__":
    cli.run(main, parse_args())
