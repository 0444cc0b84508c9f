"""What the Hugging Face Hub reads at the top of a model card, in its own names."""

from __future__ import annotations

import re
from typing import Any

# The Hub's licences that SPDX has too: its identifier in small letters. Others are `other`, with their name: a model's
# own licence too, which the Hub may know by a name of its own.
_LICENSES = {
    "afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear",
    "bsl-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0",
    "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0",
    "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "gpl-2.0", "gpl-3.0", "isc", "lgpl-2.1", "lgpl-3.0",
    "lppl-1.3c", "mit", "mpl-2.0", "ms-pl", "ncsa", "ofl-1.1", "osl-3.0", "postgresql", "unlicense", "wtfpl", "zlib",
}  # fmt: skip
_OTHER_NAMES = {"c-uda-1.0": "c-uda", "odbl-1.0": "odbl", "odc-by-1.0": "odc-by", "pddl-1.0": "pddl"}
# GNU's licences; the Hub has one name for both.
_GNU = re.compile(r"([al]?gpl-[\d.]+)-(?:only|or-later)")

_CACHED = re.compile(r"(?:^|/)models--((?:(?!--)[\w.-])+)(?:--((?:(?!--)[\w.-])+))?/snapshots/")


def license_fields(stated: str | None) -> dict[str, Any]:
    """The card's fields on a licence.

    >>> license_fields("Apache-2.0")
    {'license': 'apache-2.0'}
    >>> license_fields("MIT OR Apache-2.0")
    {'license': 'other', 'license_name': 'mit-or-apache-2.0'}

    Args:
        stated: An SPDX expression, or any name; None: nobody stated one, and nothing is said.
    """
    if stated is None:
        return {}
    name = re.sub(r"[^a-z0-9.]+", "-", stated.lower()).strip("-.")
    known = _OTHER_NAMES.get(name, _GNU.sub(r"\1", name))
    # Only a whole identifier: `Apache-2.0!` and `Apache 2.0` may be meant, or not.
    if stated.strip().lower() == name and known in _LICENSES | set(_OTHER_NAMES.values()):
        return {"license": known}
    return {"license": "other"} | ({"license_name": name} if name else {})


def hub_name(folder: str) -> str | None:
    """The model that a folder of the Hub's cache holds; None where a path does not tell.

    >>> hub_name("/root/.cache/huggingface/hub/models--EleutherAI--pythia-70m/snapshots/a39f36b/")
    'EleutherAI/pythia-70m'
    """
    found = _CACHED.search(folder)
    return "/".join(part for part in found.groups() if part) if found else None
