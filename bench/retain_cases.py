"""The retention cases, one for every row of its table of figures to reach."""

from dataclasses import replace

from hico.bench import retain_check as check
from hico.bench import retain_inputs as inputs
from hico.bench import retain_providers as providers
from hico.bench.case import OURS, Case, Form, Traffic
from hico.bench.limits import Limit
from hico.bench.retain_inputs import Queries, Ranking, Scores

# ---- bytes and operations: e for an element


def ranking_traffic(s: Ranking) -> Traffic:
    """Hidden states C*e, keys kv_heads*D*e, cos and sin 2*D*e a token; kept ones read, written."""
    a_token = (s.C + s.kv_heads * s.D + 2 * s.D) * s.dtype.itemsize
    return Traffic(sum(s.lengths) * a_token + 2 * sum(s.kept) * s.C * s.dtype.itemsize)


def select_traffic(s: Scores) -> Traffic:
    """Scores N*e read, indices k*8 written."""
    return Traffic(s.N * s.dtype.itemsize + s.k * 8)


def query_flops(s: Queries) -> tuple[int, int]:
    """heads*M*N*D multiply-adds a product: ours makes two, the softmax's sums being first."""
    product = 2 * s.heads * s.M * s.N * s.D
    return 2 * product, product


# ---- Qwen2-7B, a quarter of the tokens kept

QWEN = Ranking(160256, 3584, 28, 4, 128)
SMALL = Ranking(64, 48, 4, 2, 16)
MANY = Queries(64, 131072, 28, 4, 128)
SMALL_MANY = Queries(5, 40, 4, 2, 16)
PLAIN = (
    Form("floor", providers.floor),
    Form("part: keys", providers.keys),
    Form("part: keys, score", providers.keys_and_score),
    Form("lean PyTorch", providers.lean),
    Form("published, no mask", providers.published_unmasked),
    Form("published, with mask", providers.published),
)

CASES = (
    Case(
        name="keep_16k",
        title="score, select, compact",
        shape=replace(QWEN, N=16384),
        small=SMALL,
        inputs=inputs.before_a_layer,
        ours=(Form(OURS, providers.ours, check.one_row),),
        plain=PLAIN,
        traffic=ranking_traffic,
        must=Limit(0.30),
        target=Limit(0.20),
        graph=True,
        compiled="lean PyTorch",
    ),
    Case(
        name="keep_64k",
        title="score, select, compact",
        shape=replace(QWEN, N=65536),
        small=replace(SMALL, N=33),
        inputs=inputs.before_a_layer,
        ours=(Form(OURS, providers.ours, check.one_row),),
        plain=PLAIN,
        traffic=ranking_traffic,
        must=Limit(0.80),
        target=Limit(0.60),
        graph=True,
        compiled="lean PyTorch",
    ),
    Case(
        name="keep_160k",
        title="score, select, compact",
        shape=QWEN,
        small=replace(SMALL, N=96),
        inputs=inputs.before_a_layer,
        ours=(Form(OURS, providers.ours, check.one_row),),
        plain=PLAIN,
        traffic=ranking_traffic,
        must=Limit(1.5, "x floor"),
        target=Limit(1.3),
        memory=(0.6e9, 0.6e9),
        graph=True,
        compiled="lean PyTorch",
    ),
    Case(
        name="keep_ragged",
        title="score, select, compact of a padded batch",
        shape=replace(QWEN, N=16384, B=8, ragged=True),
        small=replace(SMALL, N=48, B=3, ragged=True),
        inputs=inputs.ragged,
        ours=(Form(OURS, providers.ours_ragged, check.ragged),),
        plain=(Form("one row", providers.one_row), Form("lean PyTorch", providers.lean_rows)),
        traffic=ranking_traffic,
        must=Limit(1.2, "x one row"),
        graph=True,
        compiled=None,
    ),
    Case(
        name="select",
        title="select alone",
        shape=Scores(160256),
        small=Scores(100),
        inputs=inputs.attention_like,
        ours=(Form(OURS, providers.select, check.chosen),),
        plain=(Form("topk + sort", providers.topk_sort),),
        traffic=select_traffic,
        must=Limit(0.10),
        target=Limit(0.06),
        graph=True,
        compiled="topk + sort",
    ),
    Case(
        name="queries_64",
        title="attention_score, 64 query rows",
        shape=MANY,
        small=SMALL_MANY,
        inputs=inputs.queries_and_keys,
        ours=(Form(OURS, providers.column_means, check.column_means),),
        plain=(Form("eager", providers.all_weights),),
        flops=query_flops,
        must=Limit(0.6),
        graph=True,
    ),
    Case(
        name="queries_512",
        title="attention_score, 512 query rows",
        shape=replace(MANY, M=512),
        small=replace(SMALL_MANY, M=70),
        inputs=inputs.queries_and_keys,
        ours=(Form(OURS, providers.column_means, check.column_means),),
        plain=(Form("eager", providers.all_weights),),
        flops=query_flops,
        must=Limit(4.0),
        graph=True,
    ),
)
