from __future__ import annotations

import pytest

from llm360.report.hub import hub_name, license_fields


@pytest.mark.parametrize(
    ("stated", "fields"),
    [
        (None, {}),
        ("Apache-2.0", {"license": "apache-2.0"}),
        (" mit ", {"license": "mit"}),
        ("CC-BY-NC-SA-4.0", {"license": "cc-by-nc-sa-4.0"}),
        ("GPL-3.0-or-later", {"license": "gpl-3.0"}),
        ("LGPL-2.1-only", {"license": "lgpl-2.1"}),
        ("ODC-By-1.0", {"license": "odc-by"}),
        ("MIT-only", {"license": "other", "license_name": "mit-only"}),
        ("MIT OR Apache-2.0", {"license": "other", "license_name": "mit-or-apache-2.0"}),
        ("Apache 2.0", {"license": "other", "license_name": "apache-2.0"}),
        ("LicenseRef-Lab\n---\n: 'x'", {"license": "other", "license_name": "licenseref-lab-x"}),
        ("всё", {"license": "other"}),
    ],
)
def test_licences_have_the_hubs_names(stated, fields):
    assert license_fields(stated) == fields


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("/root/.cache/huggingface/hub/models--EleutherAI--pythia-70m/snapshots/a39f36b", "EleutherAI/pythia-70m"),
        ("models--gpt2/snapshots/607a30d/", "gpt2"),
        ("/models/EleutherAI/pythia-70m", None),
        ("/models/my-models--a--b/snapshots/x", None),
    ],
)
def test_only_the_hubs_cache_tells_a_models_name(folder, name):
    assert hub_name(folder) == name
