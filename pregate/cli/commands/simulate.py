"""`pregate simulate`: one design in detail, with its timeline."""

from __future__ import annotations

from pregate.cli import options
from pregate.cli.option_values import build_modes
from pregate.cli.output_paths import require_timelines, say_written, write_timelines
from pregate.cli.progress import spinner
from pregate.cli.question import Question, asks
from pregate.draw import render
from traces.errors import InvalidInput


@asks()
def simulate(
    *,
    policy: options.PolicyOrUsual = None,
    question: Question,
    timeline: options.TimelineFile = None,
    gantt: options.Gantt = None,
) -> None:
    """Simulate one design op by op and write its timeline.

    Example: pregate simulate switch-base-8 --hardware a100-sxm4-80gb --output-tokens 8 --timeline out.json
    """
    if question.engine == "stream" and (timeline is not None or gantt is not None):
        raise InvalidInput(
            "--engine stream keeps no timeline: leave out --timeline and --gantt, or take another engine"
        )
    require_timelines(timeline, gantt)
    architecture, machine, workload = question.subject()
    name = question.one_design(policy, architecture, machine, workload)
    (chosen,), cache = question.designs([name], architecture)
    from pregate.ask.calibration_summary import describe_calibration
    from pregate.ask.ranked_designs import kept_in_view
    from pregate.ask.routing_source import describe_routing
    from pregate.ask.simulation import simulate as run_simulate

    with spinner("simulating") as update:
        update(chosen.name)
        workload = question.trace_of(chosen, architecture, machine, workload, cache)
        result = run_simulate(
            architecture,
            machine,
            workload,
            chosen,
            cache=cache,
            expert_tier=question.tier,
            engine=question.engine,
            modes=build_modes(question.modes),
            check=question.check,
            timeline=True if timeline is not None or gantt is not None else None,
        )
        if result.timeline is not None:
            write_timelines(result.timeline, result.policy, timeline, gantt, update)
    if not render.print_data(question.format, result.to_dict(), [result.to_dict()]):
        render.print_table(render.result_table(result))
        print(f"Machine constants: {describe_calibration(machine, architecture, [result], [chosen])}.")
        print(f"Routing: {describe_routing(architecture, workload, [result])}.")
        if in_view := kept_in_view(workload, [chosen], cache):
            print(in_view)
        if question.check:
            print(options.CHECKED)
    say_written(timeline, gantt)
