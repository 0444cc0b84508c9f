"""The mixes of Amber, CrystalCoder and K2: their sources, shares, rows and chunks, each number with where it stands.

A mix needs its user's text: `llm360 data prepare --recipe amber --source arxiv=… --source book=…` and so on. What the
original's code did is taken where its documentation says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from llm360.errors import InputError, nearest
from llm360.facts.published import published_of
from llm360_trainer.prepare.fim import FimRates
from llm360_trainer.prepare.inputs import SourceSpec
from llm360_trainer.prepare.settings import Labels, Packing, Shuffle


@dataclass(frozen=True)
class Part:
    """A source of a mix.

    Args:
        weight: Its share of the rows; None where all its rows are taken.
        times: How often a row is there to be taken.
        fim: How often its documents are turned around; None never.
        folders: Folders below its path that are read; empty reads all.
    """

    weight: Fraction | None = None
    times: Fraction = Fraction(1)
    fim: FimRates | None = None
    folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mix:
    """A recipe for text that the user brings.

    Args:
        parts: By the source's name, in the original's order.
        chunks: Parts of the data between checkpoints.
        shuffle: The order of rows.
        packing: Whether rows share an id.
        labels: Where a row's labels are.
        sequence_length: Inputs of a row.
    """

    parts: Mapping[str, Part]
    chunks: int
    shuffle: Shuffle
    packing: Packing = "disjoint"
    labels: Labels = "next_token"
    sequence_length: int = 2048

    def sources(self, given: Sequence[SourceSpec]) -> tuple[SourceSpec, ...]:
        """The user's sources in the mix's order, with its shares.

        Raises:
            InputError: not every source of the mix is given, one is none of it, or one states a share of its own.
        """
        by_name = {source.name: source for source in given}
        for name, source in by_name.items():
            if name not in self.parts:
                names = list(self.parts)
                raise InputError(
                    f"the recipe has no source '{name}'{nearest(name, names)}; its sources are {', '.join(names)}"
                )
            if source.weight is not None or source.times != 1 or source.fim is not None or source.chat:
                raise InputError(
                    f"source '{name}' states a weight, times, fim or chat, which the recipe sets; leave it away"
                )
        missing = [name for name in self.parts if name not in by_name]
        if missing:
            raise InputError(
                f"the recipe needs the sources {', '.join(missing)} too; give each as --source NAME=PATH",
                reason="SourceMissing",
            )
        return tuple(
            replace(by_name[name], weight=part.weight, times=part.times, fim=part.fim, folders=part.folders)
            for name, part in self.parts.items()
        )


def _weighted(weights: Mapping[str, str], **others: Part) -> dict[str, Part]:
    return {name: Part(Fraction(weight)) for name, weight in weights.items()} | others


STARCODER_LANGUAGES: tuple[str, ...] = (
    *("ada", "agda", "alloy", "antlr", "applescript", "assembly", "augeas", "awk", "batchfile", "bluespec", "c"),
    *("clojure", "cmake", "coffeescript", "common-lisp", "cpp", "c-sharp", "css", "cuda", "dart", "dockerfile"),
    *("elixir", "elm", "emacs-lisp", "erlang", "fortran", "f-sharp", "git-commits-cleaned"),
    *("github-issues-filtered-structured", "glsl", "go", "groovy", "haskell", "html", "idris", "isabelle"),
    *("java", "javascript", "java-server-pages", "json", "julia", "jupyter-scripts-dedup-filtered"),
    *("jupyter-structured-clean-dedup", "kotlin", "lean", "literate-agda", "literate-coffeescript"),
    *("literate-haskell", "lua", "makefile", "maple", "markdown", "mathematica", "matlab", "ocaml", "pascal"),
    *("perl", "php", "powershell", "prolog", "protocol-buffer", "python", "r", "racket", "restructuredtext"),
    *("rmarkdown", "ruby", "rust", "sas", "scala", "scheme", "shell", "smalltalk", "solidity", "sparql", "sql", "stan"),
    *("standard-ml", "stata", "systemverilog", "tcl", "tcsh", "tex", "thrift", "typescript", "verilog", "vhdl"),
    *("visual-basic", "xslt", "yacc", "yaml", "zig"),
)
"""Folders of StarCoderData that Amber read (amber-data-prep, starcoder-lang.list at 67d914f)."""

# mix_and_split.py of amber-data-prep at 67d914f: sources in this order, row j of each to chunk j mod 360. Which 102,400
# rows of each were kept for validation was drawn without a seed, so no one can leave out the same.
AMBER = Mix(
    {
        name: Part(folders=STARCODER_LANGUAGES if name == "starcoderdata" else ())
        for name in ("arxiv", "book", "c4", "refinedweb", "stackexchange", "starcoderdata", "wikipedia")
    },
    chunks=360,
    shuffle="deal",
)

# Weights: crystalcoder-train, pretrain/params/phase{1,2,3}/params.yaml at 03efa54. Checkpoints followed steps, not
# chunks. Rows: crystalcoder-data-prep at 08167bc, where a row's last label is the next row's first id; code was
# turned around anew for each of its epochs (2 in stage 2, 3 in stage 3), with half of the suffixes first.
CRYSTALCODER_1 = Mix(
    _weighted(
        {
            "arxiv": "0.043251179622600486",
            "book": "0.0413121881861869",
            "c4": "0.2665010054745754",
            "commoncrawl": "0.5334581653397988",
            "github": "0.04962588209760537",
            "stackexchange": "0.03168034115317788",
            "wikipedia": "0.03417123812605512",
        }
    ),
    chunks=1,
    shuffle="global",
    packing="overlapping",
)
CRYSTALCODER_2 = Mix(
    _weighted(
        {
            "arxiv": "0.016083857723861224",
            "book": "0.015358576352403003",
            "c4": "0.09909981505117808",
            "commoncrawl": "0.1983897689052003",
            "github": "0.018454606218343703",
            "stackexchange": "0.011784941022274698",
            "wikipedia": "0.012710859995188247",
        },
        starcoder=Part(Fraction("0.6281175747315507"), Fraction(2), FimRates(0.9, 0.5)),
    ),
    chunks=1,
    shuffle="global",
    packing="overlapping",
)
_WEB = {
    "css": "0.08792775542527535",
    "javascript": "0.18370762129027085",
    "html": "0.18536747298179254",
    "python": "0.34270089587947816",
}
CRYSTALCODER_3 = Mix(
    {name: Part(Fraction(weight), Fraction(3), FimRates(0.3, 0.5)) for name, weight in _WEB.items()}
    | _weighted(
        {
            "arxiv": "0.016663255966286664",
            "book": "0.00831444671835677",
            "c4": "0.01685693658811707",
            "commoncrawl": "0.058282893778895735",
            "stackexchange": "0.008379821974060706",
            "wikipedia": "0.05835852419497722",
        },
        # Of the rows of stage 2, of which the configuration takes the first tenth.
        starcoder=Part(Fraction("0.0334403752024888"), fim=FimRates(0.9, 0.5)),
    ),
    chunks=1,
    shuffle="global",
    packing="overlapping",
)

# gather.py of k2-data-prep at 3bfef26: subsets in the order of their names, each so often; rows of 2,048 ids dealt to
# 360 chunks and shuffled in each (shuffle.py). The published table counts book and stackexchange after they were taken
# three times, and lists the three kinds of rows of its one StarCoder set apart: half of the rows have all documents
# turned around (starcoder_fim_main.py), of these half SPM. K2's loss counted the padding of such rows; ours does not.
_K2_TIMES = {
    "dm-math": 3,
    "pile-of-law": 1,
    "pubmed-abstracts": 3,
    "pubmed-central": 1,
    "redpajama.arxiv": 1,
    "redpajama.book": 3,
    "redpajama.stackexchange": 3,
    "redpajama.wikipedia": 6,
    "refinedweb": 1,
    "s2orc": 1,
}
K2 = Mix(
    {name: Part(times=Fraction(times)) for name, times in _K2_TIMES.items()}
    | {"starcoder": Part(times=Fraction(1, 2), fim=FimRates(0.5, 0.5, by_row=True)), "uspto": Part(times=Fraction(3))},
    chunks=360,
    shuffle="chunk",
    labels="inside",
)

MIXES: Mapping[str, Mix] = {
    "amber": AMBER,
    "crystalcoder-stage1": CRYSTALCODER_1,
    "crystalcoder-stage2": CRYSTALCODER_2,
    "crystalcoder-stage3": CRYSTALCODER_3,
    "k2": K2,
}

CHUNK_ORDERS: Mapping[str, tuple[int, ...]] = {"k2": published_of("k2-65b").order}
