"""LLM360Run: what a run is, how it is resolved, and which part of it never changes.

```
 _defaults.yaml < preset < user's file < --set      layers, documents, overrides
        │ field by field
        ▼
 derived values (headDim, stage1 …)                 layers.fill_derived
        ▼
 sections: types and bounds, no defaults            model.py, data.py, training.py …
        ▼
 rules between fields                               rules
        ▼
 ResolvedRun: identity | operations                 run, identity
```

The CRD's schema and the reference page come from the same sections (`schema`, `reference`).
"""

from llm360.spec.identity import identity_changes, is_identity
from llm360.spec.layers import preset_names, preset_text
from llm360.spec.resolution import load_run, read_document, resolve, resolved_from_json
from llm360.spec.run import API_VERSION, KIND, ResolvedRun, ResolvedSpec, ResolvedStage

__all__ = [
    "API_VERSION",
    "KIND",
    "ResolvedRun",
    "ResolvedSpec",
    "ResolvedStage",
    "identity_changes",
    "is_identity",
    "load_run",
    "preset_names",
    "preset_text",
    "read_document",
    "resolve",
    "resolved_from_json",
]
