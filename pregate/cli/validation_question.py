"""What `pregate validate` runs, on what, and where that is written: its options, declared once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwmodels.quantity import parse_override
from pregate.cli import options
from pregate.cli.option_values import build_model, check_storage
from pregate.cli.output_paths import require_folder, require_ledger
from traces.errors import InvalidInput
from traces.foundation.atomic_files import require_writable

if TYPE_CHECKING:
    from pregate.validation.cases import CaseGroup
    from pregate.validation.session import ValidationPlan


@dataclass(frozen=True, slots=True)
class ValidationQuestion:
    """A suite or one model, the fit that predicts it, the device that runs it, and the files to write."""

    model: Annotated[str | None, typer.Option(help="One model instead of a suite: a name or a file.")] = None
    trace: options.TraceFile = None
    policies: Annotated[str | None, typer.Option(help="Designs, by comma.")] = None
    suite: Annotated[str | None, typer.Option(help="quick, full, published or gpu.")] = None
    hardware: Annotated[
        str | None, typer.Option("--fit", help="A fit by name or file; without, this machine is measured first.")
    ] = None
    backend: options.BackendName = "auto"
    graphs: options.Graphs = False
    link: Annotated[str | None, typer.Option(help="Link of the CPU back end with --model, such as 2GB/s.")] = None
    tier: options.Tier = "dram"
    storage: Annotated[Path | None, typer.Option(help="A folder for the experts of --tier ssd.")] = None
    batch: options.Batch = None
    input_tokens: options.InputTokens = 32
    output_tokens: options.OutputTokens = 16
    active: options.Active = None
    seed: options.Seed = 0
    dtype: options.Dtype = None
    repeats: Annotated[int, typer.Option(min=1, help="Valid runs of each configuration.")] = 3
    budget: Annotated[
        float | None, typer.Option("--budget-s", min=1, help="Seconds; groups that no longer fit are left out.")
    ] = None
    go_on: Annotated[
        bool, typer.Option("--go-on", help="Leave out groups that an earlier call has run into -o on the same --fit.")
    ] = False
    recorded: Annotated[
        Path | None, typer.Option(help="A folder that a validation left: judge its runs anew, on no device.")
    ] = None
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A folder for report.html, rows.csv and summary.json.")
    ] = None
    timeline: Annotated[
        Path | None, typer.Option(help="Write simulated over real timelines for ui.perfetto.dev (JSON).")
    ] = None
    ledger: options.LedgerFile = None

    def check(self) -> None:
        """Raise `InvalidInput` for what would be found out minutes later, or for options that do not go together."""
        if (self.model is None) == (self.suite is None):
            raise InvalidInput("say either --suite (quick, full, published, gpu) or --model NAME")
        if self.suite is not None:
            from pregate.validation.cases import suite_named

            suite_named(self.suite)
        if self.output is not None and self.output.exists() and not self.output.is_dir():
            raise InvalidInput(f"-o {self.output}: it is a file, a report is a folder: name another")
        if self.output is not None:
            require_writable(self.output)
        if self.recorded is not None:
            self._check_recorded(self.recorded)
        if self.go_on and (self.output is None or self.hardware is None or self.ledger is not None):
            raise InvalidInput("--go-on: name the folder of the earlier call, -o, and its --fit, without --ledger")
        if self.ledger is not None:
            require_ledger(self.ledger)
        if self.timeline is not None:
            require_folder(self.timeline)

    def _check_recorded(self, recorded: Path) -> None:
        """Runs of before need the suite and the fit named, and the old report is not written over."""
        if self.suite is None or self.hardware is None:
            raise InvalidInput(
                "--recorded FOLDER: say of which --suite its runs are, and on which --fit to predict them"
            )
        if self.output is not None and self.output.resolve() == recorded.resolve():
            raise InvalidInput(f"-o {self.output}: what was predicted before the runs is there, name another folder")
        if self.ledger is not None:
            raise InvalidInput(
                "--recorded FOLDER: those runs were, nothing is predicted before them: leave out --ledger"
            )

    def command(self) -> str:
        """The command line, as reports tell it."""
        what = f" --suite {self.suite}" if self.suite else f" --model {self.model}"
        tier = f" --tier {self.tier}" * (self.tier != "dram")
        return f"pregate validate{what}{' --graphs' * self.graphs}{tier}{' --recorded' * (self.recorded is not None)}"

    def plan(self, backend: str) -> ValidationPlan:
        """How the groups are run on a back end. Raises `InvalidInput` where it has no CUDA graphs to run."""
        from pregate.running.devices import require_graphs
        from pregate.validation.session import ValidationPlan

        if self.recorded is None:
            require_graphs(backend, self.graphs)
        return ValidationPlan(
            backend, self.repeats, budget_s=self.budget, graphs=self.graphs, storage=self.storage, ledger=self.ledger,
            go_on=self.go_on,
        )  # fmt: skip

    def groups(self, backend: str) -> list[CaseGroup]:
        """What is run: the one group of a model, or those of a suite. Raises `InvalidInput` for another back end's."""
        from pregate.validation.cases import suite_named

        if self.model is not None:
            return [self._group(self.model, backend)]
        if self.suite == "gpu" and backend != "cuda" and self.recorded is None:
            raise InvalidInput("the suite gpu is of whole models on a CUDA device: try --suite full")
        return suite_named(str(self.suite))

    def _group(self, model: str, backend: str) -> CaseGroup:
        from pregate.validation.cases import SUITE_POLICIES, CaseGroup, CaseWorkload

        workload = CaseWorkload(self.batch, self.input_tokens, self.output_tokens, self.seed, self.active, self.trace)
        architecture = build_model(model, self.dtype, None)
        chosen = tuple(word.strip() for word in self.policies.split(",")) if self.policies else SUITE_POLICIES
        speed = _link_bytes_per_s(self.link, backend)
        return CaseGroup(
            architecture, workload, chosen, link_bytes_per_s=speed, expert_tier=_tier(self.tier, self.storage)
        )


def _link_bytes_per_s(link: str | None, backend: str) -> float | None:
    """The speed of the link that the CPU back end imitates; a CUDA device has its own."""
    speed = None if link is None else parse_override(link, "bandwidth")
    if backend == "cpu" and speed is None:
        raise InvalidInput("the CPU back end imitates a link: say how fast, such as --link 2GB/s")
    if backend == "cuda" and speed is not None:
        raise InvalidInput("--link is of the CPU back end: a CUDA device has its own")
    return speed


def _tier(tier: str, storage: Path | None) -> str:
    """Where experts wait. Raises `InvalidInput` for a tier that is none, or a folder missing or not asked for."""
    from pregate.running.devices import require_storage

    check_storage(tier, storage)
    require_storage(tier, storage)
    if storage is not None and not storage.is_dir():
        raise InvalidInput(f"--storage {storage}: there is no such folder")
    return tier
