"""From the enabled perspectives and their inputs to the order in which they can run."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from jinja2 import TemplateSyntaxError

from caption_assets.perspectives.cycle import find_cycle
from caption_assets.perspectives.findings import LibraryError, SelectionError, quote, suggestion
from caption_assets.perspectives.library import Library
from caption_assets.perspectives.lint import lint_perspective
from caption_assets.perspectives.model import Perspective
from caption_assets.perspectives.regions import lint_boxes, output_form
from caption_assets.perspectives.template import template_names


@dataclass(frozen=True)
class ResolvedPerspective:
    """An enabled perspective with its inputs decided.

    `depth` is 0 without inputs, else one more than the deepest input's. `input_perspectives` holds the perspectives
    named by `inputs` in their output form, as `render_prompt` and `fingerprint` want them.
    """

    perspective: Perspective
    inputs: tuple[str, ...]
    depth: int
    input_perspectives: Mapping[str, Perspective] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The perspective's name."""
        return self.perspective.name

    @property
    def output(self) -> Perspective:
        """The perspective as its stored outputs look."""
        return output_form(self.perspective, self.input_perspectives)


def resolve(library: Library, enabled: Sequence[str], inputs: Mapping[str, Sequence[str]]) -> list[ResolvedPerspective]:
    """Decide the inputs of the enabled perspectives and put these into the order in which they can run.

    Inputs come from `inputs` (the pipeline file), else from the perspective's own file. A synthesizer for which neither
    says anything reads all enabled perspectives that are no synthesizers, except those that read such a synthesizer
    themselves. Every perspective stands after its inputs; ties are broken by priority, then by name.

    Raises:
        SelectionError: a name is unknown, an input is not enabled, the inputs form a cycle, or a prompt reads something
            that is no input.
        LibraryError: an enabled perspective has errors of its own, such as bounds that exclude each other.
    """
    names = list(dict.fromkeys(enabled))
    for name in names:
        if name not in library.perspectives:
            known = suggestion(name, library.perspectives, "The library has")
            raise SelectionError(name, f"There is no perspective {quote(name)}", known)
    for name in inputs:
        if name not in names:
            remedy = f"Enable {quote(name)}, or delete its inputs. {suggestion(name, names, 'Enabled')}"
            raise SelectionError(name, f"Inputs are given for {quote(name)}, which is not enabled", remedy)
    chosen = {name: library.perspectives[name] for name in names}
    findings = [finding for name in names for finding in lint_perspective(chosen[name], library.files.get(name))]
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        raise LibraryError(errors)
    decided = _decide_inputs(chosen, inputs)
    for name, perspective in chosen.items():
        _check_inputs(perspective, decided[name], library)
    if errors := [
        replace(each, file=library.files.get(name)) for name in names for each in lint_boxes(chosen[name], chosen)
    ]:
        raise LibraryError(errors)
    return _order(chosen, decided)


def _decide_inputs(
    chosen: Mapping[str, Perspective], overrides: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    decided: dict[str, tuple[str, ...]] = {}
    open_synthesizers: set[str] = set()
    for name, perspective in chosen.items():
        declared = overrides.get(name, perspective.inputs)
        if declared is not None:
            decided[name] = tuple(dict.fromkeys(declared))
        elif perspective.type == "synthesizer":
            open_synthesizers.add(name)
        else:
            decided[name] = ()
    readers = _readers(open_synthesizers, decided)
    available = sorted(name for name in decided if chosen[name].type != "synthesizer" and name not in readers)
    for name in open_synthesizers:
        if not available:
            remedy = "Enable at least one perspective that is no synthesizer."
            raise SelectionError(name, f"The synthesizer {quote(name)} has nothing to read", remedy)
        decided[name] = tuple(available)
    return decided


def _readers(targets: set[str], inputs: Mapping[str, Sequence[str]]) -> set[str]:
    """Name what reads any of the targets, directly or through others."""
    readers: set[str] = set()
    while True:
        more = {name for name, read in inputs.items() if (targets | readers).intersection(read)} - readers
        if not more:
            return readers
        readers |= more


def _check_inputs(perspective: Perspective, inputs: Sequence[str], library: Library) -> None:
    name = perspective.name
    for read in inputs:
        if read not in library.perspectives:
            remedy = suggestion(read, library.perspectives, "The library has")
            raise SelectionError(name, f"{quote(name)} reads {quote(read)}, which does not exist", remedy)
    if perspective.regions is not None and perspective.regions.input not in inputs:
        remedy = f"Add it to the inputs of {quote(name)}; they are: {', '.join(inputs) or 'none'}."
        boxes = quote(perspective.regions.input)
        raise SelectionError(name, f"{quote(name)} has its regions from {boxes}, which is no input", remedy)
    try:
        used = template_names(perspective.prompt)
    except TemplateSyntaxError:  # the lint has reported it
        return
    for read in dict.fromkeys(used.inputs + used.context):
        if read not in inputs:
            remedy = f"Add it to the inputs of {quote(name)}; they are: {', '.join(inputs) or 'none'}."
            raise SelectionError(name, f"The prompt of {quote(name)} reads {quote(read)}, which is no input", remedy)


def _order(chosen: Mapping[str, Perspective], inputs: Mapping[str, tuple[str, ...]]) -> list[ResolvedPerspective]:
    for name, read in inputs.items():
        for missing in read:
            if missing not in chosen:
                remedy = f"Enable {quote(missing)}, or set perspectives.inputs.{name} to what it shall read instead."
                raise SelectionError(name, f"{quote(name)} reads {quote(missing)}, which is not enabled", remedy)
    waiting = {name: set(read) for name, read in inputs.items()}
    ready = [(chosen[name].priority, name) for name, read in waiting.items() if not read]
    heapq.heapify(ready)
    depths: dict[str, int] = {}
    ordered: list[ResolvedPerspective] = []
    while ready:
        _, name = heapq.heappop(ready)
        depths[name] = 1 + max((depths[read] for read in inputs[name]), default=-1)
        read_perspectives = {read: output_form(chosen[read], chosen) for read in inputs[name]}
        ordered.append(ResolvedPerspective(chosen[name], inputs[name], depths[name], read_perspectives))
        for other, read_by_other in waiting.items():
            if name in read_by_other:
                read_by_other.discard(name)
                if not read_by_other:
                    heapq.heappush(ready, (chosen[other].priority, other))
    if len(ordered) < len(chosen):
        cycle = find_cycle(inputs)
        remedy = "Remove one of these inputs, or set perspectives.inputs in the pipeline file."
        raise SelectionError(cycle[0], f"The inputs form a cycle: {' reads '.join(cycle)}", remedy)
    return ordered
