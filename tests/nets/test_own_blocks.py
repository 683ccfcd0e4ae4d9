"""Blocks of a user's own: those that the guide shows are counted, built, searched and exported like shipped ones."""

import sys

import pytest
import torch
from shown_files import shown_files
from torch import nn

from tvmfbnet.errors import ArchError, ConfigError, ConstraintError, MissingBlockError, UserError
from tvmfbnet.latency.table import LatencyTable
from tvmfbnet.nets.bn_folding import fold_bn, randomise_bn
from tvmfbnet.nets.network import build_net
from tvmfbnet.nets.own_blocks import block, randomise_constants
from tvmfbnet.nets.supernet import Supernet
from tvmfbnet.search.cost_model import CostSources
from tvmfbnet.search.quantities import QUANTITIES
from tvmfbnet.space import block_files, own_blocks
from tvmfbnet.space.arch_text import format_arch, parse_arch
from tvmfbnet.space.blocks import is_known, parse_block
from tvmfbnet.space.choice import choose_parts
from tvmfbnet.space.counts import count_arch, count_part
from tvmfbnet.space.registry import load_space
from tvmfbnet.space.space import content_key

ARCH = "convnext/attention"


@pytest.fixture(autouse=True)
def _nothing_registered(monkeypatch):
    monkeypatch.setattr(own_blocks, "_REGISTERED", {})
    monkeypatch.delenv(block_files.ENVIRONMENT, raising=False)
    block_files._load_listed.cache_clear()


@pytest.fixture
def folder(tmp_path):
    """With the files that the guide shows."""
    for name, content in shown_files("docs/how-to/own-blocks.md").items():
        (tmp_path / name).write_text(content)
    return tmp_path


@pytest.fixture
def space(folder):
    return load_space(str(folder / "own.yaml"))


def rewrite(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_parameters_are_those_of_the_module_and_macs_those_of_its_convs_and_products(space):
    arch = parse_arch(ARCH, space)
    net = build_net(arch, space)
    assert count_arch(arch, space).params == sum(parameter.numel() for parameter in net.parameters())
    convnext, attention = (part for part in space.parts_of(arch) if part.part == "block")
    assert (convnext.cin, convnext.cout, convnext.height, convnext.stride) == (16, 16, 14, 2)
    assert count_part(convnext).macs == 49 * (16 * 49 + 2 * 16 * 64)
    pixels, channels = 49, 16
    assert count_part(attention).macs == pixels * 4 * channels**2 + 2 * pixels**2 * channels


def test_odd_convs_and_products_are_counted_to_the_unit():
    class Odd(nn.Module):
        def __init__(self, cin, cout, stride):
            super().__init__()
            self.row = nn.Conv2d(cin, cin, (1, 7), padding=(0, 3), groups=cin)
            self.down = nn.Conv2d(cin, cout, 3, 2)  # without padding
            self.up = nn.ConvTranspose2d(cout, cout, 2, 2)
            self.mix = nn.Linear(cout, cout, bias=False)

        def forward(self, x):
            y = self.up(self.down(self.row(x)))  # 9 -> 4 -> 8
            y = nn.functional.pad(y, (0, 1, 0, 1))
            return self.mix(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    block("odd")(Odd)
    part = own_part("odd", 4, 8, 9)
    macs = 81 * 7 * 4 + 16 * 9 * 4 * 8 + 16 * 4 * 8 * 8 + 81 * 8 * 8
    assert count_part(part).macs == macs
    assert count_part(part).params == sum(parameter.numel() for parameter in Odd(4, 8, 1).parameters())


def own_part(name, cin, cout, size, stride=1):
    from tvmfbnet.space.space import NetPart

    return NetPart("block", parse_block(name).name, cin, cout, size, size, stride)


def test_a_block_that_reads_values_while_it_is_built_is_counted_as_well():
    @block("reads")
    def reads(cin, cout, stride):
        width = int(torch.linspace(1, cin, 4)[-1])  # impossible without memory
        return nn.Conv2d(width, cout, 1, stride)

    assert count_part(own_part("reads", 4, 8, 6)).macs == 36 * 4 * 8


def test_its_name_changes_with_code_and_with_nothing_else(folder):
    first = load_space(str(folder / "own.yaml"))
    source = folder / "my_blocks.py"
    rewrite(source, '    """Layer norm over the channels of each pixel."""\n', "    # The same, in other words.\n")
    second = load_space(str(folder / "own.yaml"))
    assert second == first and content_key(second) == content_key(first)
    rewrite(source, "F.gelu", "F.silu")
    third = load_space(str(folder / "own.yaml"))
    assert content_key(third) != content_key(first)
    assert not {part for part in first.distinct_blocks() if "@" in part.block} & set(third.distinct_blocks())
    # The short name means the current one; what has the full name of the one before is still understood here.
    assert parse_arch(ARCH, third).blocks[0] == third.layers[0].blocks[1]
    assert parse_block(first.layers[0].blocks[1]).name == first.layers[0].blocks[1]
    assert parse_arch(format_arch(parse_arch(ARCH, third), third), third) == parse_arch(ARCH, third)


def test_a_file_that_was_read_before_is_the_current_one_again(folder):
    (folder / "older.py").write_text((folder / "my_blocks.py").read_text().replace("F.gelu", "F.silu"))
    rewritten = (folder / "own.yaml").read_text().replace("my_blocks.py", "older.py")
    (folder / "older.yaml").write_text(rewritten)
    spaces = [load_space(str(folder / name)) for name in ("own.yaml", "older.yaml", "own.yaml")]
    assert spaces[0].layers == spaces[2].layers != spaces[1].layers


def test_its_name_changes_with_the_users_modules_that_it_imports(tmp_path, monkeypatch):
    names = []
    for value in ("1", "2"):
        place = tmp_path / value
        (place / "helpers_of_mine").mkdir(parents=True)
        (place / "helpers_of_mine/__init__.py").write_text("from helpers_of_mine.sizes import KERNEL\n")
        (place / "helpers_of_mine/sizes.py").write_text(f"KERNEL = 2 * {value} + 1\n")
        (place / "blocks.py").write_text(
            "from helpers_of_mine import KERNEL\nfrom torch import nn\nimport tvmfbnet as tf\n"
            "@tf.block('helped')\ndef helped(cin, cout, stride):\n"
            "    return nn.Conv2d(cin, cout, KERNEL, stride, KERNEL // 2)\n"
        )
        for name in [name for name in sys.modules if name.startswith("helpers_of_mine")]:
            monkeypatch.delitem(sys.modules, name)
        block_files.load_block_files(["blocks.py"], place)
        names.append(parse_block("helped").name)
        assert count_part(own_part("helped", 4, 4, 8)).params == 16 * (2 * int(value) + 1) ** 2 + 4
    assert names[0] != names[1]
    for name in [name for name in sys.modules if name.startswith("helpers_of_mine")]:
        del sys.modules[name]


def test_a_block_that_is_not_defined_or_changed_is_told(folder, monkeypatch):
    name = load_space(str(folder / "own.yaml")).layers[0].blocks[1]
    monkeypatch.setattr(own_blocks, "_REGISTERED", {})
    with pytest.raises(
        MissingBlockError, match=r"no block convnext is registered here; name the Python file .*BLOCK_FILES"
    ):
        parse_block(name)
    assert not is_known(name)
    monkeypatch.setenv(block_files.ENVIRONMENT, str(folder / "my_blocks.py"))
    block_files._load_listed.cache_clear()
    for module in [module for module in sys.modules if module.startswith("tvmfbnet_blocks_my_blocks")]:
        monkeypatch.delitem(sys.modules, module)
    assert parse_block(name).label == "convnext"  # as in a worker process
    with pytest.raises(
        MissingBlockError, match=r"block convnext was changed since, and is convnext@[0-9a-f]{8} in .*my_blocks"
    ):
        parse_block("convnext@00000000")


def test_bad_names_and_builders_are_refused_in_one_line(tmp_path):
    for name in ("k3_e1", "skip", "Mine", "9lives", "a@b"):
        with pytest.raises(UserError, match="bad name"):
            block(name)
    with pytest.raises(UserError, match="kernel is odd"):
        block("even", kernel=4)
    with pytest.raises(UserError, match=r"its source is in no \.py file"):
        exec("@block('nowhere')\ndef nowhere(cin, cout, stride): ...", {"block": block})
    faults = {
        "raises": ("raise ValueError('only on\\nSundays')", "ValueError: only on Sundays"),
        "no_module": ("return 3", "its builder gives int, not a torch.nn.Module"),
        "wrong_shape": ("return nn.Conv2d(cin, cout, 3)", r"gives \[1, 4, 2, 2\] where \[1, 4, 4, 4\] is wanted"),
        "wrong_input": ("return nn.Conv2d(cin + 1, cout, 1)", "RuntimeError"),
        "pair": ("return nn.AdaptiveMaxPool2d(2, return_indices=True)", "gives tuple, not one tensor"),
        "no_conv": ("return nn.BatchNorm2d(cin)", "has weights, but no convolution"),
    }
    space = "input: {channels: 1, height: 8, width: 8}\nclasses: 2\nstem: {channels: 4, stride: 2}\n"
    space += "stages: [{channels: 4, layers: 1}]\nlast_channels: 8\nblock_files: [blocks.py]\n"
    for name, (body, said) in faults.items():
        code = f"@tf.block('{name}')\ndef build(cin, cout, stride):\n    {body}\n"
        (tmp_path / "blocks.py").write_text(f"import tvmfbnet as tf\nfrom torch import nn\n{code}")
        (tmp_path / "bad.yaml").write_text(f"{space}blocks: [k3_e1, {name}]\n")
        with pytest.raises(ConfigError, match=said) as error:
            load_space(str(tmp_path / "bad.yaml"))
        assert "\n" not in str(error.value) and "stages.0" in str(error.value)


def test_a_bad_file_of_blocks_is_told_with_its_line(tmp_path):
    cases = {
        "a.py": ("x = 1\nx.y\n", "fails in line 2: AttributeError"),
        "b.py": ("a b\n", "fails in line 1: SyntaxError"),
        "d.py": ("import sys\nsys.exit(0)\n", "fails in line 2: SystemExit"),
    }
    for name, (code, said) in cases.items():
        (tmp_path / name).write_text(code)
        with pytest.raises(UserError, match=said):
            block_files.load_block_files([name], tmp_path)
    with pytest.raises(UserError, match="not a Python file"):
        block_files.load_block_files(["c.txt"], tmp_path)
    with pytest.raises(UserError, match=r"missing\.py"):
        block_files.load_block_files(["missing.py"], tmp_path)


def test_the_supernet_runs_it_with_its_own_initialisation_and_gives_theta_a_gradient(space):
    torch.manual_seed(0)
    supernet = Supernet(space)
    layer = supernet.layers[1]
    assert layer.blocks[1].norm.weight.eq(1).all()
    mix = torch.full((2, 3), 1 / 3, requires_grad=True)
    supernet(torch.randn(2, 1, 28, 28), mix).square().sum().backward()
    assert mix.grad.abs().min() > 0 and layer.blocks[1].qkv.weight.grad.abs().sum() > 0


def test_its_latency_is_simulated_and_chosen_by_its_short_name(space):
    table = LatencyTable.load("simulated:gflops=16,gbps=8,call_us=5", space)
    times = [table.arch_ms(parse_arch(arch, space), space) for arch in (ARCH, "k3_e1/k3_e1")]
    assert times[0] > times[1]
    chosen = choose_parts(space, "convnext")
    assert [part.block.partition("@")[0] for part in chosen if part.part == "block"] == ["convnext"]


def test_batch_norms_of_sequences_are_folded_and_constants_randomised():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Sequential(nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5))
    )
    randomise_bn(net, seed=1)
    x = torch.randn(2, 3, 8, 8)
    folded = fold_bn(net)
    assert not any(isinstance(child, nn.BatchNorm2d) for child in folded.modules())
    torch.testing.assert_close(folded(x), net.eval()(x), rtol=1e-4, atol=1e-5)
    norm = nn.LayerNorm(8)
    randomise_constants(norm)
    assert norm.weight.unique().numel() == norm.bias.unique().numel() == 8


def test_a_builder_that_the_space_never_asked_for_says_why(space):
    with pytest.raises(ArchError, match="attention keeps channels and size"):
        count_part(own_part("attention", 16, 32, 8))


@pytest.mark.parametrize("quantity", ["size", "peak_memory"])
def test_bytes_that_only_the_compiler_knows_are_not_bounded(space, quantity):
    with pytest.raises(ConstraintError, match=f"a bound on {quantity} is not for blocks of your own.*: attention@"):
        QUANTITIES[quantity].build(CostSources(space, None))
