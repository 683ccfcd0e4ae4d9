"""``tvmfbnet arch``: what one arch is made of and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tvmfbnet.cli.output import SPACE_HELP, JsonFlag, print_json, print_table
from tvmfbnet.cli.tables import TABLE_METAVAR, DeviceModelOption, space_table

if TYPE_CHECKING:
    from tvmfbnet.latency.table import LatencyTable
    from tvmfbnet.space.arch import Arch
    from tvmfbnet.space.space import Space

app = typer.Typer(
    help=(
        "Archs: one block per layer, blocks joined by `,` and stages by `/`, as in k3_e1,skip/k5_e3_se. "
        "A block is k<kernel>_e<expansion>, with _g<groups> where its 1x1 convs are grouped, _se for "
        "squeeze-and-excitation, "
        "_hswish or _swish for another activation than ReLU; skip leaves the layer out."
    ),
    no_args_is_help=True,
)


@app.command("describe")
def describe_command(
    arch: Annotated[str, typer.Argument(help="Arch string, or a published net: fbnet_a, fbnet_c.")],
    space: Annotated[str, typer.Option(help=SPACE_HELP)] = "fbnet",
    target: Annotated[str | None, typer.Option(help="Predict its latency here: a name or a .yaml file.")] = None,
    latency_table: Annotated[
        str | None,
        typer.Option(
            metavar=TABLE_METAVAR, help="Predict it from this table instead, or simulate: simulated:gflops=16,gbps=8."
        ),
    ] = None,
    device_model: DeviceModelOption = None,
    tuning_logs: Annotated[Path | None, typer.Option(help="Folder of all targets' measurements.")] = None,
    last_channels: Annotated[int | None, typer.Option(min=1, max=65536, help="Width of the head's 1x1 conv.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show an arch layer by layer: parameters, MACs and, with a target or table, predicted latency.

    Example: tvmfbnet arch describe fbnet_c --space fbnet --latency-table pixel3.csv
    """
    from tvmfbnet.advice import note
    from tvmfbnet.errors import UserError
    from tvmfbnet.space.arch_text import resolve_arch
    from tvmfbnet.space.counts import describe_arch
    from tvmfbnet.space.registry import load_space

    if target is not None and latency_table is not None:
        raise UserError("give either --target or --latency-table, not both")
    chosen, sized = resolve_arch(arch, load_space(space))
    if last_channels is not None:
        sized = sized.with_last_channels(last_channels)
    description = describe_arch(chosen, sized)
    note(space=space)
    if target is not None or latency_table is not None:
        parts = sized.parts_of(chosen)
        table = space_table(sized, target, latency_table, tuning_logs, device_model, parts=parts, named=space)
        _add_latency(description, table, chosen, sized)
    if as_json:
        print_json(description)
    else:
        _print(description)


@app.command("export")
def export_command(
    arch: Annotated[str, typer.Argument(help="Arch string, or a published net: fbnet_a, fbnet_c.")],
    out: Annotated[
        Path, typer.Option(help="File to write: .onnx, .pt2 (torch.export), or .safetensors (weights by timm's names).")
    ],
    space: Annotated[str, typer.Option(help=SPACE_HELP)] = "fbnet",
    checkpoint: Annotated[Path | None, typer.Option(help="Trained weights (net.pt); random ones if not given.")] = None,
    features_only: Annotated[
        bool, typer.Option("--features-only", help="Without its head: the last feature map of each resolution.")
    ] = False,
) -> None:
    """Write a net for use outside of this package.

    Example: tvmfbnet arch export fbnet_c --space fbnet --checkpoint training/net.pt --out net.onnx
    """
    from tvmfbnet.api.network import build_network
    from tvmfbnet.deploy.net_files import require_form, write_net
    from tvmfbnet.nets.features import FeatureNet

    require_form(out)
    net = build_network(arch, space, checkpoint=checkpoint)
    write_net(FeatureNet(net) if features_only else net, out)
    print(f"net in {out}")


def _add_latency(description: dict[str, Any], table: LatencyTable, arch: Arch, space: Space) -> None:
    """Adds the predicted latency of the net and of its layers."""
    description["predicted_ms"] = table.arch_ms(arch, space)
    if table.correction:
        description["correction"] = table.correction
    shares = table.source_shares(arch, space)
    description["measured_share"] = shares["measured"]
    description["source_shares"] = shares
    for row, (_, part) in zip(description["layers"], space.cells_of(arch), strict=True):
        cell = table.lookup(part)
        row.update(latency_ms=cell.latency_ms, source=cell.source)


def _print(description: dict[str, Any]) -> None:
    from tvmfbnet.latency.units import latency_text, unit_for

    timed = "predicted_ms" in description
    unit = unit_for(row.get("latency_ms") for row in description["layers"])
    rows = []
    for row in description["layers"]:
        shape = [f"{row['cin']}-{row['cout']}", f"{row['height']}x{row['width']}", row["stride"]]
        counts = [f"{row['params'] / 1e3:.1f}", f"{row['macs'] / 1e6:.2f}"]
        cost = [unit.number(row["latency_ms"]), row["source"] if row["latency_ms"] else "free"] if timed else []
        rows.append([row["index"], row["block"], *shape, *counts, *cost])
    columns = ["layer", "block", "channels", "input, pixels", "stride", "params, thousands", "MACs, millions"]
    print_table("", columns + ([f"latency, {unit.name}", "source"] if timed else []), rows)
    print(f"arch {description['arch']}")
    head = f"last_channels {description['last_channels']}"
    print(f"{description['params']:,} parameters, {description['macs']:,} MACs ({head})")
    if timed:
        shares = description["source_shares"].items()
        parts = ", ".join(f"{share:.0%} of it {source}" for source, share in shares if share > 0)
        corrected = "; corrected by what whole nets took" if "correction" in description else ""
        print(f"predicted latency {latency_text(description['predicted_ms'])}, {parts}{corrected}")
