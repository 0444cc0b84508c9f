"""`llm360 spec`: resolve, validate, plan and describe specifications."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from llm360.canonical import canonical_json
from llm360.cli import output, plan
from llm360.cli.arguments import add_command, add_output, add_overrides
from llm360.errors import InputError, SpecError
from llm360.spec import documents, load_run
from llm360.spec.compatibility import breaking_changes
from llm360.spec.crd import crd
from llm360.spec.reference import reference_page
from llm360.spec.schema import openapi_schema

RESOLVE_EXAMPLES = """\
examples:
  llm360 spec resolve amber-tiny                              everything that the preset comes to
  llm360 spec resolve run.yaml --set training.batchSize=64    with one value changed
  llm360 spec resolve run.yaml -o json > run.json             canonical JSON; `llm360 run run.json` takes it
  llm360 spec resolve run.yaml --digest                       the identity's sha256 alone
  llm360 spec resolve run.yaml --identity -o json | sha256sum the same, computed by others
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
    resolve.add_argument("-o", "--output", choices=("yaml", "json"), default="yaml", help="json: canonical (RFC 8785)")
    resolve.set_defaults(run=run_resolve)

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
    value = run.identity() if args.identity else run.document()
    if args.output == "json":
        # No line end into a pipe: these are the bytes that are hashed.
        output.write_exact(canonical_json(value) + b"\n" * sys.stdout.isatty())
    else:
        output.write_exact(documents.dump(value).encode())
    print(f"identity {run.identity_digest()}", file=sys.stderr)
    if run.spec.storage.uri is None:
        print("storage.uri is not set yet and belongs to the identity: give --store", file=sys.stderr)
    return 0


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
