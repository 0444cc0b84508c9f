"""`llm360 spec`: resolve, recall, validate, plan and describe specifications."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from llm360.canonical import canonical_json
from llm360.cli import output, plan
from llm360.cli.arguments import add_command, add_output, add_overrides, add_release
from llm360.errors import InputError, SpecError
from llm360.release.create import open_release
from llm360.release.recorded import find_attempt, recorded_run
from llm360.spec import documents, load_run
from llm360.spec.compatibility import breaking_changes
from llm360.spec.crd import crd
from llm360.spec.reference import reference_page
from llm360.spec.schema import openapi_schema
from llm360.storage import open_storage
from llm360.storage.open import without_credentials

RESOLVE_EXAMPLES = """\
examples:
  llm360 spec resolve amber-tiny                              everything that the preset comes to
  llm360 spec resolve run.yaml --set training.batchSize=64    with one value changed
  llm360 spec resolve run.yaml -o json > run.json             canonical JSON; `llm360 run run.json` takes it
  llm360 spec resolve run.yaml --digest                       the identity's sha256 alone
  llm360 spec resolve run.yaml --identity -o json | sha256sum the same, computed by others
"""

RECORDED_EXAMPLES = """\
The run file with which a release was made: what its ledger names as the run's configuration, and the settings that an
attempt recorded (workers, parallelism, recovery …). It is complete: its preset is not applied again, so a later
version's presets change nothing, and a field that you take out is not the preset's then. The run's name is the last
part of the release's address; change it as you like. `llm360 run` goes on with the release at the address at which it
was written, which is said where it lies elsewhere now; with another --store it makes a new one.

examples:
  llm360 spec recorded s3://bucket/run > run.yaml          as the newest attempt ran it
  llm360 run run.yaml --store runs/again                   the same run in another place, from step 0
  llm360 spec recorded runs/amber-tiny --attempt 1         as the first attempt ran it; `llm360 ls` lists them
  llm360 spec recorded https://host/run -o json            canonical JSON

exit codes:
  0 printed · 1 the configuration is not what the ledger names, or cannot be read · 2 no such release or attempt
"""

RECORDED_COMMENT = """\
# Attempt {claim.attempt} of {run.store}
# Complete: its preset is not applied again (llm360.ai/resolved), so a field that is taken out is not the preset's then.
# As long as it has the same identity, `llm360 run` goes on with that release; with another --store it makes a new one.
"""

VALIDATE_EXAMPLES = """\
examples:
  llm360 spec validate run.yaml                 every error with its field, or "ok"
  llm360 spec validate manifests/samples/*.yaml -o json
"""

SCHEMA_EXAMPLES = """\
examples:
  llm360 spec schema                            OpenAPI v3, as the CRD takes it
  llm360 spec schema -o json | jq .properties.spec.properties.training
"""

CRD_EXAMPLES = """\
examples:
  llm360 spec crd | kubectl apply --server-side -f -
  llm360 spec crd > manifests/crd.yaml
  llm360 spec crd --since manifests/released/crd.yaml      what would break objects that are stored already
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    resolve = add_command(commands, "resolve", "print the complete configuration of a run", RESOLVE_EXAMPLES)
    resolve.add_argument("source", metavar="FILE|PRESET", help="a file, a preset's name, or - for standard input")
    add_overrides(resolve)
    resolve.add_argument("--store", metavar="URI", help="where the release goes (storage.uri)")
    resolve.add_argument("--identity", action="store_true", help="only the part that never changes once the run began")
    resolve.add_argument("--digest", action="store_true", help="only the sha256 of the identity")
    _add_form(resolve)
    resolve.set_defaults(run=run_resolve)

    recorded = add_command(commands, "recorded", "print the run file with which a release was made", RECORDED_EXAMPLES)
    add_release(recorded)
    recorded.add_argument("--attempt", type=int, metavar="N", help="as this one ran it (default: the newest)")
    _add_form(recorded)
    recorded.set_defaults(run=run_recorded)

    validate = add_command(commands, "validate", "list all errors of specifications", VALIDATE_EXAMPLES)
    validate.add_argument("sources", metavar="FILE", nargs="+", help="files, presets' names, or - for standard input")
    add_output(validate)
    validate.set_defaults(run=run_validate)

    plan.configure(commands)

    schema = add_command(commands, "schema", "print the OpenAPI schema of LLM360Run", SCHEMA_EXAMPLES)
    schema.add_argument("-o", "--output", choices=("yaml", "json"), default="yaml")
    schema.set_defaults(run=run_schema)

    definition = add_command(commands, "crd", "print the CustomResourceDefinition of LLM360Run", CRD_EXAMPLES)
    definition.add_argument(
        "--since",
        type=Path,
        metavar="FILE",
        help="print instead which changes since that definition break stored objects; exit 1 if there are any",
    )
    definition.set_defaults(run=run_crd)

    reference = add_command(
        commands,
        "reference",
        "print the reference page of LLM360Run",
        "examples:\n  llm360 spec reference > docs/reference/spec.md\n",
    )
    reference.set_defaults(run=run_reference)


def run_resolve(args: argparse.Namespace) -> int:
    """Print the resolved run; its identity's digest goes to standard error, out of the way of pipes."""
    run = load_run(args.source, args.overrides, store=args.store, require_store=False)
    if args.digest:
        print(run.identity_digest())
        return 0
    _write(run.identity() if args.identity else run.document(), args.output)
    print(f"identity {run.identity_digest()}", file=sys.stderr)
    if run.spec.storage.uri is None:
        print("storage.uri is not set yet and belongs to the identity: give --store", file=sys.stderr)
    return 0


def run_recorded(args: argparse.Namespace) -> int:
    """Print the run of a release; its identity's digest goes to standard error, as that of `resolve` does."""
    storage = open_storage(args.uri)
    history = open_release(storage).history()
    claim = find_attempt(history, args.attempt)
    run = recorded_run(storage, history, claim)
    _write(run.document(), args.output, RECORDED_COMMENT.format(claim=claim, run=run))
    print(f"identity {run.identity_digest()}", file=sys.stderr)
    if storage.uri != run.store:
        print(
            f"llm360: it was written at {run.store}, and that is where `llm360 run` goes with it, whatever lies at"
            f" {without_credentials(storage.uri)}; give it another --store, or put the release back there",
            file=sys.stderr,
        )
    return 0


def _add_form(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", choices=("yaml", "json"), default="yaml", help="json: canonical (RFC 8785)")


def _write(value: Any, form: str, comment: str = "") -> None:
    """Print a document; JSON has no comments."""
    if form == "json":
        # No line end into a pipe: these are the bytes that are hashed.
        output.write_exact(canonical_json(value) + b"\n" * sys.stdout.isatty())
    else:
        output.write_exact((comment + documents.dump(value)).encode())


def run_validate(args: argparse.Namespace) -> int:
    """Check each source to its end; exit 2 if one has errors."""
    found = {source: _errors(source) for source in args.sources}
    if args.output == "json":
        print(json.dumps([{"source": source, "errors": errors} for source, errors in found.items()], indent=2))
    else:
        for source, errors in found.items():
            print("\n".join(f"{source}: {error}" for error in errors) if errors else f"{source}: ok")
    return 2 if any(found.values()) else 0


def run_schema(args: argparse.Namespace) -> int:
    """Print the schema."""
    schema = openapi_schema()
    text = json.dumps(schema, indent=2) + "\n" if args.output == "json" else documents.dump(schema)
    output.write_exact(text.encode())
    return 0


def run_crd(args: argparse.Namespace) -> int:
    """Print the definition, or what it breaks."""
    if args.since is None:
        output.write_exact(documents.dump(crd()).encode())
        return 0
    found = breaking_changes(_read_definition(args.since), crd())
    print("\n".join(found) or "nothing that breaks stored objects")
    return 1 if found else 0


def _read_definition(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text())
        if found["kind"] == "CustomResourceDefinition" and found["spec"]["versions"]:
            return dict(found)
        problem = "its kind is another"
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        problem = f"{type(error).__name__}: {error}"
    raise InputError(
        f"{path} is no CustomResourceDefinition ({' '.join(problem.split())}); give one as crd.yaml has it"
    )


def run_reference(_args: argparse.Namespace) -> int:
    """Print the reference page."""
    output.write_exact(reference_page().encode())
    return 0


def _errors(source: str) -> list[str]:
    try:
        load_run(source, require_store=False)
    except SpecError as error:
        return list(error.problems)
    except InputError as error:
        return [error.message.removeprefix(f"{source}: ")]
    return []
