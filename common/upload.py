"""A model's directory put on the hub, by the hub's own client."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from common import hub
from common.architectures import model_files
from common.cli import UserError

LEFT_HERE = ["demo/*"]  # another maker's runtime, of many megabytes


def flag(group) -> None:
    """--push-to-hub, for whatever makes a directory that others open."""
    group.add_argument("--push-to-hub", metavar="OWNER/NAME", default=None,
                       help="put what was made on the hub too, into a new repository, which is private, or one that is there; it takes a "
                            "login (hf auth login, or HF_TOKEN)")


def refuse(repo_id: str | None) -> None:
    """Raises UserError where nothing can be put there from here: before any work. None asks for nothing."""
    if repo_id is None:
        return
    if repo_id.count("/") != 1 or not model_files.is_id(repo_id):
        raise UserError(f"--push-to-hub {repo_id}: give an id of the hub, owner/name")
    from huggingface_hub import HfApi

    with _told(repo_id):
        who = HfApi().whoami()
    if who.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise UserError(f"--push-to-hub {repo_id}: the token that is logged in here may only read: log in with one that may write")


def push(folder: Path, repo_id: str) -> str:
    """Puts a directory's files into a repository, which is made, private, where there is none. Returns its address. Raises UserError."""
    from huggingface_hub import HfApi

    with _told(repo_id):
        address = str(HfApi().create_repo(repo_id, private=True, exist_ok=True))
        HfApi().upload_folder(repo_id=repo_id, folder_path=folder, ignore_patterns=LEFT_HERE, commit_message="Add the model and its card")
    return address


@contextlib.contextmanager
def _told(repo_id: str) -> Iterator[None]:
    """What goes wrong between here and the hub, as one line. Raises UserError."""
    from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except OfflineModeIsEnabled:
        raise UserError(f"--push-to-hub {repo_id}: the hub can't be reached (HF_HUB_OFFLINE is set)") from None
    except LocalTokenNotFoundError:
        raise UserError(f"--push-to-hub {repo_id}: nobody is logged in here: hf auth login, or set HF_TOKEN") from None
    except (HTTPError, OSError, ValueError) as error:
        response = getattr(error, "response", None)
        what = "check the login's rights (hf auth whoami)" if getattr(response, "status_code", 500) in (401, 403) else \
            "the same command goes on from here"
        raise UserError(f"--push-to-hub {repo_id}: the hub doesn't take it ({hub.reason(error)}): {what}") from error
