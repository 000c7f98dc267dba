"""Stage 8: measure every checkpoint of a run, side by side, and write the report.

Accuracy with its Wilson interval, or what the task is scored by with a bootstrap's; an exact McNemar test against the distilled student
where each text has one class, and whether "no loss" may be said; FLOPs counted
on the model that ships, bytes of the file that ships, latency of real sentences with all models taking turns, memory of a process of
its own.
Rows follow lineage: a pruned checkpoint, what it was made from, and what was made from it, never a mixture of runs.

    python 7_evaluate_and_generate_report.py [--fast]         models/ + sst2_data/ -> final_report.{json,md,html,png}

Reads models/ and the dev set (or --data-dir's). Writes final_report.json, and from it alone final_report.md, .html and .png.
About two minutes on two cores with --fast and a dozen small models, ten in full.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -I leaves it out

from common import cli, forms


def parse_args(argv=None):
    parser = cli.StageParser(__doc__)
    group = parser.add_argument_group("report")
    group.add_argument("--threads", type=forms.threads, default=None, help="threads of one answer on CPU; else torch's own choice")
    parser.preset(group, "--repeats", type=forms.count, full=5, fast=2, help="times that each sentence is timed; its median counts")
    parser.preset(group, "--sentences", type=forms.count, full=320, fast=64, help="dev sentences that are timed (all are classified)")
    group.add_argument("--title", default=None, help="the report's title; else it names the data set")
    group.add_argument("--output-dir", type=forms.path, metavar="DIR", default=None, help="where final_report.* go; else DIR is RUN_DIR")
    group.add_argument("--no-accuracy", metavar="REASON", default=None,
                       help="leave accuracy out, and why, e.g. 'random weights: size and speed only'")
    group.add_argument("--ships", metavar="VARIANT", default=None,
                       help="whose int8 file the page sets beside the teacher; else it is the smallest")
    group.add_argument("--no-sentences", dest="sentences_shown", action="store_false",
                       help="leave out of the report the dev sentences that show what changed")
    args = parser.parse(argv)
    parser.refuse_idle(("--seed", True, "here: every seed's models are measured"))
    return args


def promised_speed(source, made: dict) -> dict:
    """{"predicted_speedup": {batch: times the teacher's speed}} where stage 8 pruned to a speed, by its table of latencies; else {}."""
    pruned = source if source.stage == "pruned" else made.get(source.parent_key("pruned"), source)
    promised = pruned.manifest["metrics"].get("predicted_speedup")
    if isinstance(promised, float):  # as earlier code wrote it
        promised = {pruned.manifest["args"]["at_batch"]: promised}
    return {"predicted_speedup": promised} if promised else {}


def main(args):
    import os

    import torch
    from tqdm import tqdm

    from common import checkpoints, cores, data, facts, inference, lineage, measure, provenance
    from common.texts import labels, lengths
    from report import answers, files, outcome

    # --- 1. load: the data, and the checkpoints that belong together
    output_dir = args.output_dir or args.run_dir
    threads = args.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    corpus = data.load(args)
    dataset, code = corpus.facts, provenance.code_identity()
    found = checkpoints.published(args.run_dir)
    chosen, skipped = lineage.together(found, args.run_dir, dataset)
    if args.ships and args.ships not in (variants := sorted({c.variant for c in found if c.stage != "lessons"})):
        raise cli.UserError(f"--ships {args.ships}: no model of that name is in {args.run_dir}: give one of {', '.join(variants)}")
    baseline = "distilled" if "distilled" in skipped or any(lineage.row_key(c) == "distilled" for c in chosen) else "teacher"
    whole = []
    for checkpoint in chosen:
        try:
            whole.append(checkpoints.verify(checkpoint.path))
        except cli.UserError as error:
            skipped[lineage.row_key(checkpoint)] = str(error).replace(f"{checkpoint.path.parent}{os.sep}", "")
    asked = {name: getattr(args, name) for name in ("repeats", "sentences", "title", "no_accuracy", "ships", "sentences_shown")}
    asked |= {"threads": threads, "cpu": provenance.cpu_name(), "gpu": provenance.gpu_name()}
    for checkpoint in whole:
        lengths.kept(args.max_length, checkpoint)
    others = {}
    for checkpoint in whole:
        others[checkpoint.key] = []
        for other in lineage.of_other_seeds(checkpoint, found):
            try:
                others[checkpoint.key].append(checkpoints.verify(other.path))
            except cli.UserError as error:
                skipped[other.path.name] = str(error).replace(f"{other.path.parent}{os.sep}", "")
    measured = [[lineage.row_key(c), c.key, measure.weights_sha256(c), [other.key for other in others[c.key]]] for c in whole]
    key = facts.sha256_json([asked, code["sha256"], dataset, skipped, measured])
    earlier = None if args.force else files.read(output_dir / "final_report.json")
    if earlier and earlier.get("key") == key and not files.fault(earlier):
        cli.say("up to date: these checkpoints were measured by this code with these arguments (--force measures again)")
        files.show(earlier, files.write(earlier, output_dir))
        return

    # --- 2. answer the whole dev set
    task, models, classifiers, of_seeds = corpus.task, {}, {}, {}
    for checkpoint in tqdm(whole, desc=task.metric_name, unit="model", disable=None):
        name = lineage.row_key(checkpoint)
        try:
            classifier = inference.open_classifier(checkpoint.path, threads=threads)
            logits = classifier.decide(corpus.dev.rows) if args.no_accuracy is None else None  # (S, K)
        except cli.UserError as error:
            skipped[name] = str(error).replace(f"{checkpoint.path.parent}{os.sep}", "")
            continue
        if not labels.alike(classifier.label_names, corpus.label_names):
            skipped[name] = f"its labels are {list(classifier.label_names)}, the data's {corpus.label_names}"
            continue
        models[name], classifiers[name] = checkpoint, classifier
        if logits is not None:
            of_seeds[name] = {checkpoint.manifest["seed"]: logits}
            for other in others[checkpoint.key]:
                try:
                    of_seeds[name][other.manifest["seed"]] = inference.open_classifier(other.path, threads=threads).decide(corpus.dev.rows)
                except cli.UserError as error:
                    skipped[other.path.name] = str(error).replace(f"{other.path.parent}{os.sep}", "")
    if not models:
        raise cli.UserError(f"nothing to report on under {args.run_dir / 'models'}: " +
                            "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:2]))

    # --- 3. one row a checkpoint: its score, work, bytes, memory
    reference = classifiers.get(baseline) or next(iter(classifiers.values()))
    mean_tokens = round(float(reference.encode(corpus.dev.rows)["attention_mask"].sum(1).mean()))
    spelling = reference.spell(corpus.dev.rows)
    timed = measure.to_time(corpus.dev.rows, args.sentences)
    torch_stage = {c.key: c for c in found}
    rows = {}
    for name, checkpoint in tqdm(models.items(), desc="size and memory", unit="model", disable=None):
        base, export = lineage.split_key(checkpoint.stage)
        label = lineage.LABELS.get(base, base) + {"": "", "_onnx": ", ONNX", "_onnx_int8": ", ONNX int8"}.get(export, export)
        notes = {}
        row = {"key": name, "variant": checkpoint.variant, "stage": checkpoint.stage,
               "label": label if checkpoint.variant == "published" else f"{label} ({checkpoint.variant})",
               "path": checkpoint.path.relative_to(args.run_dir).as_posix(), "sha256": measure.weights_sha256(checkpoint),
               "runtime": classifiers[name].runtime, "seeds": [], **dict.fromkeys(answers.FIELDS)}
        if args.no_accuracy is not None:
            notes |= dict.fromkeys(answers.FIELDS, args.no_accuracy)
        else:
            figures, why = answers.fields(corpus, of_seeds[name], of_seeds.get(baseline), classifiers[name], of_seeds.get("teacher"))
            row |= figures
            notes |= {field: reason.replace("no row", f"no {baseline} row") for field, reason in why.items()}
        source = torch_stage.get(checkpoint.parent_key(base)) if export else checkpoint
        if source:
            work, why = measure.work(source.path, mean_tokens)
            notes |= why | ({"params": f"parameters, FLOPs and structure are counted on {source.path.name}, of which this is the export"}
                            if export else {})
        else:
            work = dict.fromkeys(("params", "structure", "gflops_128", "gflops_mean", "gmacs_16"))
            notes |= dict.fromkeys(work, "the torch checkpoint of which this is the export isn't under models/ any more")
        spelled = classifiers[name].spell(corpus.dev.rows)
        row["respelled"] = sum(one != other for one, other in zip(spelled, spelling, strict=True)) / len(spelling)
        own, why = measure.process_of_its_own(checkpoint.path, timed[:64], threads)
        if source and export == "_onnx_int8":
            row |= promised_speed(source, torch_stage)
        rows[name] = row | work | measure.size(checkpoint) | own | {"notes": notes | why}

    # --- 4. latency: all models in one run, taking turns. The student is timed without padding, as all that is made of it: else leaving
    # padding out would count as pruning; beside that as the library runs it.
    devices = {name: str(c.device) for name, c in classifiers.items()}
    halves = {name: c.in_half_precision() for name, c in classifiers.items() if c.half_precision_pays()}
    bare = {name: c.without_padding() for name, c in classifiers.items() if name == "distilled" == baseline}
    padded = {f"{name}, padded": classifiers[name] for name, c in bare.items() if c.model is not classifiers[name].model}
    latencies = measure.latency(classifiers | bare | padded | {f"{name} in half precision": half for name, half in halves.items()}, timed,
                                args.repeats)
    for name, row in rows.items():
        row |= latencies[name] | {"half_precision": None, "padded": latencies.get(f"{name}, padded")}
        if name in halves:
            try:
                logits = halves[name].decide(corpus.dev.rows)
            except cli.UserError:
                row["notes"]["half_precision"] = "its numbers go beyond those of half precision"
                continue
            row["half_precision"] = latencies[f"{name} in half precision"] | {
                "agreement": task.agreement(logits, next(iter(of_seeds[name].values()))) if name in of_seeds else None}
        else:
            row["notes"]["half_precision"] = "timed of torch models alone, on a GPU"
    for name, row in rows.items():
        row["speedup"] = dict.fromkeys(("1", "32"))
        if baseline not in rows:
            row["notes"]["speedup"] = f"no {baseline} row to compare with"
        elif devices[name] != devices[baseline]:
            row["notes"]["speedup"] = f"it ran on {devices[name]}, the baseline on {devices[baseline]}"
        else:
            row["speedup"] = {b: rows[baseline]["latency_ms"][b]["p50"] / row["latency_ms"][b]["p50"] for b in ("1", "32")}
        if "predicted_speedup" in row and devices.get("teacher") == devices[name]:
            row["achieved_speedup"] = {b: rows["teacher"]["latency_ms"][b]["p50"] / row["latency_ms"][b]["p50"]
                                       for b in row["predicted_speedup"]}

    # --- 5. the report
    compared = outcome.pair(rows, baseline, args.ships)
    came_to = None
    if compared:
        came_to = dict(zip(("before", "after"), compared, strict=True))
        if args.no_accuracy is None:
            came_to |= outcome.of(corpus, *(of_seeds[name] for name in compared), args.sentences_shown)
    versions = provenance.versions()
    final = {
        "schema": files.SCHEMA,
        "title": " ".join((args.title or "").split()) or f"{corpus.name} ({corpus.source}): distilled, pruned, 4-bit",
        "created": files.now(),
        "baseline": baseline,
        "skipped": [{"key": name, "reason": reason} for name, reason in skipped.items()],
        "code": code,
        "key": key,
        "dataset": dataset | {"task": task.kind, "metric": task.metric_name},
        "machine": {"cpu": provenance.cpu_name(), "cores": cores.usable(), "threads": threads, "gpu": provenance.gpu_name()}
        | {name: versions[name] for name in ("torch", "transformers", "bitsandbytes", "onnxruntime")},
        "measuring": {"sentences": len(timed), "repeats": args.repeats, "mean_tokens": mean_tokens, "devices": devices},
        "outcome": came_to,
        "lineage": lineage.told(list(models.values()), found, args.run_dir),
        "models": list(rows.values()),
    }
    files.show(final, files.write(final, output_dir))


if __name__ == "__main__":
    cli.run(main, parse_args())
