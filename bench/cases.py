"""The merge's cases, one for every row of its table of figures to reach."""

from dataclasses import replace

from hico.bench import accuracy, check, inputs, providers
from hico.bench.case import OURS, Case, Form, Traffic
from hico.bench.inputs import Shape
from hico.bench.limits import Limit

# ---- bytes: e for an element; assign and anchor are int64, sizes int32; outputs are written once


def slots_bytes(s: Shape) -> int:
    """tokens B*M*C*e + sizes B*M*4 + anchors B*M*8 + assign B*N*8."""
    return s.B * s.M * (s.C * s.dtype.itemsize + 4 + 8) + s.B * s.N * 8


def merge_traffic(s: Shape) -> Traffic:
    """x B*N*C*e once (to make the metric and the groups in one pass) or twice, and the outputs."""
    x = s.B * s.N * s.C * s.dtype.itemsize
    return Traffic(x + slots_bytes(s), 2 * x + slots_bytes(s))


def given_traffic(s: Shape) -> Traffic:
    """x B*N*C*e, the fp32 metric B*N*D*4, and the outputs."""
    return Traffic(s.B * s.N * (s.C * s.dtype.itemsize + s.D * 4) + slots_bytes(s))


def block_traffic(s: Shape) -> Traffic:
    """x B*N*C*e, the metric B*N*D*e, and the outputs."""
    return Traffic(s.B * s.N * (s.C + s.D) * s.dtype.itemsize + slots_bytes(s))


def norm_traffic(s: Shape) -> Traffic:
    """x and y B*N*C*e each, the fp32 metric B*N*D*4; the saved statistics are not counted."""
    return Traffic(s.B * s.N * (2 * s.C * s.dtype.itemsize + s.D * 4))


def backward_traffic(s: Shape) -> Traffic:
    """dx B*N*C*e written; dy B*M*C*e, sizes B*M*4 and assign B*N*8 read."""
    e = s.dtype.itemsize
    return Traffic(s.B * s.N * (s.C * e + 8) + s.B * s.M * (s.C * e + 4))


# ---- the table of issue 2: shapes and figures as written there

CLIPS = Shape(2500, 784, 1024, 64, 16)
FULL_VIDEO = Shape(1000, 3136, 1024, 64, 16)
INTERN_VIDEO = Shape(2500, 1024, 1408, 64, 16)
FEW_CLIPS = Shape(16, 784, 1024, 64, 16)
VIT_BLOCK = Shape(128, 197, 768, 181, 12)
SMALL = Shape(3, 49, 32, 8, 2)

CASES = (
    Case(
        name="clips",
        title="merge_tokens, standalone",
        shape=CLIPS,
        small=SMALL,
        inputs=inputs.only_tokens,
        ours=(
            Form(OURS, providers.merge_ours, check.against(check.exact_merge)),
            Form(
                "hico, by position",
                providers.merge_by_position,
                check.against(check.exact_by_position),
            ),
        ),
        plain=(Form("eager", providers.merge_eager),),
        traffic=merge_traffic,
        must=Limit(3.0),
        target=Limit(2.6),
        memory=(0.9e9, 0.5e9),
        extra=("accuracy", accuracy.accuracy_row),
    ),
    Case(
        name="clips_metric",
        title="merge_tokens, metric given",
        shape=CLIPS,
        small=SMALL,
        inputs=inputs.with_metric,
        ours=(Form(OURS, providers.given_ours, check.against(check.exact_merge)),),
        plain=(Form("eager", providers.given_eager),),
        traffic=given_traffic,
        must=Limit(2.1),
        target=Limit(1.7),
    ),
    Case(
        name="clips_448",
        title="merge_tokens, standalone",
        shape=FULL_VIDEO,
        small=replace(SMALL, N=98),
        inputs=inputs.only_tokens,
        ours=(Form(OURS, providers.merge_ours, check.against(check.exact_merge)),),
        plain=(Form("eager", providers.merge_eager),),
        traffic=merge_traffic,
        must=Limit(2.0, "x two-read floor"),
        target=Limit(1.5, "x two-read floor"),
    ),
    Case(
        name="clips_intern",
        title="merge_tokens, standalone, InternVideo2",
        shape=INTERN_VIDEO,
        small=replace(SMALL, N=64, C=44),
        inputs=inputs.only_tokens,
        ours=(Form(OURS, providers.merge_ours, check.against(check.exact_merge)),),
        plain=(Form("eager", providers.merge_eager),),
        traffic=merge_traffic,
        must=Limit(2.0, "x two-read floor"),
        target=Limit(1.5, "x two-read floor"),
    ),
    Case(
        name="few_clips",
        title="merge_tokens, standalone, CUDA graph",
        shape=FEW_CLIPS,
        small=replace(SMALL, B=2),
        inputs=inputs.only_tokens,
        ours=(Form(OURS, providers.merge_ours, check.against(check.exact_merge)),),
        plain=(Form("eager", providers.merge_eager),),
        traffic=merge_traffic,
        must=Limit(0.12),
        target=Limit(0.08),
        graph=True,
    ),
    Case(
        name="vit_block",
        title="merge_tokens, r = 16, class token, metric given, CUDA graph",
        shape=VIT_BLOCK,
        small=Shape(2, 33, 24, 29, 3),
        inputs=inputs.with_keys,
        ours=(Form(OURS, providers.block_ours, check.against(check.exact_block)),),
        plain=(Form("eager", providers.block_eager),),
        traffic=block_traffic,
        must=Limit(0.06),
        target=Limit(0.04),
        graph=True,
    ),
    Case(
        name="layer_norm",
        title="layer_norm_metric",
        shape=CLIPS,
        small=SMALL,
        inputs=inputs.with_affine,
        ours=(Form(OURS, providers.norm_ours, check.against(check.exact_norm)),),
        plain=(
            Form("eager", providers.norm_eager),
            Form("eager, all of it", providers.norm_two_passes),
        ),
        traffic=norm_traffic,
        must=Limit(1.15, "x eager"),
        target=Limit(1.08, "x eager"),
        compiled="eager, all of it",
    ),
    Case(
        name="backward",
        title="merge_tokens, backward alone",
        shape=CLIPS,
        small=SMALL,
        inputs=inputs.with_gradient,
        ours=(Form(OURS, providers.merge_ours, check.against(check.exact_backward)),),
        plain=(Form("eager", providers.merge_eager),),
        traffic=backward_traffic,
        must=Limit(1.3, "x floor"),
        target=Limit(1.1, "x floor"),
        backward=True,
    ),
)
